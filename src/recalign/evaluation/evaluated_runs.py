"""The evaluations in a chain's folder: a row an event, with the columns that the metrics of a comparison read."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recalign import artifacts
from recalign.data.events.log import SIMULATED
from recalign.errors import InputError
from recalign.files import read_json
from recalign.recommender.rank_metrics import gain_ndcg, hit, reciprocal

SEED = re.compile(r"seed-(\d+)")
"""Folders of a method. Those of other names are copies, or what a stage that ran anew has left (seed-<n>.previous)."""
SPLITS = ("test", "validation")
RANKS = {"hr@10": lambda rank: hit(rank, 10), "ndcg@10": lambda rank: gain_ndcg(rank, 10), "mrr": reciprocal}
# The training reward model's value less another's. Models differ in level, so only the difference to `start` tells how
# far a method has over-optimised.
GAPS = ("gap/judge@10", "gap/true@10")
UNIT = "reward/sd"  # in a summary: standard deviation of the training rewards of users A
JUDGED = "judged"  # in a summary: the reward of judges that predict another than the chain's


@dataclass(frozen=True)
class Run:
    """One method with one seed: its `summary.json` and, for each split, a row an event."""

    method: str
    seed: int
    summary: dict[str, object]
    splits: dict[str, pl.DataFrame]


def evaluated(
    chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None
) -> list[tuple[str, int, Path]]:
    """Method, seed and folder of the finished evaluations of a chain, sorted: those that have both `summary.json` and
    `test.parquet`.
    """
    folders = [path.parent for path in chain_folder.glob("*/seed-*/evaluation/summary.json")]
    found = sorted(
        (folder.parts[-3], int(is_seed[1]), folder)
        for folder in folders
        if (is_seed := SEED.fullmatch(folder.parts[-2]))
    )
    return [
        (method, seed, folder)
        for method, seed, folder in found
        if (methods is None or method in methods)
        and (seeds is None or seed in seeds)
        and (folder / "test.parquet").is_file()
    ]


def load_runs(chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None) -> list[Run]:
    """The evaluations of a chain that `evaluated` finds."""
    if not chain_folder.is_dir():
        raise InputError("there is no such folder", where=str(chain_folder), remedy="run `recalign chain` first")
    runs, why = [], ""
    for method, seed, folder in evaluated(chain_folder, methods, seeds):
        if gone := artifacts.outdated(folder):
            why = " with the checkpoints that it holds now"
            print(f"left out: {folder}, measured with checkpoints that are gone: {', '.join(gone)}", file=sys.stderr)
        else:
            if (folder / artifacts.SEAL).is_file():
                artifacts.require(folder, "run `recalign chain` again: it evaluates that method anew")
            summary = read_json(folder / "summary.json")
            paths = {split: path for split in SPLITS if (path := folder / f"{split}.parquet").is_file()}
            events = {split: _events_of(path, apart=JUDGED in summary) for split, path in paths.items()}
            runs.append(Run(method, seed, summary, events))
    if not runs:
        remedy = "let `recalign chain` finish at least one method"
        raise InputError(f"no method in it has been evaluated{why}", where=str(chain_folder), remedy=remedy)
    _require_comparable(runs)
    _require_one_reward(runs, str(chain_folder))
    for split in SPLITS:
        _align([run for run in runs if split in run.splits], split)
    return runs


def warn_of_unmeasured(chain_folder: Path, methods: Collection[str], seeds: Collection[int] | None) -> None:
    """Say which runs of some methods have no evaluation: a fit puts that aside with the run before it."""
    for folder in sorted(one for method in methods for one in (chain_folder / method).glob("seed-*")):
        is_seed = SEED.fullmatch(folder.name)
        if not is_seed or (seeds is not None and int(is_seed[1]) not in seeds):
            continue
        if (folder / "manifest.json").is_file() and not (folder / "evaluation/summary.json").is_file():
            why = "has no evaluation: never measured, or trained anew since; recalign chain with its seed measures it"
            print(f"left out: {folder} {why}", file=sys.stderr)


def _events_of(path: Path, apart: bool) -> pl.DataFrame:
    """A split's events, with the columns that `recalign.evaluation.comparison.METRICS` names.

    Those of judges with a reward of their own, ``apart``, have no gap to the training reward model.
    """
    frame = with_gains(pl.read_parquet(path, glob=False).sort("user", "event"))
    of_one_reward = (gap for gap in GAPS if not apart or gap != "gap/judge@10")
    gaps = [
        (pl.col("reward_model@10") - pl.col(other)).alias(gap)
        for gap in of_one_reward
        if {"reward_model@10", other := gap.removeprefix("gap/")} <= set(frame.columns)
    ]
    tail = [(pl.col("tail") & pl.col("high")).alias("tail_high")] if "tail" in frame.columns else []
    return frame.with_columns(*gaps, *tail)


def with_gains(events: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of `RANKS`."""
    rank = events["rank"].to_numpy()
    return events.with_columns(pl.Series(name, gain(rank), dtype=pl.Float64) for name, gain in RANKS.items())


def _require_comparable(runs: list[Run]) -> None:
    """Refuse methods of one seed that were measured by other judges, from another start, or on other events."""
    first: dict[int, Run] = {}
    for run in runs:
        other = first.setdefault(run.seed, run)
        what = ""
        if run.summary.get("base") != other.summary.get("base"):
            what = f"it rests on other data, or on other checkpoints of the stages before it, than {other.method}"
        for split in [split for split in SPLITS if split in run.splits and split in other.splits]:
            ours, theirs = (one.splits[split].select("user", "event") for one in (run, other))
            if not what and not ours.equals(theirs):
                what = f"it was measured on other {split} events ({len(ours):,}) than {other.method} ({len(theirs):,})"
        if what:
            remedy = "run the chain again with every method, or in another folder"
            raise InputError(what, where=f"{run.method}, seed {run.seed}", remedy=remedy)


def _require_one_reward(runs: list[Run], where: str) -> None:
    """Refuse seeds of one log that were measured by different rewards: a mean over them is of no unit.

    The standard deviation of the rewards tells; it is rounded, as machines differ in the last bit.
    """
    units = {
        (f"{run.summary.get(UNIT) or 0:.6g}", run.summary.get(JUDGED))
        for run in runs
        if run.summary.get("log") != SIMULATED
    }
    if len(units) > 1:
        remedy = "run the chain again with all of these seeds, or move the folders of the other seeds away"
        raise InputError("its seeds were measured by different rewards", where=where, remedy=remedy)


def _align(runs: list[Run], split: str) -> None:
    """Give all runs the same rows. If each seed is a world of its own, a run has nulls in the others' rows.

    Raises:
        InputError: seeds of another log than a simulated one have other events. Their users are the same people, who
            would count once for each seed.
    """
    ordered = sorted(runs, key=lambda run: run.seed)
    worlds = {run.seed: run.splits[split].select("user", "event") for run in ordered}
    if not worlds or all(world.equals(worlds[ordered[0].seed]) for world in worlds.values()):
        return
    for run in ordered:
        if run.summary.get("log") != SIMULATED and not worlds[run.seed].equals(worlds[ordered[0].seed]):
            count, other = len(worlds[run.seed]), ordered[0].seed
            what = f"it was measured on other {split} events ({count:,}) than seed {other}: on another log, or sample"
            remedy = "run the chain again with all of these seeds, or move the folders of the other seeds away"
            raise InputError(what, where=f"{run.method}, seed {run.seed}", remedy=remedy)
    size = max(int(world["user"].max()) for world in worlds.values()) + 1  # type: ignore[arg-type]
    apart = {seed: (pl.col("user").cast(pl.Int64) + place * size).alias("user") for place, seed in enumerate(worlds)}
    rows = pl.concat([world.with_columns(apart[seed]) for seed, world in worlds.items()])
    for run in runs:
        own = run.splits[split].with_columns(apart[run.seed])
        run.splits[split] = rows.join(own, on=["user", "event"], how="left", maintain_order="left")
