"""Read evaluations: a row per event, with the columns that a comparison's metrics need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recalign.evaluation.methods import EVALUATION_SPLITS, JUDGED
from recalign.files import read_json
from recalign.recommender.rank_metrics import gain_ndcg, hit, reciprocal

RANKS = {"hr@10": lambda rank: hit(rank, 10), "ndcg@10": lambda rank: gain_ndcg(rank, 10), "mrr": reciprocal}
ALL_USERS = "all_users/ndcg@10"
"""NDCG@10 of users A and B, the basis of NDCG retained. Values are measured on users A alone."""
GAP_TO_JUDGES = "gap/judge@10"
GAPS = (GAP_TO_JUDGES, "gap/true@10")
"""The training reward model's value minus the judges' or the true one. Models differ in level, so only the difference
to `start` tells how far a method has over-optimised."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One method with one seed: its `summary.json` and, for each split, a row per event."""

    method: str
    seed: int
    summary: dict[str, object]
    splits: dict[str, pl.DataFrame]

    @classmethod
    def read(cls, method: str, seed: int, folder: Path) -> EvaluatedRun:
        """Read the folder of an evaluation. Judges with a reward of their own have no gap to the reward model."""
        summary = read_json(folder / "summary.json")
        splits: dict[str, pl.DataFrame] = {}
        for split in EVALUATION_SPLITS:
            if (path := folder / f"{split}.parquet").is_file():
                frame = with_rank_metrics(pl.read_parquet(path, glob=False).sort("user", "event"))
                for gap in GAPS:
                    other = gap.removeprefix("gap/")
                    comparable = JUDGED not in summary or gap != GAP_TO_JUDGES
                    if comparable and {"reward_model@10", other} <= set(frame.columns):
                        frame = frame.with_columns((pl.col("reward_model@10") - pl.col(other)).alias(gap))
                if "tail" in frame.columns:
                    frame = frame.with_columns(tail_high=pl.col("tail") & pl.col("high"))
                splits[split] = frame
        return cls(method, seed, summary, splits)


def with_rank_metrics(events: pl.DataFrame) -> pl.DataFrame:
    """Add a column for each metric in `RANKS`, computed from the target's rank; null for users B (not ``in_a``).

    `ALL_USERS` is NDCG@10 of all users.
    """
    rank, in_a = events["rank"].to_numpy(), pl.col("in_a") if "in_a" in events.columns else pl.lit(True)
    found = events.with_columns(pl.Series(name, gain(rank), dtype=pl.Float64) for name, gain in RANKS.items())
    return found.with_columns(pl.col("ndcg@10").alias(ALL_USERS), *(pl.when(in_a).then(pl.col(name)) for name in RANKS))
