"""Where a reward model errs: by item, popularity and user activity, by prediction, and by the members' spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate, correlation
from recalign.reward.trust.measures import Sums, by_user, minus, ratios, scaled_ranks

BINS = 10


def by_group(events: pl.DataFrame, column: str, against: str, bootstrap: CrossedBootstrap) -> list[dict[str, Any]]:
    """RMSE of the model and of another predictor by group of events, and their paired difference.

    Args:
        events: ``person`` (from 0), ``reward``, ``model``, ``against``, and the column to group by.
        column: whose values are the groups, in ascending order.
        against: the other predictor.
        bootstrap: of the persons.
    """
    users, groups = bootstrap.users, sorted(events.group_by(column, maintain_order=True))
    sums: Sums = {}
    for (group,), part in groups:
        squares = {
            f"{group}/{name}": np.square((part[name] - part["reward"]).to_numpy()) for name in ("model", against)
        }
        sums |= by_user(part["person"].to_numpy(), users, squares)
    value, drawn = ratios(sums, bootstrap)
    rmse = {key: Estimate(float(np.sqrt(value[key])), np.sqrt(drawn[key])) for key in sums}
    rows = []
    for (group,), part in groups:
        own, other = rmse[f"{group}/model"], rmse[f"{group}/{against}"]
        found = {"group": group, "events": len(part), "rmse": own.value, f"rmse_{against}": other.value}
        rows.append(found | {"difference": with_interval(minus(own, other))})
    return rows


def with_interval(estimate: Estimate) -> list[float]:
    """Value and ends of the 95 % interval."""
    return [estimate.value, *estimate.interval()]


def quantile_bins(value_N: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Which of ``bins`` parts of equal size each value belongs to, from 1; equal values share the lowest."""
    edges = np.quantile(value_N, np.arange(1, bins) / bins)
    return np.searchsorted(edges, value_N) + 1


def calibration(predicted_N: np.ndarray, reward_N: np.ndarray) -> dict[str, Any]:
    """Mean reward by tenths of the predictions.

    Returns:
        ``bins`` (predicted, observed, events); ``error``, the expected calibration error in the reward's unit;
        ``slope`` of the reward on the prediction, below 1 where predictions vary more than rewards warrant.
    """
    bins = _means(quantile_bins(predicted_N), predicted=predicted_N, observed=reward_N)
    error = sum(row["events"] * abs(row["observed"] - row["predicted"]) for row in bins) / len(reward_N)
    variance = predicted_N.var()
    slope = float(np.mean((predicted_N - predicted_N.mean()) * reward_N) / variance) if variance > 0 else None
    return {"error": error, "slope": slope, "bins": bins}


def spread_and_error(events: pl.DataFrame, bootstrap: CrossedBootstrap) -> dict[str, Any] | None:
    """Whether the members disagree where the model errs.

    Returns:
        ``rank_correlation`` of spread and absolute error with its interval, and ``bins``: mean spread and RMSE by
        tenths of the spread. None for a single member.
    """
    spread_N = events["spread"].to_numpy()
    if not spread_N.any():
        return None
    error_N = (events["model"] - events["reward"]).abs().to_numpy()
    x_N, y_N = scaled_ranks(spread_N), scaled_ranks(error_N)
    products = {"x": x_N, "xx": x_N**2, "xy": x_N * y_N, "y": y_N, "yy": y_N**2}
    value, drawn = ratios(by_user(events["person"].to_numpy(), bootstrap.users, products), bootstrap)
    found = Estimate(float(correlation(**value)), correlation(**drawn))
    rows = _means(quantile_bins(spread_N), spread=spread_N, square=error_N**2)
    bins = [{"spread": r["spread"], "rmse": float(np.sqrt(r["square"])), "events": r["events"]} for r in rows]
    return {"rank_correlation": with_interval(found), "bins": bins}


def _means(group_N: np.ndarray, **columns: np.ndarray) -> list[dict[str, Any]]:
    frame = pl.DataFrame({"group": group_N, **columns})
    means = [pl.col(name).mean() for name in columns]
    return frame.group_by("group").agg(*means, events=pl.len()).sort("group").to_dicts()
