"""`recalign tokenize`: semantic ids of a log's items."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recalign.data.events import render
from recalign.data.events.audit import Section
from recalign.data.events.items import log_ids
from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.files import write_json
from recalign.recommender.semantic_ids import quality
from recalign.recommender.semantic_ids.codes import CodesTable
from recalign.recommender.semantic_ids.quantization import Collisions, append_codes, described, quantize
from recalign.recommender.semantic_ids.vectors import Cooccurrence, ItemVectors, matrix

CODES, REPORT = "codes.parquet", "tokens.json"
FREE = 0.2
"""Share of the ids that stay free where no sizes are given."""
LARGEST = 2**62
"""Ids must be fewer, so that each has a number."""


def tokenize(
    *,
    data: EventDataModule,
    vectors: ItemVectors = Cooccurrence(),  # noqa: B008 (never changed, so safe to share)
    sizes: list[int] | None = None,
    collisions: Collisions = "assign",
    balance: float | None = None,
    normalise: bool = True,
    append: Path | None = None,
    allow_collapsed: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Write each item of a log as a few codes: codes.parquet, and tokens.json about it.

    Args:
        data: the log; name its YAML: recalign tokenize ml-100k.
        vectors: the source of item vectors: Cooccurrence or ParquetVectors of recalign.recommender.semantic_ids,
            recalign.recommender.RecommenderVectors or recalign.serve.export.BundleVectors.
        sizes: codes of each level, such as [64, 32]; null: two equal levels that leave a fifth of the ids free.
        collisions: what keeps ids unique: assign (none arises), relocate (to the nearest free id) or token (one more
            code).
        balance: the most items of a code of any level but the last, in multiples of an even share; null: no limit. With
            ``relocate``, items that move may exceed it.
        normalise: whether vectors are made as long as each other.
        append: a codes.parquet whose ids stay; items of the source that have none get free ones. Its sizes hold.
        allow_collapsed: whether ids of a collapsed codebook are written all the same.
        seed: of the k-means.
        out: the folder to write to; null: runs/<log>/tokens/seed-<seed>.

    Returns:
        The path of codes.parquet.

    Raises:
        InputError: vectors or settings cannot be used, there are more items than ids, or the codebook has collapsed.
    """
    _check_settings(sizes, balance, append)
    out, log = out or Path("runs") / data.log_.name / "tokens" / f"seed-{seed}", data.log_.name
    if append is None and (version := _published(out / CODES)) > 1:
        text = f"items were appended to these ids (version {version}); making them anew would move ids"
        remedy = "move the file elsewhere first; recalign tokenize can also write to another --out, or --append"
        raise InputError(text, where=str(out / CODES), remedy=remedy)
    source, table = type(vectors).__name__, vectors.table(data)
    if append is None:
        items = data.sequences.items
        x_ND = matrix(table, items, normalise, source)
        found = quantize(x_ND, tuple(sizes or _sizes(len(items))), collisions, balance, seed)
        before, codes_NL = CodesTable.empty(items, found.sizes, log, collisions == "token"), found.codes_NL
    else:
        before = CodesTable.read(append)
        before.require_log(log, str(append))
        before = replace(before, log=log)
        items = _with_new(before, data.sequences.items, table["item"], str(append))
        x_ND = matrix(table, items, normalise, source)
        codes_NL = append_codes(x_ND, before.codes_NL, before.sizes)
        found = described(x_ND, codes_NL, before.sizes, before.numbered)
    old = len(before.items)
    codes = before.appended(items[old:], codes_NL[old:])
    if append is not None:
        _require_kept(codes, out / CODES)
    said: dict[str, Any] = {"log": log, "vectors": source, "version": codes.version, "new": len(items) - old}
    said |= quality.figures(x_ND, found)
    titles = items.replace_strict(data.sequences.items, data.titles, default=items.cast(pl.String))
    said |= {"examples": quality.examples(x_ND, found, titles)}
    print("\n\n".join([render(sections(said)), *_shown(said["examples"])]))
    if said["defects"] and not allow_collapsed:
        remedy = (
            f"give other vectors{'' if append else ' or sizes'}; --allow_collapsed true writes these ids all the same"
        )
        raise InputError(f"the codebook has collapsed: {'; '.join(said['defects'])}", where=source, remedy=remedy)
    codes.write(out / CODES)
    write_json(out / REPORT, said)
    print(f"\n{out / CODES}\n{out / REPORT}")
    return out / CODES


def sections(said: dict[str, Any]) -> dict[str, Section]:
    """The figures of tokens.json as sections of text, for the terminal and a report."""
    near = said["nearest"]
    summary: Section = {
        "items": said["items"],
        "of them new": said["new"],
        "version": said["version"],
        "free ids": said["free"],
        "reconstruction error (0: exact, 1: nothing)": said["reconstruction_error"],
        "items that have another id than the nearest": said["moved"],
    }
    nearest: Section = {
        "distinct ids": near["distinct"],
        "distinct ids if they were random": round(near["distinct_if_random"]),
        "share of items with an id of their own": near["unique_share"],
        "items of the fullest id": near["largest_bucket"],
    }
    levels: dict[str, Section] = {
        f"code_{number}: {level['size']:,} codes": {
            "share in use": level["used_share"],
            f"nats of entropy, of {level['of_nats']:.3f}": level["entropy_nats"],
            "items of the most frequent code": level["largest"],
        }
        for number, level in enumerate(said["levels"])
    }
    title = f"semantic ids of {said['log']} from {said['vectors']}: {said['verdict']}"
    return {title: summary, "nearest ids, before they are made unique": nearest, **levels}


def _shown(examples: list[dict[str, Any]]) -> list[str]:
    """Examples as paragraphs."""
    return [
        f"code_0 = {one['code_0']}: {one['items']} items, spread {one['spread']:.2f}\n  " + "\n  ".join(one["titles"])
        for one in examples
    ]


def _require_kept(codes: CodesTable, path: Path) -> None:
    """Refuse to replace ids that were appended before by others of the same items."""
    if _published(path) <= 1:
        return
    there, now = CodesTable.read(path, altered=True), dict(_texts(codes))
    if any(now.get(item) != own for item, own in _texts(there)):
        text = f"items were appended to these ids (version {there.version}), and some would move"
        remedy = f"go on from them (--append {path}), or write to another --out"
        raise InputError(text, where=str(path), remedy=remedy)


def _texts(codes: CodesTable) -> Iterator[tuple[str, list[int]]]:
    return zip(codes.items.cast(pl.String), codes.codes_NL.tolist(), strict=True)


def _published(path: Path) -> int:
    """The version of the ids that a file holds, altered or not; 0 for no file, or one that cannot be read."""
    with suppress(InputError):
        return CodesTable.read(path, altered=True).version
    return 0


def _with_new(before: CodesTable, catalogue: pl.Series, available: pl.Series, where: str) -> pl.Series:
    """The items that have ids, then the others of the source and of the catalogue.

    Raises:
        InputError: an item that has an id is no longer there.
    """
    old = log_ids(before.items, catalogue)
    gone = before.items.filter(~old.is_in(available.implode()).fill_null(False))
    if len(gone):
        text = f"{len(gone):,} of its {len(old):,} items have no vector any more, such as {gone[0]!r}"
        remedy = "ids are added to a catalogue that has grown: give vectors of the old items too, or make new ids"
        raise InputError(text, where=where, remedy=remedy)
    every = pl.concat([catalogue, available]).unique(maintain_order=True)
    new = every.filter(~every.is_in(old.implode()))
    if len(other := new.filter(new.cast(before.items.dtype, strict=False).is_null())):
        what = f"the new item {other[0]!r} cannot be an id of this file, whose ids are {before.items.dtype}"
        raise InputError(what, where=where, remedy="make ids again without --append, or give all items ids of one type")
    return pl.concat([old, new]).alias("item")


def _sizes(items: int) -> tuple[int, int]:
    """Two equal levels that leave a fifth of the ids free."""
    size = max(2, math.ceil(math.sqrt(items / (1 - FREE))))
    return size, size


def _check_settings(sizes: list[int] | None, balance: float | None, append: Path | None) -> None:
    if sizes is not None and append is not None:
        raise InputError("the sizes are those of the ids that stay", where="sizes", remedy="leave them out")
    if balance is not None and append is not None:
        raise InputError("ids that are appended take what is free", where="balance", remedy="leave it out")
    if sizes is not None and (len(sizes) < 2 or min(sizes) < 2 or math.prod(sizes) >= LARGEST):
        remedy = "give two or three numbers of at least 2, such as [64, 32], whose product is below 2^62"
        raise InputError(f"{sizes} cannot be the sizes of the levels", where="sizes", remedy=remedy)
    if balance is not None and not balance >= 1:
        raise InputError(f"{balance} is less than an even share", where="balance", remedy="give 1 or more, or null")
