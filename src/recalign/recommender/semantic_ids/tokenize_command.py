"""`recalign tokenize`: semantic ids of a log's items."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recalign.data.events import render
from recalign.data.events.items import log_ids
from recalign.data.sequences import EventDataModule
from recalign.errors import InputError
from recalign.files import write_json
from recalign.nn.onerec_trie import MAX_IDS
from recalign.recommender.semantic_ids import quality
from recalign.recommender.semantic_ids.codes import CodesTable
from recalign.recommender.semantic_ids.quantization import Collisions, append_codes, described, quantize
from recalign.recommender.semantic_ids.vectors import Cooccurrence, ItemVectors, matrix

CODES, REPORT = "codes.parquet", "tokens.json"
FREE_SHARE = 0.2
"""Share of the ids that stay free where no sizes are given."""


def tokenize(
    *,
    data: EventDataModule,
    vectors: ItemVectors = Cooccurrence(),  # noqa: B008 (never changed, so safe to share)
    sizes: list[int] | None = None,
    collisions: Collisions = "assign",
    normalise: bool = True,
    append: Path | None = None,
    allow_collapsed: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Write each item of a log as a few codes: codes.parquet, and tokens.json about it.

    Args:
        data: the log; name its YAML: recalign tokenize ml-100k.
        vectors: the source of item vectors: Cooccurrence, RecommenderVectors or ParquetVectors of
            recalign.recommender.semantic_ids, or recalign.serve.export.BundleVectors.
        sizes: codes of each level, such as [64, 32]; null: two equal levels that leave a fifth of the ids free.
        collisions: what keeps ids unique: assign (none arises) or token (one more code).
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
    log = data.log_.name
    out = out or Path("runs") / log / "tokens" / f"seed-{seed}"
    if sizes is not None and append is not None:
        raise InputError("the sizes are those of the ids that stay", where="sizes", remedy="leave them out")
    if sizes is not None and (len(sizes) < 2 or min(sizes) < 2 or math.prod(sizes) >= MAX_IDS):
        remedy = "give two or three numbers of at least 2, such as [64, 32], whose product is below 2^62"
        raise InputError(f"{sizes} cannot be the sizes of the levels", where="sizes", remedy=remedy)
    source, table = type(vectors).__name__, vectors.table(data)
    if append is None:
        items = data.sequences.items
        x_ND = matrix(table, items, normalise, source)
        if sizes is None:
            sizes = [max(2, math.ceil(math.sqrt(len(items) / (1 - FREE_SHARE))))] * 2
        found = quantize(x_ND, tuple(sizes), collisions, seed)
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
    _require_kept(codes, out / CODES)
    report: dict[str, Any] = {"log": log, "vectors": source, "version": codes.version, "new": len(items) - old}
    report |= quality.figures(x_ND, found)
    titles = items.replace_strict(data.sequences.items, data.titles, default=items.cast(pl.String))
    report |= {"examples": quality.examples(x_ND, found, titles)}
    print(_text(report))
    if report["defects"] and not allow_collapsed:
        other = "other vectors" if append else "other vectors or sizes"
        remedy = f"give {other}; --allow_collapsed true writes these ids all the same"
        raise InputError(f"the codebook has collapsed: {'; '.join(report['defects'])}", where=source, remedy=remedy)
    codes.write(out / CODES)
    write_json(out / REPORT, report)
    print(f"\n{out / CODES}\n{out / REPORT}")
    return out / CODES


def _text(report: dict[str, Any]) -> str:
    """The figures of tokens.json for the terminal, by the same names."""
    sections = {
        f"semantic ids of {report['log']} from {report['vectors']}: {report['verdict']}": {
            name: value for name, value in report.items() if isinstance(value, int | float)
        },
        "nearest: ids before they are made unique": report["nearest"],
        **{f"level {number}": level for number, level in enumerate(report["levels"])},
    }
    heads = [f"code_0 = {x['code_0']}: {x['items']} items, spread {x['spread']:.2f}" for x in report["examples"]]
    shown = ["\n  ".join([head, *x["titles"]]) for head, x in zip(heads, report["examples"], strict=True)]
    return "\n\n".join([render(sections), *shown])


def _require_kept(codes: CodesTable, path: Path) -> None:
    """Refuse to replace ids to which items were appended by others of the same items, with an InputError."""
    there = None
    with suppress(InputError):  # no file, or none that can be read: there is nothing to keep
        there = CodesTable.read(path, altered=True)
    if there is None or there.version <= 1:
        return
    now = dict(zip(codes.items.cast(pl.String), codes.codes_NL.tolist(), strict=True))
    then = zip(there.items.cast(pl.String), there.codes_NL.tolist(), strict=True)
    if any(now.get(item) != code for item, code in then):
        text = f"items were appended to these ids (version {there.version}), and some would move"
        remedy = f"go on from them (--append {path}), write to another --out, or move the file elsewhere first"
        raise InputError(text, where=str(path), remedy=remedy)


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
