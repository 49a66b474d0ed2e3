"""Where a reward model errs: by item, popularity and user, by what it predicts, and by how unsure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from recalign.metrics.bootstrap import CrossedBootstrap, Estimate
from recalign.reward.trust.measures import correlation, ratios

BINS = 10


def by_group(events: pl.DataFrame, column: str, against: str, bootstrap: CrossedBootstrap) -> list[dict[str, Any]]:
    """RMSE of the model and of another predictor on the events of each group, and their paired difference.

    Args:
        events: ``person`` (from 0), ``reward``, ``model``, ``against``, and the column to group by.
        column: whose values are the groups, in ascending order.
        against: the other predictor.
        bootstrap: of the persons.
    """
    person_N, group_N = events["person"].to_numpy(), events[column].to_numpy()
    reward_N, users = events["reward"].to_numpy(), bootstrap.weight_DU.shape[1]
    groups, sums = sorted(set(group_N.tolist())), {}
    for group in groups:
        chosen = group_N == group
        count = np.bincount(person_N[chosen], minlength=users)
        for name in ("model", against):
            error = np.square(events[name].to_numpy() - reward_N)[chosen]
            sums[f"{group}/{name}"] = np.bincount(person_N[chosen], error, users), count
    value, drawn = ratios(sums, bootstrap)
    rows = []
    for group in groups:
        rmse, other = (
            Estimate(float(np.sqrt(value[k])), np.sqrt(drawn[k])) for k in (f"{group}/model", f"{group}/{against}")
        )
        difference = Estimate(rmse.value - other.value, rmse.draws_D - other.draws_D)
        rows.append(
            {
                "group": group,
                "events": int((group_N == group).sum()),
                "rmse": rmse.value,
                f"rmse_{against}": other.value,
                "difference": [difference.value, *difference.interval()],
            }
        )
    return rows


def tenths(value_N: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Which of ``bins`` parts of equal size each value belongs to, from 1; equal values share the lowest."""
    edges = np.quantile(value_N, np.arange(1, bins) / bins)
    return np.searchsorted(edges, value_N) + 1


def calibration(predicted_N: np.ndarray, reward_N: np.ndarray) -> dict[str, Any]:
    """Mean reward by what was predicted, in tenths of the predictions.

    Returns:
        ``bins`` (predicted, observed, events); ``error``, the mean distance of the two over events (expected
        calibration error), in the reward's unit; ``slope`` of the reward on the prediction: below 1 where predictions
        differ by more than rewards do.
    """
    rows = _means(tenths(predicted_N), predicted=predicted_N, observed=reward_N)
    count, gap = (np.array([row[key] for row in rows]) for key in ("events", "observed"))
    gap = np.abs(gap - np.array([row["predicted"] for row in rows]))
    variance = predicted_N.var()
    slope = float(np.mean((predicted_N - predicted_N.mean()) * reward_N) / variance) if variance > 0 else None
    return {"error": float((count * gap).sum() / count.sum()), "slope": slope, "bins": rows}


def spread_and_error(events: pl.DataFrame, bootstrap: CrossedBootstrap) -> dict[str, Any] | None:
    """Whether a model is right to be unsure: the members' spread against the size of the error.

    Returns:
        ``rank_correlation`` with its interval, and ``bins``: in tenths of the spread, its mean and the error's root
        mean square. None for a single member, which has no spread.
    """
    spread_N = events["spread"].to_numpy()
    if not spread_N.any():
        return None
    error_N = (events["model"] - events["reward"]).abs()
    x_N, y_N = (pl.Series(v).rank("average").to_numpy() / len(v) - 0.5 for v in (spread_N, error_N))
    person_N, users = events["person"].to_numpy(), bootstrap.weight_DU.shape[1]
    count = np.bincount(person_N, minlength=users)
    products = {"x": x_N, "xx": x_N**2, "xy": x_N * y_N, "y": y_N, "yy": y_N**2}
    value, drawn = ratios({k: (np.bincount(person_N, v, users), count) for k, v in products.items()}, bootstrap)
    found = Estimate(float(correlation(**value)), correlation(**drawn))
    rows = _means(tenths(spread_N), spread=spread_N, square=error_N.to_numpy() ** 2)
    bins = [{"spread": r["spread"], "rmse": float(np.sqrt(r["square"])), "events": r["events"]} for r in rows]
    return {"rank_correlation": [found.value, *found.interval()], "bins": bins}


def _means(group_N: np.ndarray, **columns: np.ndarray) -> Sequence[dict[str, Any]]:
    means = [pl.col(name).mean() for name in columns]
    return (
        pl.DataFrame({"group": group_N, **columns})
        .group_by("group")
        .agg(*means, events=pl.len())
        .sort("group")
        .to_dicts()
    )
