"""A biased matrix factorisation by alternating least squares: what a reward model has to beat.

    r_ui = mu + b_u + b_i + p_u . q_i,      sum of squared errors + ridge * (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2),

on training rows (Koren, Bell & Volinsky 2009); without p and q it is the ridge regression on user and item.

Suffixes: N events, U users, V items, F figures a row (1 + rank).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SWEEPS = 8
RIDGES = (1.0, 3.0, 10.0, 30.0)
"""Those that validation chooses from."""


@dataclass(frozen=True)
class ALSFactorization:
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


def fit_als(
    user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray, size: tuple[int, int], rank: int, ridge: float
) -> ALSFactorization:
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
    return ALSFactorization(mean, user_UF, item_VF, ridge)


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
