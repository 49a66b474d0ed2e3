"""`recalign items add`: new items into a bundle, without its log, without training and without an exporter.

A bundle of a policy that knows items by their features holds what makes a vector of them: how values become codes
(`features.json`), the embeddings of codes (`policy.safetensors`), and the recipe of the policy. The graph takes any
number of items, so that new ones are further rows of its tables. They borrow the mean count of those in training.

A bundle of a policy over semantic ids takes the further items of a file of codes (`with_new_items`).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from recalign.artifacts import Seal, publish, seal
from recalign.data.events import Feature, ItemTable, ItemValues
from recalign.data.events.items import table_columns, table_titles, table_values
from recalign.data.sequences.features import FeatureCoder
from recalign.errors import InputError
from recalign.files import digest, read_json, sha256, write_json, write_text
from recalign.nn import unit
from recalign.recommender import Policy
from recalign.recommender.checkpoint import build
from recalign.recommender.new_items import with_new_items
from recalign.recommender.semantic_ids.codes import CodesTable
from recalign.recommender.sequence_policy import SequencePolicy
from recalign.run.stage.console import echo
from recalign.serve.export.command import CARD, RECIPE, WEIGHTS, examples, write_networks
from recalign.serve.export.graph import part_of
from recalign.serve.server.about import CURRENT, EXAMPLES, FEATURES, ITEMS, TABLES, BundleConfig, current, point
from recalign.serve.server.bundle import Bundle


def items(words: Sequence[str]) -> None:
    """``recalign items add BUNDLE FILE``."""
    parser = argparse.ArgumentParser(prog="recalign items", description="What a bundle can recommend.")
    add = parser.add_subparsers(dest="task", required=True).add_parser(
        "add", help="new items, known by their features or codes, without training and without the log"
    )
    add.add_argument("bundle", type=Path, help="a bundle, or a folder of versions with a file `current`")
    add.add_argument(
        "file",
        type=Path,
        help="a table of the new items, with the columns of the log's item table; for a policy over semantic ids: what "
        "recalign tokenize --append wrote",
    )
    add.add_argument("--titles", type=Path, help="beside semantic ids: a table like the log's, for the titles")
    given = parser.parse_args(list(words))
    folder, count = add_items(given.bundle, given.file, given.titles)
    served = current(folder.parent) == folder
    print(f"{folder}: {count:,} new items\nrecalign serve {folder.parent if served else folder}")
    if not served:
        print(f"{given.bundle} is not the version that {folder.parent / CURRENT} names, which stays as it is")


def add_items(bundle: Path, file: Path, titles: Path | None = None) -> tuple[Path, int]:
    """Write a further version of a bundle, with new items, beside it.

    The file ``current`` then names it, unless it names another version than the one that items are added to: an old one
    is not served again unasked.

    Args:
        bundle: its folder, or one of versions.
        file: a table with a row per new item, its columns as in the log's item table; for a policy over semantic ids a
            ``codes.parquet`` of its items and new ones.
        titles: beside such a file, a table with the columns of the log's item table; None: new items are shown by ids.

    Returns:
        The folder of the new version, and how many items it has more.

    Raises:
        InputError: the bundle's policy knows items neither by features nor by codes, or the table cannot be used.
    """
    folder = current(bundle.resolve())
    about, table = BundleConfig.read(folder), pl.read_parquet(folder / ITEMS, glob=False)
    added = _added(folder, about, file, table, titles)
    grown = pl.concat([table, added.rows], how="diagonal")
    content = digest(asdict(about), grown.write_csv(), sha256(file))[:8]
    version = f"{about.version.rpartition('-')[0]}-{content}"
    name = f"items {file.name}"
    again = sum(one == name or one.startswith(f"{name} (") for one in about.made_of)
    made_of = {**about.made_of, name + (f" ({again + 1})" if again else ""): sha256(file)}
    with publish(folder.parent / version) as part:
        for name in Seal.read(folder).digests:
            if name not in (TABLES, ITEMS):
                shutil.copy2(folder / name, part / name)
        from safetensors.torch import save

        (part / TABLES).write_bytes(save(added.tables))
        if added.policy is not None:
            write_networks({"policy": added.policy}, part)
        grown.write_parquet(part / ITEMS)
        write_json(part / EXAMPLES, [])
        replace(about, version=version, made_of=made_of, verified={}).write(part)
        seal(part)
        write_json(part / EXAMPLES, examples(Bundle(part)))
        write_text(part / CARD, _card(folder, file, len(added.rows)).replace(f"({about.version!r})", f"({version!r})"))
    if current(folder.parent) in (folder, folder.parent):  # a bundle without a pointer stands alone
        point(folder.parent, version)
    return folder.parent / version, len(added.rows)


@dataclass(frozen=True)
class Added:
    """New items for a bundle.

    Attributes:
        rows: of them in the bundle's item table.
        tables: of the graph, with them.
        policy: the grown one, where it has to be saved anew; None: the bundle's weights stay.
    """

    rows: pl.DataFrame
    tables: dict[str, Tensor]
    policy: Policy | None = None


def _added(folder: Path, about: BundleConfig, file: Path, table: pl.DataFrame, titles: Path | None) -> Added:
    known = read_json(folder / FEATURES)
    for one in filter(None, (file, titles)):
        if not one.is_file():
            raise InputError("there is no such file", where=str(one), remedy="name a table of the new items")
    if about.kind == "codes":
        CodesTable.read(file).require_log(about.log, str(file))
        return _by_codes(folder, file, table, partial(_titled, known, titles, folder, table))
    if about.kind == "items" and known.get("plans"):
        if titles is not None:
            remedy = f"leave it out: {file} has a column of titles itself"
            raise InputError("is for a file of semantic ids", where="--titles", remedy=remedy)
        values, rows = _new(file, known, table)
        coder = FeatureCoder(known["plans"])
        for name, count in coder.unknown(values.values).items():
            echo(f"{name} says nothing of {count:,} of {len(rows):,} new items: training knew none of their values")
        return Added(rows, _with_rows(folder, coder, values))
    text = "its policy does not know items by their features or codes, so nothing is known of new ones"
    remedy = "export a policy, not reranked, of a log with data.log.items.features, or of recommender-onerec"
    raise InputError(text, where=str(folder), remedy=remedy)


def _by_codes(folder: Path, file: Path, table: pl.DataFrame, titled: Callable[[pl.Series], pl.DataFrame]) -> Added:
    """The further items of a file of codes."""
    from safetensors.torch import load_file

    policy, ids = with_new_items(_policy(folder), file, table["item"])
    if not len(new := ids[len(table) :]):
        remedy = "give new ones codes: recalign tokenize LOG --append FILE"
        raise InputError("all its items are in the bundle already", where=str(file), remedy=remedy)
    with torch.no_grad():
        tables = {name: x.detach().contiguous() for name, x in part_of(policy).tables().items()}
    old = load_file(folder / TABLES)
    if old.keys() != tables.keys():
        what = "an older recalign wrote it, and its graph takes no further codes"
        raise InputError(what, where=str(folder), remedy="export the run again")
    if any(len(old[name]) == 1 < len(tables[name]) for name in old):
        what = "all its items begin with one code, and new ones with another, which its graph cannot take"
        raise InputError(what, where=str(folder), remedy="train the policy on codes of which several begin an id")
    return Added(titled(new), tables, policy)


def _titled(known: dict, file: Path | None, folder: Path, table: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """Rows of a bundle's item table by a table like the log's; without one titles are ids, and all else is missing."""
    if file is None:
        if further := _further(table):
            echo(
                f"no boost by {', '.join(further)} reaches the new items: --titles FILE would say what they have there"
            )
        return pl.DataFrame({"item": ids, "title": ids.cast(pl.String), "count": _counts(table, ids)})
    if not known:
        what = "its log has no table of items, which would say what the column of titles is called"
        remedy = "leave --titles out, or give the log a table (data.log.items) and export the run again"
        raise InputError(what, where=str(folder), remedy=remedy)
    return _rows(ItemTable(str(file), known["id"], known["title"]), table, ids)


def _rows(settings: ItemTable, table: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """Rows of a bundle's item table, with all its columns as a table like the log's has them."""
    source = settings.file
    own = {"item": ids, "title": table_titles(source, settings, ids), "count": _counts(table, ids)}
    return pl.DataFrame(own).hstack(table_columns(source, settings, ids, _further(table)))


def _further(table: pl.DataFrame) -> dict[str, pl.DataType]:
    """The columns that `recalign export --columns` took from the log's item table, with their types."""
    return {name: dtype for name, dtype in table.schema.items() if name not in ("item", "title", "count")}


def _counts(table: pl.DataFrame, ids: pl.Series) -> pl.Series:
    return pl.repeat(0, len(ids), dtype=table["count"].dtype, eager=True)


def _new(file: Path, known: dict, table: pl.DataFrame) -> tuple[ItemValues, pl.DataFrame]:
    """What is known of the new items, and their rows of a bundle's item table."""
    kinds = {plan["name"]: plan["kind"] for plan in known["plans"]}
    features: dict[str, str | Feature] = {
        name: Feature(**one | {"kind": kinds[name]}) for name, one in known["features"].items()
    }
    settings = ItemTable(str(file), known["id"], known["title"], features)
    values = table_values(str(file), settings, table["item"])
    _require_widths(values, known["plans"], file)
    if (again := values.ids.is_in(table["item"].implode())).any():
        text = f"{again.sum():,} items are in the bundle already, such as {values.ids.filter(again)[0]!r}"
        raise InputError(text, where=str(file), remedy="leave them out: what training taught of them stays")
    if (blank := ~values.known()).any():
        remedy = "give every new item at least one feature, or leave it out"
        raise InputError(f"nothing is known of {values.ids.filter(blank)[0]!r}", where=str(file), remedy=remedy)
    return values, _rows(settings, table, values.ids)


def _require_widths(values: ItemValues, plans: list[dict], file: Path) -> None:
    """Refuse vectors that are not as long as those in training."""
    for plan in plans:
        if plan["kind"] == "vector" and len(found := values.values[plan["name"]].drop_nulls()):
            width, learned = len(found[0]), len(plan["mean"])
            if width != learned:
                text = f"its vectors of {plan['name']} have {width:,} numbers, and those in training {learned:,}"
                raise InputError(text, where=str(file), remedy="make them as those of the log's item table were made")


@torch.no_grad()
def _with_rows(folder: Path, coder: FeatureCoder, values: ItemValues) -> dict[str, Tensor]:
    """The tables of a bundle with rows of new items at the end."""
    from safetensors.torch import load_file

    policy = _policy(folder)
    assert isinstance(policy, SequencePolicy)
    assert policy.features is not None
    vector_XD = policy.features.vectors(*map(torch.from_numpy, coder.encode(values.values)))
    borrowed = policy.prior.mean_log_count(policy.num_warm)
    rows = {
        "unit": unit(vector_XD),
        "norm": torch.linalg.vector_norm(vector_XD, dim=1),
        "bias": (policy.prior_strength * borrowed).expand(len(vector_XD)),
        "popular": borrowed.expand(len(vector_XD)),  # where the policy has no item prior
    }
    return {name: torch.cat([old, rows[name].to(old)]) for name, old in load_file(folder / TABLES).items()}


def _policy(folder: Path) -> Policy:
    """The policy of a bundle, from its recipe and weights."""
    from safetensors.torch import load_file

    recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    policy: Policy = build(recipe["policy"], "policy", str(folder / RECIPE))
    weights = {name.removeprefix("policy."): x for name, x in load_file(folder / WEIGHTS).items()}
    policy.load_state_dict(weights)
    return getattr(policy, "base", policy).eval()


def _card(folder: Path, file: Path, count: int) -> str:
    """The model card, and what has been added since."""
    said = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    added = f"{count:,} items of `{file.name}` (sha256 `{sha256(file)}`) were added to `{folder.name}` without training"
    return f"{said.rstrip()}\n\n**Added.** {added}; the figures above are those without them.\n"
