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
    found = []
    for path in chain_folder.glob("*/seed-*/evaluation/summary.json"):
        method, name, _, _ = path.parts[-4:]
        if (is_seed := SEED.fullmatch(name)) and path.with_name("test.parquet").is_file():
            found.append((method, int(is_seed[1]), path.parent))
    return sorted(run for run in found if (methods is None or run[0] in methods) and (seeds is None or run[1] in seeds))


def load_runs(chain_folder: Path, methods: Collection[str] | None, seeds: Collection[int] | None) -> list[Run]:
    """The evaluations of a chain that `evaluated` finds."""
    if not chain_folder.is_dir():
        raise InputError("there is no such folder", where=str(chain_folder), remedy="run `recalign chain` first")
    runs, why = [], ""
    for method, seed, folder in evaluated(chain_folder, methods, seeds):
        if gone := artifacts.outdated(folder):
            why = " with the checkpoints that it holds now"
            print(f"left out: {folder}, measured with checkpoints that are gone: {', '.join(gone)}", file=sys.stderr)
            continue
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
    for split in SPLITS:
        _align([run for run in runs if split in run.splits], split)
    return runs


def _events_of(path: Path, apart: bool) -> pl.DataFrame:
    """A split's events, with the columns that `recalign.evaluation.comparison.METRICS` names.

    Those of judges with a reward of their own, ``apart``, have no gap to the training reward model.
    """
    frame = with_gains(pl.read_parquet(path, glob=False).sort("user", "event"))
    for gap in GAPS[apart:]:
        if {"reward_model@10", other := gap.removeprefix("gap/")} <= set(frame.columns):
            frame = frame.with_columns((pl.col("reward_model@10") - pl.col(other)).alias(gap))
    return frame.with_columns(tail_high=pl.col("tail") & pl.col("high")) if "tail" in frame.columns else frame


def with_gains(events: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of `RANKS`."""
    rank = events["rank"].to_numpy()
    return events.with_columns(pl.Series(name, gain(rank), dtype=pl.Float64) for name, gain in RANKS.items())


def _require_comparable(runs: list[Run]) -> None:
    """Refuse runs of one seed that rest on other data or checkpoints, and runs of one log with other events or rewards.

    Each seed of a simulated log is a log of its own. Of another one, the users would count once for each seed.
    """
    first: dict[tuple[str, int | None], tuple[object, Run]] = {}
    for run in runs:
        log = run.seed if run.summary.get("log") == SIMULATED else None
        reward = f"{run.summary.get(UNIT) or 0:.6g}", run.summary.get(JUDGED)  # machines differ in the last bit
        base = "rests on other data, or on other checkpoints of the stages before it,"
        facts: list[tuple[str, int | None, object]] = [(base, run.seed, run.summary.get("base"))]
        facts.append(("was measured by another reward", log, reward))
        for split, frame in run.splits.items():
            events = frame.select("user", "event").to_numpy().tobytes()
            facts.append((f"was measured on other {split} events", log, events))
        for what, of, fact in facts:
            known, other = first.setdefault((what, of), (fact, run))
            if fact != known:
                where = f"{run.method}, seed {run.seed}"
                remedy = "run the chain again with every method and seed, or in another folder"
                raise InputError(f"it {what} than {other.method}, seed {other.seed}", where=where, remedy=remedy)


def _align(runs: list[Run], split: str) -> None:
    """Give all runs the same rows. If each seed is a world of its own, a run has nulls in the others' rows."""
    ordered = sorted(runs, key=lambda run: run.seed)
    worlds = {run.seed: run.splits[split].select("user", "event") for run in ordered}
    if not worlds or all(world.equals(worlds[ordered[0].seed]) for world in worlds.values()):
        return
    size = max(int(world["user"].max()) for world in worlds.values()) + 1  # type: ignore[arg-type]
    apart = {seed: (pl.col("user").cast(pl.Int64) + place * size).alias("user") for place, seed in enumerate(worlds)}
    rows = pl.concat([world.with_columns(apart[seed]) for seed, world in worlds.items()])
    for run in runs:
        own = run.splits[split].with_columns(apart[run.seed])
        run.splits[split] = rows.join(own, on=["user", "event"], how="left", maintain_order="left")
