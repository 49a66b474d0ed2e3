"""`recalign items add`: add new items to a bundle, without its log, without training and without an exporter.

If its policy embeds item features, a bundle holds all that turns features into item vectors: how values become codes
(`features.json`), the embeddings of codes (`policy.safetensors`), and the recipe of the policy. The graph takes any
number of items, so new items are further rows of its tables. Their prior uses the mean count of training items.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor

from recalign.data.events import Feature, ItemTable, ItemValues
from recalign.data.events.audit import plain_ids
from recalign.data.events.items import table_rows, table_values
from recalign.data.events.sources import Source
from recalign.data.sequences.features import FeatureCoder
from recalign.errors import InputError
from recalign.files import digest, read_json, sha256, write_json, write_text
from recalign.nn import unit
from recalign.recommender.checkpoint import build_net
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.run.stage.console import echo
from recalign.seals import Seal, publish, seal
from recalign.serve.export.command import CARD, RECIPE, WEIGHTS, examples
from recalign.serve.server.about import CURRENT, EXAMPLES, FEATURES, ITEMS, TABLES, BundleConfig, current, point, usable
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.catalogue import read_items


def items(task: Literal["add"], bundle: Path, file: Path) -> None:
    """Add new items to a bundle, known by their features, without training and without the log.

    Args:
        task: add.
        bundle: a bundle, or a folder of versions with a file `current`.
        file: a table of new items, with the columns of the log's item table.
    """
    folder, count = add_items(bundle, file)
    served = current(folder.parent) == folder
    print(f"{folder}: {count:,} new items\nrecalign serve {folder.parent if served else folder}")
    if not served:
        print(f"{folder.parent / CURRENT} is unchanged: it does not name {bundle}, but another version")


def add_items(bundle: Path, file: Path) -> tuple[Path, int]:
    """Write a new version of a bundle, with new items, beside it.

    The file ``current`` then names the new version, unless it names a version other than the one extended: an old
    version must not return to service unasked.

    Args:
        bundle, file: as in `items`.

    Returns:
        The folder of the new version, and how many items were added.

    Raises:
        InputError: the bundle's policy does not know items by their features, or the table cannot be used.
    """
    from safetensors.torch import load_file, save

    folder = current(bundle.resolve())
    if not file.is_file():
        raise InputError("there is no such file", where=str(file), remedy="name a table of the new items")
    with usable(folder):
        about, known = BundleConfig.read(folder), read_json(folder / FEATURES)
        card = (folder / CARD).read_text(encoding="utf-8").rstrip()
        table = read_items(folder / ITEMS)
        if about.kind != "items" or not known.get("plans"):
            what = "its policy does not read item features, so it cannot score new items"
            remedy = "export a policy, not reranked, of a log with data.log.items.features"
            raise InputError(what, where=str(folder), remedy=remedy)
        values, rows = read_new_items(file, known, table)
        policy = build_net(read_json(folder / RECIPE)["policy"], "policy", str(folder / RECIPE))
        policy.load_state_dict({name.removeprefix("policy."): x for name, x in load_file(folder / WEIGHTS).items()})
        policy = getattr(policy, "base", policy).eval()
        tables = with_features(policy, known["plans"], values, load_file(folder / TABLES))
        grown = pl.concat([table, rows], how="diagonal")
    version = f"{about.version.rpartition('-')[0]}-{digest(asdict(about), grown.write_csv(), sha256(file))[:8]}"
    made_of = {**about.made_of, f"items {file.name} {len(table):,} to {len(grown):,}": sha256(file)}
    with publish(folder.parent / version) as part:
        for name in Seal.read(folder).digests:
            if name not in (TABLES, ITEMS) and "/" not in name:
                shutil.copy2(folder / name, part / name)
        (part / TABLES).write_bytes(save(tables))
        grown.write_parquet(part / ITEMS)
        write_json(part / EXAMPLES, [])
        replace(about, version=version, made_of=made_of, verified={}).write(part)
        seal(part)
        write_json(part / EXAMPLES, examples(Bundle(part)))
        added = f"{len(rows):,} items of `{file.name}` (sha256 `{sha256(file)}`) were added to `{folder.name}`"
        said = f"**Added.** {added} without training; the figures above are those without them."
        write_text(part / CARD, f"{card.replace(f'({about.version!r})', f'({version!r})')}\n\n{said}\n")
    if current(folder.parent) in (folder, folder.parent):  # the second: no file ``current`` yet
        point(folder.parent, version)
    return folder.parent / version, len(rows)


def read_new_items(file: Path, known: dict[str, Any], table: pl.DataFrame) -> tuple[ItemValues, pl.DataFrame]:
    """The feature values of new items in a file, and their rows for a bundle's item table, with all its columns.

    Raises:
        InputError: an item is not new or has no feature, or vectors have another length than in training.
    """
    kinds = {plan["name"]: plan["kind"] for plan in known["plans"]}
    features: dict[str, str | Feature] = {
        name: Feature(**one | {"kind": kinds[name]}) for name, one in known["features"].items()
    }
    settings = ItemTable(str(file), known["id"], known["title"], features)
    values = table_values(Source.of_file(file), settings, table["item"])
    for plan in known["plans"]:
        found = values.values[plan["name"]].drop_nulls()
        if plan["kind"] == "vector" and len(found) and len(found[0]) != len(plan["mean"]):
            what = (
                f"its vectors of {plan['name']} have {len(found[0])} numbers, and those in training {len(plan['mean'])}"
            )
            raise InputError(what, where=str(file), remedy="make them as those of the log's item table were made")
    if (again := plain_ids(values.ids).is_in(plain_ids(table["item"]).implode())).any():
        what = f"{again.sum():,} items are in the bundle already (spaces at the ends of ids and Unicode's form aside), "
        what += f"such as {values.ids.filter(again)[0]!a}"
        raise InputError(what, where=str(file), remedy="leave them out: their trained weights stay")
    if (blank := ~values.known()).any():
        remedy = "give every new item at least one feature, or leave it out"
        raise InputError(f"item {values.ids.filter(blank)[0]!r} has no feature value", where=str(file), remedy=remedy)
    further = {name: dtype for name, dtype in table.schema.items() if name not in ("item", "title", "count")}
    rows = table_rows(Source.of_file(file), settings, values.ids, further).insert_column(0, values.ids.alias("item"))
    return values, rows.with_columns(count=pl.zeros(len(rows), table["count"].dtype, eager=True)).select(table.columns)


@torch.no_grad()
def with_features(
    policy: SequencePolicy, plans: list[Any], values: ItemValues, tables: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tables of a bundle, with rows for new items at the end."""
    assert policy.features is not None
    coder = FeatureCoder(plans)
    for name, places in coder.unknown(values.values).items():
        known = f"{len(places):,} of {len(values.ids):,} new items, such as {values.ids[places[0]]!r}"
        echo(f"the feature {name} says nothing about {known}: none of their values occurred in training")
    vector_XD = policy.features.vectors(*map(torch.from_numpy, coder.encode(values.values)))
    borrowed = policy.prior.log_count_V[: policy.num_warm].double().exp().mean().log().float()
    rows = {
        "unit": unit(vector_XD),
        "norm": torch.linalg.vector_norm(vector_XD, dim=1),
        "bias": (policy.prior_strength * borrowed).expand(len(vector_XD)),
        "popular": borrowed.expand(len(vector_XD)),  # only in tables of policies without an item prior
    }
    nobodys = {name: old.new_zeros(len(vector_XD), *old.shape[1:]) for name, old in tables.items()}  # 0: no neighbours
    return {name: torch.cat([old, rows.get(name, nobodys[name]).to(old)]) for name, old in tables.items()}
