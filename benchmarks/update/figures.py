"""The figures of `update.py`'s rows, and what they say: update, retrain or leave.

The verdict rests on paired differences of NDCG@10 between rows, users and seeds drawn with replacement. If neither
update nor retrain is better than stale (lower end of the 95 % interval above 0): leave. Else, if retrain is better than
update: retrain. Else: update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from benchmarks.lib import average, by_metric, commit, frame, lines
from recalign.bootstrap import CrossedBootstrap, Estimate

STALE, UPDATE, RETRAIN, EQUAL, POPULARITY = "stale", "update", "retrain", "retrain, equal compute", "popularity"
Pair = tuple[str, str]
DECISIVE = ((UPDATE, STALE), (RETRAIN, STALE), (RETRAIN, UPDATE))
"""Rows whose differences make the verdict."""


def summary(events: pl.DataFrame, log: str, seeds: list[int]) -> pl.DataFrame:
    """Figures of every row, a mean over the windows of each seed, as results are saved."""
    rows = []
    for row in events["row"].unique(maintain_order=True):
        cells = []
        for seed in seeds:
            own = events.filter((pl.col("row") == row) & (pl.col("seed") == seed))
            cells.append(
                {f"{stage}/{name}": value for stage in ("start", "asft") for name, value in figures(own, stage).items()}
            )
        rows.append(lines(log, row, by_metric(cells), seeds, average))
    return pl.concat(rows) if rows else frame([])


def figures(events: pl.DataFrame, stage: str) -> dict[str, float]:
    """The figures of one row, seed and stage: means over the windows that have such events."""
    new_user, new_item = pl.col("new user"), pl.col("new item")
    kinds = {"all": pl.lit(True), "known": ~new_user & ~new_item, "new users": new_user, "new items": new_item}
    own, found = events.filter(pl.col("stage") == stage), {}
    for name, chosen in kinds.items():
        by_window = own.filter(chosen).group_by("window").agg(pl.col("ndcg").mean())["ndcg"]
        if len(by_window):
            found[name] = float(by_window.mean())  # type: ignore[arg-type]
    for name in ("true@10", "seconds"):
        if len(known := own[name].drop_nulls()):
            found[name] = float(known.mean())  # type: ignore[arg-type]
    return found


def differences(events: pl.DataFrame, pairs: Sequence[Pair], column: str = "ndcg") -> dict[Pair, Estimate]:
    """The differences of some pairs of rows, in NDCG@10 or another column; of one stage's test events."""
    return {pair: difference(events, *pair, column) for pair in pairs}


def said(ends: Mapping[Pair, Estimate]) -> str:
    """Differences with their 95 % intervals, in a line."""
    found = ((*pair, one.value, *one.interval()) for pair, one in ends.items())
    return "; ".join("{} - {}: {:+.4f} [{:+.4f}, {:+.4f}]".format(*one) for one in found)


def as_saved(log: str, metric: str, ends: Mapping[Pair, Estimate], seeds: Sequence[int]) -> pl.DataFrame:
    """Differences as results are saved."""
    rest = " ".join(map(str, seeds)), commit()
    rows = [(log, f"{a} - {b}", metric, one.value, None, *one.interval(), *rest) for (a, b), one in ends.items()]
    return frame(rows)


def verdict(ends: Mapping[Pair, Estimate]) -> str:
    """Update, retrain or leave, by the differences of `DECISIVE`."""
    better = {pair: ends[pair].interval()[0] > 0 for pair in DECISIVE}
    if not better[UPDATE, STALE] and not better[RETRAIN, STALE]:
        return "leave"
    return "retrain" if better[RETRAIN, UPDATE] else "update"


def difference(events: pl.DataFrame, one: str, other: str, column: str = "ndcg") -> Estimate:
    """The mean difference between two rows, by event, in a column, over seeds, each with people of its own."""
    key = ["seed", "window", "event", "user"]
    pairs = events.filter(pl.col("row") == one).join(events.filter(pl.col("row") == other), on=key, suffix=" other")
    less = pl.col(column) - pl.col(f"{column} other")
    by_user = pairs.group_by("seed", "user").agg(total=less.sum(), count=pl.len())
    seed_U = by_user["seed"].rank("dense").to_numpy() - 1
    total_SU, count_SU = np.zeros((2, int(seed_U.max()) + 1, len(by_user)))
    people = np.arange(len(by_user))
    total_SU[seed_U, people], count_SU[seed_U, people] = by_user["total"], by_user["count"]
    return CrossedBootstrap(len(by_user)).mean(total_SU, count_SU)
