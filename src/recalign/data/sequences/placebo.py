"""Rewards without their signal, for negative controls: permuted so that only each user's mean is left of it.

Suffix: N events.
"""

from __future__ import annotations

import numpy as np

CORRELATION = "placebo/correlation"
"""A fact of a placebo's run and a figure of its row: the signal left in it (`correlation_within_users`)."""


def permuted_rewards(reward_N: np.ndarray, user_N: np.ndarray, seed: int) -> np.ndarray:
    """Permute the rewards' deviations from their user's mean over the events of all users.

    r'_e = m_u + (r - m)_s(e): m_u is the mean reward of e's user, s a permutation of the events that have a reward. So
    (r - m)_s(e) reveals neither an item's quality nor a user's taste. A shuffle within each user would reveal much of
    both: in a short history it often returns a reward to its own event. A user's new mean is m_u plus the mean of the
    residuals it receives.
    m_u itself holds 1 / n of each of the user's n rewards: in short histories it has much of the items' quality.

    The seed and the number of events determine s, so two columns of the same events are permuted alike; if one of them
    lacks rewards, s skips these events.

    NaN (no reward) stays NaN and counts in no mean. Shape: (N,), int64 (N,) -> float64 (N,).
    """
    known_N = ~np.isnan(reward_N)
    permutation_N = np.random.default_rng(seed).permutation(len(reward_N))
    origin_N = permutation_N.copy()
    while (lost_N := known_N & ~known_N[origin_N]).any():
        origin_N[lost_N] = permutation_N[origin_N[lost_N]]
    residual_N = _residuals(reward_N, user_N)
    return reward_N - residual_N + residual_N[origin_N]


def correlation_within_users(first_N: np.ndarray, second_N: np.ndarray, user_N: np.ndarray) -> float:
    """Correlation of two figures of events after user means are subtracted; NaN if one of them does not vary.

    Events that lack either figure (NaN) are left out.
    """
    known_N = ~np.isnan(first_N) & ~np.isnan(second_N)
    one_N, other_N = (_residuals(figure_N[known_N], user_N[known_N]) for figure_N in (first_N, second_N))
    scale = np.sqrt(np.square(one_N).sum() * np.square(other_N).sum())
    return float((one_N * other_N).sum() / scale) if scale > 0 else float("nan")


def _residuals(figure_N: np.ndarray, user_N: np.ndarray) -> np.ndarray:
    """Figures minus their user's mean; NaN stays. Shape: (N,) -> float64 (N,)."""
    count_U = np.bincount(user_N, ~np.isnan(figure_N))
    mean_U = np.bincount(user_N, np.nan_to_num(figure_N)) / np.maximum(count_U, 1)
    return figure_N - mean_U[user_N]
