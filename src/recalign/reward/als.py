"""Biased matrix factorisation by alternating least squares: a baseline that a reward model has to beat.

    r_ui = mu + b_u + b_i + p_u . q_i,      sum of squared errors + ridge * (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2),

on training rows (Koren, Bell & Volinsky 2009). With rank 0 it is a ridge regression on user and item.

Suffixes: N events, U users, V items, R rows of one side, C rows of the other, F parameters of a row (1 + rank).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

SWEEPS = 8
RIDGES = (1.0, 3.0, 10.0, 30.0)
"""Candidates; validation chooses one."""


@dataclass(frozen=True)
class ALSFactorization:
    """A fitted factorisation.

    Attributes:
        mean: mu.
        user_UF, item_VF: b and p of each user, b and q of each item; 0 without a training row.
    """

    mean: float
    user_UF: np.ndarray
    item_VF: np.ndarray

    def expected(self, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """Expected rewards of (user, item) pairs. Shape: (N,), (N,) -> (N,)."""
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
        rank: dimensions of p and q; 0: biases only.
        ridge: weight of the squared parameters, with rewards in standard deviations: a ridge on products p . q would
            otherwise weigh more in a smaller unit.
    """
    rng, mean, scale = np.random.default_rng(0), float(reward_N.mean()), float(reward_N.std()) or 1.0
    item_VF = np.concatenate([np.zeros((size[1], 1)), rng.normal(0, 0.1, (size[1], rank))], axis=1)
    z_N = (reward_N.astype(float) - mean) / scale
    count, total = (csr_array((v, (user_N, item_N)), shape=size) for v in (np.ones(len(reward_N)), z_N))
    for _ in range(SWEEPS):
        user_UF = _solve(count, total, item_VF, ridge)
        item_VF = _solve(count.T, total.T, user_UF, ridge)
    unit_F = np.array([scale] + [scale**0.5] * rank)
    return ALSFactorization(mean, user_UF * unit_F, item_VF * unit_F)


def _solve(count_RC: csr_array, reward_RC: csr_array, other_CF: np.ndarray, ridge: float) -> np.ndarray:
    """Solve one side's ridge regressions given the other side, from counts and sums of rewards. Shape: (R, F)."""
    x_CF = other_CF.copy()
    x_CF[:, 0] = 1
    width = x_CF.shape[1]
    gram_RFF = (count_RC @ (x_CF[:, :, None] * x_CF[:, None]).reshape(-1, width**2)).reshape(-1, width, width)
    right_RF = reward_RC @ x_CF - count_RC @ (x_CF * other_CF[:, :1])
    return np.linalg.solve(gram_RFF + ridge * np.eye(width), right_RF[..., None])[..., 0]
