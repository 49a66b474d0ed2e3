"""`recalign export`: make a bundle of a run folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import torch

from recalign.data.events import data_root, read_titles
from recalign.data.events.items import features_of, log_ids
from recalign.data.events.reading import locate, no_column, read
from recalign.errors import InputError, require_positive
from recalign.evaluation.chain_comparison import RECORD
from recalign.evaluation.reranking import Rerank
from recalign.evaluation.sources import Sources
from recalign.files import digest, read_object, write_json, write_text
from recalign.nn import Rebuildable
from recalign.recommender import CodePolicy
from recalign.recommender.checkpoint import recipe
from recalign.run.stage.folder import BUNDLES
from recalign.run.stage.opened import OpenedRun, open_run
from recalign.seals import code_digest, publish, seal
from recalign.serve.export import card, onnx
from recalign.serve.export.graph import Graph, part_of
from recalign.serve.export.verify import Verified, verify
from recalign.serve.server.about import CHAIN, EXAMPLES, FEATURES, GRAPH, INSTALL, ITEMS, TABLES, BundleConfig, point
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.catalogue import MICRO, of_micro

WEIGHTS, RECIPE, CARD = "policy.safetensors", "recipe.json", "README.md"
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "safetensors")
RETURNED = 100
"""Most items that the graph returns."""


def export(
    run: Path,
    out: Path | None = None,
    verify: bool = True,
    newest: int | None = None,
    filtered: bool = False,
    columns: list[str] | None = None,
) -> Path:
    """Make a bundle of a run: a folder that is served without the log, without torch and without Lightning.

    Args:
        run: the run folder of a policy, such as runs/ml-100k/asft/seed-0, or of a reranked row of a chain. Or a chain's
            folder, such as runs/ml-100k, to export two runs: the row that its decision is about, and its start.
        out: folder of versions. The bundle becomes a folder in it, and its file `current` then names the bundle. Null:
            `bundles` in the run folder. Must be null for a chain.
        verify: repeat the evaluation on the bundle; write nothing if its answers differ from the policy's.
        newest: most events of a history that are read; null: as many as in training, which is also the maximum.
        filtered: confirm that requests leave out the events that the log's `where` and `drop_repeats` leave out.
            Required if the log has one of them.
        columns: further columns of the log's item table (`data.log.items`) that requests may boost by, such as
            [genres].

    Returns:
        The folder to give to `recalign serve` or `recalign.load_bundle`.
    """
    run = Path(run)  # from Python it may be a trained run
    require_positive("", {"newest": newest}, "newest")
    if lacking := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(f"a package is missing: {', '.join(lacking)}", remedy=INSTALL)
    chain = (run / RECORD).is_file()
    if chain and out is not None:
        what = "a chain is exported as two bundles, each into its run's folder"
        raise InputError(what, where="out", remedy="leave it out, or export a run of the chain")
    runs = chain_runs(run) if chain else [run]
    for one in runs:
        print(f"{one}: exporting, a minute or more", file=sys.stderr)
        folder, found = bundle_of(open_run(one), out or one / BUNDLES, verify, newest, filtered, columns or ())
        print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.1f} MB")
        if found:
            print(found)
    if chain:
        write_json(run / CHAIN, [str(one.relative_to(run) / BUNDLES) for one in runs])
    served = run if chain else folder.parent
    print(f"recalign serve {served}")
    return served


def chain_runs(chain: Path) -> list[Path]:
    """The run folders of the row that a chain's decision is about and of its start, first seed.

    Raises:
        InputError: the chain has no comparison, or compares no method.
    """
    sources = Sources.of(chain)
    row, seed = sources.roles.highlight, sources.table().seeds[0]
    if row is None:
        raise InputError("this chain compares no method", where=str(chain), remedy="export one of its runs")
    recorded = read_object(chain / RECORD).get("chain")
    start = (recorded if isinstance(recorded, dict) else {}).get("recommender") or "recommender"
    return list(dict.fromkeys(chain / name / f"seed-{seed}" for name in (row, start)))


def bundle_of(
    made: OpenedRun,
    out: Path,
    check: bool = True,
    newest: int | None = None,
    filtered: bool = False,
    columns: Sequence[str] = (),
) -> tuple[Path, Verified | None]:
    """Write a bundle into a folder of versions, and make ``current`` name it.

    Returns:
        Its folder, and the result of `verify`; None if not checked.

    Raises:
        InputError: the policy cannot be exported, requests cannot have what the log's settings need, or the bundle's
            answers differ from the policy's. Nothing is written then.
    """
    _require_repeatable(made, filtered)
    _require_features(made)
    table = items(made, columns)
    part = part_of(made.policy)
    graph = Graph(part, min(RETURNED, made.policy.num_items), made.data.know_request).eval()
    if made.data.relative_to is not None and "reward" in graph.inputs:
        text = f"the policy reads rewards as ranks within {made.data.relative_to.column}, which requests do not have"
        remedy = "export a policy that does not read rewards (model.feedback false, no reranking), or train without it"
        raise InputError(text, where="data.relative_to", remedy=remedy)
    with torch.no_grad():
        tables = {name: table.detach().contiguous() for name, table in part.tables().items()}
    about = _about(made, graph, table, newest)
    with publish(out / about.version) as folder:
        _write_weights(made, tables, folder)
        table.write_parquet(folder / ITEMS)
        onnx.write(graph, tables, made.data.max_length, folder / GRAPH)
        write_json(folder / EXAMPLES, [])
        about.write(folder)
        seal(folder)
        bundle = Bundle(folder)
        write_json(folder / EXAMPLES, examples(bundle))
        found = verify(made.policy, made.data, bundle) if check else None
        about = replace(about, verified=asdict(found) if found else {})
        about.write(folder)
        write_text(folder / CARD, card.render(made, about, found))
    point(out, about.version)
    return out / about.version, found


def items(made: OpenedRun, columns: Sequence[str] = ()) -> pl.DataFrame:
    """The item table of a bundle: ``item``, ``title``, ``count`` (its training events), and columns of the log's table.

    Raises:
        InputError: the log names no item table, or a column is missing, nested or binary.
    """
    sequences, log = made.data.sequences, made.data.log_
    titles = read_titles(made.data.log_, data_root(made.data.root), sequences.items)[0]
    own = {"item": sequences.items, "title": titles, "count": pl.Series(sequences.item_counts())}
    table = pl.DataFrame(own)
    if not columns:
        return table
    source = locate(log, data_root(made.data.root))[1]
    if log.items is None or source is None:
        raise InputError("the log has no item table", where="columns", remedy="name one in data.log.items")
    frame = read(source, (log.items.id,))
    columns = list(dict.fromkeys(columns))
    for name in columns:
        if name not in frame.columns or name in own:
            raise no_column("columns", name, source, [one for one in frame.columns if one not in own])
        kind = frame[name].dtype
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            what = f"the column {name!r} holds {kind}, but requests boost by texts and numbers"
            raise InputError(what, where=source.name, remedy="leave it out of --columns, or write it as text")
    numbers = frame.select(cs.by_name(columns) & (cs.numeric() | cs.boolean())).with_columns(cs.decimal().cast(float))
    known = frame.select(pl.col(columns).cast(pl.String)).with_columns(numbers)  # dates and categories are text
    known = known.insert_column(0, log_ids(frame[log.items.id], sequences.items).alias("item"))
    known = known.drop_nulls("item").unique("item", keep="first")
    return table.join(known, on="item", how="left", maintain_order="left")


def examples(bundle: Bundle) -> list[dict]:
    """Synthetic requests with their answers: random items of the catalogue, at made-up times."""
    random, about = np.random.default_rng(0), bundle.about
    found = []
    for length in (0, 1, 5, min(20, about.max_length)):
        second = 1_700_000_000 // about.time_resolution * about.time_resolution
        seconds = [second + 60 * about.time_resolution * n for n in range(length + 1)]
        times = [of_micro(MICRO * one, about.time_unit) for one in seconds]
        request = {
            "items": [bundle.catalogue.ids[n] for n in random.integers(len(bundle.catalogue), size=length)],
            "times": times[:length],
            "k": min(10, len(bundle.catalogue)),
        }
        if about.reward is not None:
            request["rewards"] = random.normal(size=length).round(3).tolist()
        if about.request_time == "known":
            request["time"] = times[length]
        found.append({"request": request, "answer": asdict(bundle.recommend(request))})
    return found


def _require_repeatable(made: OpenedRun, filtered: bool) -> None:
    log = made.data.log_
    if made.data.max_length < 3:
        what = f"a bundle needs histories of 3 events or more, not of {made.data.max_length}"
        raise InputError(what, where="data.max_length", remedy="train with 3 or more")
    for key, given in {"where": log.where, "drop_repeats": log.drop_repeats}.items():
        if given and not filtered:
            what = f"the log leaves events out ({key}: {given}) by columns that requests do not have"
            remedy = "add --filtered true if requests will leave these events out too"
            raise InputError(what, where=f"data.log.{key}", remedy=remedy)


def _require_features(made: OpenedRun) -> None:
    """Refuse an item table whose features changed since training: `recalign items add` would encode new items by it.

    The policy itself keeps the features that it was trained with.
    """
    policy = made.policy.policy if isinstance(made.policy, Rerank) else made.policy
    learned, features = getattr(getattr(policy, "base", policy), "features", None), made.data.sequences.features
    if learned is not None and features is not None and not learned.holds(features):
        text = "the items have other features than those that the policy was trained with"
        raise InputError(text, where="data.log.items", remedy="put that item table back, or train the policy anew")


def _about(made: OpenedRun, graph: Graph, table: pl.DataFrame, newest: int | None) -> BundleConfig:
    data, policy = made.data, made.policy
    log = data.log_
    base = policy.policy if isinstance(policy, Rerank) else policy
    kind = "rerank" if isinstance(policy, Rerank) else "codes" if isinstance(base, CodePolicy) else "items"
    about = BundleConfig(
        name=made.name,
        version="",
        kind=kind,  # type: ignore[arg-type]
        inputs=graph.inputs,
        k=graph.k,
        max_length=min(newest or data.max_length, data.max_length),
        time_unit="datetime" if log.time_format else log.time_unit,
        time_resolution=log.time_resolution,
        request_time="known" if data.know_request else "last_event",
        reward=data.reward if "reward" in graph.inputs or log.collapse else None,
        strength=made.strength,
        reward_sd=policy.spread if isinstance(policy, Rerank) else 1.0,
        collapse=log.collapse,
        where=log.where,
        drop_repeats=log.drop_repeats,
        memory=base.memory.strength if base.memory else 0.0,
        log=log.name,
        catalogue=data.sequences.catalogue,
        made_of=made.made_of(),
        versions={name: version(name) for name in ("recalign", "torch", "onnx", "onnxscript", "onnxruntime")},
    )
    content = digest(asdict(about), table.write_csv(), code_digest())[:8]
    return replace(about, version=f"{made.row}-seed-{made.seed}-{content}")


def _write_weights(made: OpenedRun, tables: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the tables, the networks' weights, their recipes as in a checkpoint, and what `items add` needs."""
    from safetensors.torch import save

    policy = made.policy
    nets = {"policy": policy.policy, "reward": policy.reward} if isinstance(policy, Rerank) else {"policy": policy}
    weights = {f"{net}.{k}": v.contiguous().clone() for net, one in nets.items() for k, v in one.state_dict().items()}
    recipes = {name: recipe(net) for name, net in nets.items() if isinstance(net, Rebuildable)}
    (folder / WEIGHTS).write_bytes(save(weights))
    write_text(folder / RECIPE, json.dumps(recipes, indent=2, default=str) + "\n")
    (folder / TABLES).write_bytes(save(tables))
    features, table = made.data.sequences.features, made.data.log_.items
    if table is not None:
        specified = {name: asdict(one) for name, one in features_of(table).items()}
        known = {"id": table.id, "title": table.title, "features": specified}
        write_json(folder / FEATURES, known | {"plans": features.coder.plans if features is not None else []})
