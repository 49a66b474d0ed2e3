"""`recalign items add`: new items into a bundle, without its log, without training and without an exporter.

A bundle of a policy that knows items by their features holds what makes a vector of them: how values become codes
(`features.json`), the embeddings of codes (`policy.safetensors`), and the recipe of the policy. The graph takes any
number of items, so that new ones are further rows of its tables. They borrow the mean count of those in training.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recalign.errors import InputError
from recalign.events import Feature, ItemTable, ItemValues
from recalign.events.files import Source
from recalign.events.items import table_titles, table_values
from recalign.export.command import CARD, FEATURES, RECIPE, WEIGHTS, examples
from recalign.files import digest, read_json, sha256, write_json, write_text
from recalign.kept import SEAL, publish, seal
from recalign.nn import unit
from recalign.recommender.checkpoint import build
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.sequences.features import FeatureCoder
from recalign.serving.about import CURRENT, EXAMPLES, ITEMS, TABLES, About, current, point
from recalign.serving.bundle import Bundle


def items(words: Sequence[str]) -> None:
    """``recalign items add BUNDLE FILE``."""
    parser = argparse.ArgumentParser(prog="recalign items", description="What a bundle can recommend.")
    add = parser.add_subparsers(dest="task", required=True).add_parser(
        "add", help="new items, known by their features, without training and without the log"
    )
    add.add_argument("bundle", type=Path, help="a bundle, or a folder of versions with a file `current`")
    add.add_argument("file", type=Path, help="a table of the new items, with the columns of the log's item table")
    given = parser.parse_args(list(words))
    folder, count = add_items(given.bundle, given.file)
    served = current(folder.parent) == folder
    print(f"{folder}: {count:,} new items\nrecalign serve {folder.parent if served else folder}")
    if not served:
        print(f"{given.bundle} is not the version that {folder.parent / CURRENT} names, which stays as it is")


def add_items(bundle: Path, file: Path) -> tuple[Path, int]:
    """Write a further version of a bundle, with new items, beside it.

    The file ``current`` then names it, unless it names another version than the one that items are added to: an old one
    is not served again unasked.

    Args:
        bundle: its folder, or one of versions.
        file: a table with a row per new item, its columns as in the log's item table.

    Returns:
        The folder of the new version, and how many items it has more.

    Raises:
        InputError: the bundle's policy does not know items by features, or the table cannot be used.
    """
    folder = current(bundle.resolve())
    about = About.read(folder)
    if about.kind != "items" or not (folder / FEATURES).is_file():
        raise InputError(
            "its policy does not know items by their features, so nothing is known of new ones",
            where=str(folder),
            remedy="export a policy over item ids, not reranked, of a log with data.log.items.features",
        )
    known, table = read_json(folder / FEATURES), pl.read_parquet(folder / ITEMS, glob=False)
    values, added = _new(file, known, table)
    tables = _with_rows(folder, FeatureCoder(known["plans"]), values)
    grown = pl.concat([table, added], how="diagonal")
    content = digest(asdict(about), grown.write_csv(), sha256(file))[:8]
    version = f"{about.version.rpartition('-')[0]}-{content}"
    made_of = {**about.made_of, f"items {file.name}": sha256(file)}
    with publish(folder.parent / version) as part:
        for path in folder.iterdir():
            if path.name not in (SEAL, TABLES, ITEMS, EXAMPLES, CARD):
                shutil.copy2(path, part / path.name)
        from safetensors.torch import save

        (part / TABLES).write_bytes(save(tables))
        grown.write_parquet(part / ITEMS)
        write_json(part / EXAMPLES, [])
        replace(about, version=version, made_of=made_of, verified={}).write(part)
        seal(part)
        write_json(part / EXAMPLES, examples(Bundle(part)))
        write_text(part / CARD, _card(folder, file, len(added)))
    if current(folder.parent) in (folder, folder.parent):  # a bundle without a pointer stands alone
        point(folder.parent, version)
    return folder.parent / version, len(added)


def _new(file: Path, known: dict, table: pl.DataFrame) -> tuple[ItemValues, pl.DataFrame]:
    """What is known of the new items, and their rows of a bundle's item table."""
    if not file.is_file():
        raise InputError("there is no such file", where=str(file), remedy="name a table of the new items")
    kinds = {plan["name"]: plan["kind"] for plan in known["plans"]}
    features: dict[str, str | Feature] = {
        name: Feature(**one | {"kind": kinds[name]}) for name, one in known["features"].items()
    }
    settings = ItemTable(str(file), known["id"], known["title"], features)
    values = table_values(Source(file), settings, table["item"].dtype)
    _require_widths(values, known["plans"], file)
    if (again := values.ids.is_in(table["item"].implode())).any():
        raise InputError(
            f"{again.sum():,} items are in the bundle already, such as {values.ids.filter(again)[0]!r}",
            where=str(file),
            remedy="leave them out: what training taught of them stays",
        )
    if (blank := ~values.known()).any():
        remedy = "give every new item at least one feature, or leave it out"
        raise InputError(f"nothing is known of {values.ids.filter(blank)[0]!r}", where=str(file), remedy=remedy)
    title = table_titles(Source(file), settings, values.ids)
    count = pl.repeat(0, len(title), dtype=table["count"].dtype, eager=True)
    return values, pl.DataFrame({"item": values.ids, "title": title, "count": count})


def _require_widths(values: ItemValues, plans: list[dict], file: Path) -> None:
    """Refuse vectors that are not as long as those in training."""
    for plan in plans:
        if plan["kind"] == "vector" and len(found := values.values[plan["name"]].drop_nulls()):
            width, learned = len(found[0]), len(plan["mean"])
            if width != learned:
                raise InputError(
                    f"its vectors of {plan['name']} have {width:,} numbers, and those in training {learned:,}",
                    where=str(file),
                    remedy="make them as those of the log's item table were made",
                )


@torch.no_grad()
def _with_rows(folder: Path, coder: FeatureCoder, values: ItemValues) -> dict[str, Tensor]:
    """The tables of a bundle with rows of new items at the end."""
    from safetensors.torch import load_file

    policy = _policy(folder)
    assert policy.features is not None
    vector_XD = policy.features.vectors(*map(torch.from_numpy, coder.encode(values.values)))
    borrowed = policy.prior.borrowed(policy.num_warm)
    rows = {
        "unit": unit(vector_XD),
        "norm": torch.linalg.vector_norm(vector_XD, dim=1),
        "bias": (policy.prior_strength * borrowed).expand(len(vector_XD)),
        "popular": borrowed.expand(len(vector_XD)),  # where the policy has no item prior
    }
    return {name: torch.cat([old, rows[name].to(old)]) for name, old in load_file(folder / TABLES).items()}


def _policy(folder: Path) -> SequencePolicy:
    """The policy of a bundle, from its recipe and weights."""
    from safetensors.torch import load_file

    policy = build(json.loads((folder / RECIPE).read_text(encoding="utf-8"))["policy"])
    weights = {name.removeprefix("policy."): x for name, x in load_file(folder / WEIGHTS).items()}
    policy.load_state_dict(weights)
    return getattr(policy, "base", policy).eval()


def _card(folder: Path, file: Path, count: int) -> str:
    """The model card, and what has been added since."""
    said = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    added = f"{count:,} items of `{file.name}` (sha256 `{sha256(file)}`) were added to `{folder.name}` without training"
    return f"{said.rstrip()}\n\n**Added.** {added}; the figures above are those without them.\n"
