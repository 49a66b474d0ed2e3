"""Quality of predicted rewards, with bootstrap intervals over users and paired differences.

Every figure is a function of ratios of sums over users, so one bootstrap of users (`recalign.bootstrap`) resamples
all figures of all predictors at once. For that, every draw keeps the whole sample's ranks (Spearman) and placements
among the other class (AUC; DeLong, DeLong & Clarke-Pearson 1988).

Suffixes: N events, C following events, U users, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate

FIGURES = ("rmse", "mae", "r2", "spearman", "auc", "pairwise")
"""Lower is better for the first two, higher for the others."""

MEANS = ("global", "user", "item", "user_item")
"""Averages that a reward model has to beat, columns of `RewardData.means`."""

Sums = dict[Any, tuple[np.ndarray, np.ndarray]]
"""By name: each user's sum, and number of events."""
Table = dict[str, dict[str, Estimate]]


def prediction_errors(expected: pl.DataFrame, predicted: pl.Series) -> dict[str, float]:
    """``rmse``, ``mae`` and ``r2`` = 1 - MSE / variance of a model, and ``rmse_<mean>`` for each of `MEANS`.

    Args:
        expected: a row per event with ``reward`` and the means. Events without a reward are ignored. If all rewards are
            equal, ``r2`` is nan.
        predicted: the model's expected reward of each event, float32.
    """
    known = expected.with_columns(model=predicted).drop_nulls("reward")
    reward_N = known["reward"].to_numpy()
    errors = {name: known[name].to_numpy() - reward_N for name in ("model", *MEANS)}
    mse = {name: float(np.square(error_N).mean()) for name, error_N in errors.items()}
    r2 = 1 - mse["model"] / float(reward_N.var()) if (reward_N != reward_N[:1]).any() else math.nan
    found = {"rmse": mse["model"] ** 0.5, "mae": float(np.abs(errors["model"]).mean()), "r2": r2}
    return found | {f"rmse_{name}": mse[name] ** 0.5 for name in MEANS}


def measure(
    user_N: np.ndarray,
    reward_N: np.ndarray,
    high_N: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    ahead: Mapping[str, np.ndarray],
    bootstrap: CrossedBootstrap,
) -> Table:
    """Measure several predictors on the same events.

    - ``rmse``, ``mae``: in the reward's unit; ``r2``: 1 - MSE / variance;
    - ``spearman``: rank correlation over all events;
    - ``auc``: probability that a high reward is predicted above one that is not high;
    - ``pairwise``: share of pairs of one user's events with different rewards that are predicted in the right order
      (ties count half), both from the history before the earlier event. (Predictions made at different times
      must not be compared: the later one has seen the earlier reward and leans towards it.)

    Args:
        user_N: int64, from 0, ascending.
        reward_N: rewards.
        high_N: bool, whether each reward is high.
        predicted: (N,) by predictor.
        ahead: (N, C) by predictor: predictions for the C following events minus the prediction for the event itself;
            nan if they are no pair.
        bootstrap: of these users.

    Returns:
        By predictor and figure; nan if a figure is undefined (a rank correlation with a constant).
    """
    users, rank_N, centred_N = bootstrap.users, scaled_ranks(reward_N), centred(reward_N)
    sums = by_user(user_N, users, {"r": centred_N, "rr": centred_N**2, "y": rank_N, "yy": rank_N**2})
    for name, predicted_N in predicted.items():
        error_N, x_N = predicted_N - reward_N, scaled_ranks(predicted_N)
        products = {"se": error_N**2, "ae": np.abs(error_N), "x": x_N, "xx": x_N**2, "xy": x_N * rank_N}
        sums |= by_user(user_N, users, {f"{name}/{key}": value_N for key, value_N in products.items()})
        placed_N = _placements(predicted_N, high_N)
        for which, chosen_N in (("high", high_N), ("low", ~high_N)):
            sums |= by_user(user_N[chosen_N], users, {f"{name}/{which}": placed_N[chosen_N]})
        sums[f"{name}/pair"] = ordered_pairs(user_N, reward_N, ahead[name], users)
    of, table = ratios(sums, bootstrap), {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in predicted:
            x, xx, xy, se = (of[f"{name}/{key}"] for key in ("x", "xx", "xy", "se"))
            figures = {
                "rmse": np.sqrt(se),
                "mae": of[f"{name}/ae"],
                "r2": explained(se, of["r"], of["rr"]),
                "spearman": correlation(x, xx, xy, of["y"], of["yy"]),
                "auc": of[f"{name}/high"] + of[f"{name}/low"],
                "pairwise": of[f"{name}/pair"],
            }
            table[name] = {figure: estimate(value_D1) for figure, value_D1 in figures.items()}
    return table


def by_user(user_N: np.ndarray, users: int, values: Mapping[Any, np.ndarray]) -> Sums:
    """Sum named values (N,) over each user's events, and count these events."""
    count_U = np.bincount(user_N, minlength=users)
    return {name: (np.bincount(user_N, value_N, users), count_U) for name, value_N in values.items()}


def ratios(sums: Sums, bootstrap: CrossedBootstrap) -> dict[Any, np.ndarray]:
    """Ratios of sums over users by name: first of the sample, then of each draw. Shape: (1 + D,) each."""
    total, count = (np.stack(each).astype(float) for each in zip(*sums.values(), strict=True))
    return dict(zip(sums, np.vstack(bootstrap.ratios(total, count)).T, strict=True))


def estimate(value_D1: np.ndarray) -> Estimate:
    """Make an `Estimate` from a figure's values on the sample and on each draw, as from `ratios`."""
    return Estimate(float(value_D1[0]), value_D1[1:])


def differences(table: Table) -> Table:
    """The model's figures minus those of each other predictor."""
    model = table["model"]
    others = {name: figures for name, figures in table.items() if name != "model"}
    return {name: {f: model[f] - other for f, other in figures.items()} for name, figures in others.items()}


def variance(reward_N: np.ndarray) -> float:
    """The variance of rewards; nan if all are equal (rounding may give these a variance above 0)."""
    return float(reward_N.var()) if (reward_N != reward_N[:1]).any() else math.nan


def centred(reward_N: np.ndarray) -> np.ndarray:
    """Rewards minus their median: if all are equal, the result is exactly 0."""
    return reward_N - np.median(reward_N)


def explained(se: np.ndarray, r: np.ndarray, rr: np.ndarray) -> np.ndarray:
    """R2 from means of squared errors, of `centred` rewards r and of r^2; nan if all rewards are equal."""
    variance = rr - r**2
    return np.where(variance > 1e-12 * rr, 1 - se / variance, np.nan)


def scaled_ranks(value_N: np.ndarray) -> np.ndarray:
    """Ranks scaled to -1..1; ties get their mean rank."""
    return 2 * _ranks(value_N) / (len(value_N) + 1) - 1


def _ranks(value_N: np.ndarray) -> np.ndarray:
    return pl.Series(value_N).rank("average").to_numpy()


def _placements(predicted_N: np.ndarray, high_N: np.ndarray) -> np.ndarray:
    """Values whose means over the high and over the low events add up to the AUC.

    A high event gets the share of low events predicted below it. A low event gets the share of high events predicted
    above it, minus the AUC. Ties count half. nan if there is only one class.
    """
    out_N = np.full(len(predicted_N), np.nan)
    if high_N.all() or not high_N.any():
        return out_N
    rank_N = _ranks(predicted_N)
    for own_N in (high_N, ~high_N):  # rank among all - rank in its class = number below in the other class
        out_N[own_N] = (rank_N[own_N] - _ranks(predicted_N[own_N])) / (~own_N).sum()
    out_N[~high_N] = 1 - out_N[~high_N] - out_N[high_N].mean()
    return out_N


def ordered_pairs(
    user_N: np.ndarray, reward_N: np.ndarray, ahead_NC: np.ndarray, users: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each user's number of correctly ordered pairs, and of pairs. Arguments as in `measure`. Shape: (U,) each."""
    better_NC = following(reward_N, ahead_NC.shape[1]) - reward_N[:, None]
    pair_NC = ~np.isnan(ahead_NC) & ~np.isnan(better_NC) & (better_NC != 0)
    right_NC = np.where(pair_NC, (1 + np.sign(better_NC) * np.sign(ahead_NC)) / 2, 0)
    return np.bincount(user_N, right_NC.sum(axis=1), users), np.bincount(user_N, pair_NC.sum(axis=1), users)


def following(value_N: np.ndarray, count: int) -> np.ndarray:
    """For each value the next ``count`` values, of any user; nan past the end. Shape: (N,) -> (N, count)."""
    padded = np.concatenate([value_N, np.full(count, np.nan)])
    return np.lib.stride_tricks.sliding_window_view(padded[1:], count)[: len(value_N)]


def with_interval(estimate: Estimate) -> list[float]:
    """Value, and lower and upper end of the 95 % interval."""
    return [estimate.value, *estimate.interval()]


def quantile_bins(value_N: np.ndarray, bins: int = 10) -> np.ndarray:
    """The quantile bin of each value, 1 to ``bins``; equal values share the lowest bin."""
    return np.searchsorted(np.quantile(value_N, np.arange(1, bins) / bins), value_N) + 1


def calibration(predicted_N: np.ndarray, reward_N: np.ndarray) -> dict[str, Any]:
    """Mean reward by tenths of the predictions: ``bins`` with ``predicted``, ``observed`` and ``events``."""
    frame = pl.DataFrame({"bin": quantile_bins(predicted_N), "predicted": predicted_N, "observed": reward_N})
    means = pl.col("predicted", "observed").mean()
    return {"bins": frame.group_by("bin").agg(means, events=pl.len()).sort("bin").drop("bin").to_dicts()}


def correlation(x: np.ndarray, xx: np.ndarray, xy: np.ndarray, y: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Correlation from means of x, x^2, x y, y and y^2; nan if x or y is constant."""
    spread = (xx - x**2) * (yy - y**2)
    return np.where(spread > 1e-12, (xy - x * y) / np.sqrt(np.maximum(spread, 1e-300)), np.nan)
