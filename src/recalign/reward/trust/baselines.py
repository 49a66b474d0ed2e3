"""What a reward model has to beat besides averages: user + item by ridge regression, and a matrix factorisation.

    r_ui = mu + b_u + b_i + p_u . q_i,      sum of squared errors + ridge * (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2),

by alternating least squares (Koren, Bell & Volinsky 2009) on training rows; without p and q it is the ridge regression.
A reward model also sees what a user thought of the events since training, so the user's level is brought up to date
by the shrunk mean of their residuals; and the ridge and the rank are those with the smallest error on validation.

Suffixes: N events, U users, V items, F figures a row (1 + rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from recalign.sequences.splits import TRAIN, VALIDATION

RIDGES = (1.0, 3.0, 10.0, 30.0)
RANKS = (2, 8)
SWEEPS = 8


@dataclass(frozen=True)
class Factors:
    """A fitted factorisation.

    Attributes:
        mean: mu.
        user_UF, item_VF: b and p of each user, b and q of each item; zeros for who or what has no training row.
        ridge: the weight of their squares.
    """

    mean: float
    user_UF: np.ndarray
    item_VF: np.ndarray
    ridge: float

    def expected(self, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """Shape: (N,), (N,) -> (N,)."""
        p_NF, q_NF = self.user_UF[user_N], self.item_VF[item_N]
        return self.mean + p_NF[:, 0] + q_NF[:, 0] + (p_NF[:, 1:] * q_NF[:, 1:]).sum(axis=1)


def factorise(
    user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray, size: tuple[int, int], rank: int, ridge: float
) -> Factors:
    """Fit by alternating least squares.

    Args:
        user_N, item_N: int64, from 0.
        reward_N: rewards.
        size: U and V.
        rank: of p and q; 0 for a regression on user and item alone.
        ridge: weight of the squares.
    """
    rng = np.random.default_rng(0)
    user_UF = np.zeros((size[0], 1 + rank))
    item_VF = np.concatenate([np.zeros((size[1], 1)), rng.normal(0, 0.1, (size[1], rank))], axis=1)
    mean = float(reward_N.mean())
    for _ in range(SWEEPS):
        user_UF = _solve(user_N, item_VF[item_N], reward_N - mean, size[0], ridge)
        item_VF = _solve(item_N, user_UF[user_N], reward_N - mean, size[1], ridge)
    return Factors(mean, user_UF, item_VF, ridge)


def _solve(row_N: np.ndarray, other_NF: np.ndarray, target_N: np.ndarray, rows: int, ridge: float) -> np.ndarray:
    """The rows that fit the target given the other side's. Shape: (rows, F)."""
    x_FN = np.concatenate([np.ones((1, len(row_N))), other_NF[:, 1:].T])
    rest_N = target_N - other_NF[:, 0]
    normal = np.empty((rows, len(x_FN), len(x_FN)))
    for i, x_N in enumerate(x_FN):
        for j in range(i + 1):
            normal[:, i, j] = normal[:, j, i] = np.bincount(row_N, x_N * x_FN[j], rows)
    right = np.stack([np.bincount(row_N, x_N * rest_N, rows) for x_N in x_FN], axis=1)
    return np.linalg.solve(normal + ridge * np.eye(len(x_FN)), right[..., None])[..., 0]


def fitted_baselines(frame: pl.DataFrame, num_items: int) -> tuple[pl.DataFrame, dict[str, dict[str, float]]]:
    """Expected rewards by ridge regression and by matrix factorisation.

    Args:
        frame: the events of a group of users in order, with ``event``, ``user``, ``item_id``, ``split``, ``reward``.
        num_items: V.

    Returns:
        ``event``, ``ridge`` and ``factors`` (f64), a row an event, the same with ``_fixed`` before the levels were
        brought up to date, and the settings that validation chose for each.
    """
    columns, chosen = {}, {}
    for name, ranks in (("ridge", (0,)), ("factors", RANKS)):
        columns[name], columns[f"{name}_fixed"], chosen[name] = _best(frame, num_items, ranks)
    return frame.select("event", **{name: pl.Series(values) for name, values in columns.items()}), chosen


def _best(frame: pl.DataFrame, num_items: int, ranks: Sequence[int]) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    user_N = np.unique(frame["user"].to_numpy(), return_inverse=True)[1]
    item_N = frame["item_id"].to_numpy()
    reward_N = frame["reward"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    part_N, rated_N = frame["split"].to_numpy(), ~np.isnan(reward_N)
    fit_N, size = rated_N & (part_N == TRAIN), (int(user_N.max()) + 1, num_items + 1)
    measured_N = rated_N & (part_N == VALIDATION) & (item_N > 0)
    tried = []
    for rank in ranks:
        for ridge in RIDGES:
            factors = factorise(user_N[fit_N], item_N[fit_N], reward_N[fit_N], size, rank, ridge)
            fixed_N = factors.expected(user_N, item_N)
            expected_N = _up_to_date(frame, fixed_N, ridge)
            error = np.square(expected_N - reward_N)[measured_N].mean() if measured_N.any() else ridge
            tried.append((error, {"rank": rank, "ridge": ridge}, expected_N, fixed_N))
    _, settings, expected_N, fixed_N = min(tried, key=lambda one: one[0])
    return expected_N, fixed_N, settings


def _up_to_date(frame: pl.DataFrame, expected_N: np.ndarray, ridge: float) -> np.ndarray:
    """Expected rewards with the users' levels as their earlier events since training have shown them."""
    known = pl.col("reward").is_not_null()
    residual = pl.when(known & (pl.col("split") > TRAIN)).then(pl.col("reward") - pl.col("expected")).otherwise(0.0)
    before = [x.cum_sum().shift(1, fill_value=0.0).over("user") for x in (residual, known.cast(pl.Float64))]
    columns = frame.select("user", "reward", "split", expected=pl.Series(expected_N))
    return columns.select(pl.col("expected") + before[0] / (before[1] + ridge)).to_series().to_numpy()
