"""Read evaluations: a row an event, with the columns that the metrics of a comparison read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recalign.data.events.log import SIMULATED
from recalign.errors import InputError
from recalign.evaluation.methods import JUDGED, UNIT
from recalign.files import read_json
from recalign.recommender.rank_metrics import gain_ndcg, hit, reciprocal

SPLITS = ("test", "validation")
RANKS = {"hr@10": lambda rank: hit(rank, 10), "ndcg@10": lambda rank: gain_ndcg(rank, 10), "mrr": reciprocal}
GAPS = ("gap/judge@10", "gap/true@10")
"""The training reward model's value less another's. Models differ in level, so only the difference to `start` tells how
far a method has over-optimised."""


@dataclass(frozen=True)
class Run:
    """One method with one seed: its `summary.json` and, for each split, a row an event."""

    method: str
    seed: int
    summary: dict[str, object]
    splits: dict[str, pl.DataFrame]

    @classmethod
    def read(cls, method: str, seed: int, folder: Path) -> Run:
        """Read the folder of an evaluation. Judges with a reward of their own have no gap to the reward model."""
        summary, splits = read_json(folder / "summary.json"), {}
        for split in SPLITS:
            if (path := folder / f"{split}.parquet").is_file():
                frame = with_gains(pl.read_parquet(path, glob=False).sort("user", "event"))
                for gap in GAPS[JUDGED in summary :]:
                    if {"reward_model@10", other := gap.removeprefix("gap/")} <= set(frame.columns):
                        frame = frame.with_columns((pl.col("reward_model@10") - pl.col(other)).alias(gap))
                if "tail" in frame.columns:
                    frame = frame.with_columns(tail_high=pl.col("tail") & pl.col("high"))
                splits[split] = frame
        return cls(method, seed, summary, splits)


def with_gains(events: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of `RANKS`."""
    rank = events["rank"].to_numpy()
    return events.with_columns(pl.Series(name, gain(rank), dtype=pl.Float64) for name, gain in RANKS.items())


def require_comparable(runs: Sequence[Run]) -> None:
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


def align(runs: Sequence[Run], split: str) -> None:
    """Give all runs the same rows. If each seed is a world of its own, a run has nulls in the others' rows."""
    ordered = sorted((run for run in runs if split in run.splits), key=lambda run: run.seed)
    worlds = {run.seed: run.splits[split].select("user", "event") for run in ordered}
    if not worlds or all(world.equals(worlds[ordered[0].seed]) for world in worlds.values()):
        return
    size = max(int(world["user"].max()) for world in worlds.values()) + 1  # type: ignore[arg-type]
    apart = {seed: (pl.col("user").cast(pl.Int64) + place * size).alias("user") for place, seed in enumerate(worlds)}
    rows = pl.concat([world.with_columns(apart[seed]) for seed, world in worlds.items()])
    for run in ordered:
        own = run.splits[split].with_columns(apart[run.seed])
        run.splits[split] = rows.join(own, on=["user", "event"], how="left", maintain_order="left")
