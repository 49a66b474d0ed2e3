"""A Bayesian matrix factorisation: what a reward model starts from.

    r_ui = mu + b_u + b_i + p_u . q_i + noise,

every figure of a user or an item normal around 0 with a variance that all users, or all items, share. By variational
Bayes (Lim & Teh 2007): users given what is believed of items, items given users, then the variances and the noise's,
until little changes. Nothing is chosen: how far a row is drawn to 0 follows from its events, and a figure that the
rewards do not bear out vanishes, for everybody (MacKay 1994, automatic relevance determination).

Taste and traits have no unit of their own, as p / c and c q expect the same rewards: only their products do.

Suffixes: N events, R rows (of users or of items), F figures a row (1 + rank): the level b, then the taste or traits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SWEEPS = 20
"""At most."""
LITTLE = 3e-4
"""Change of the noise from sweep to sweep, as a share of it, after which no more is to be had."""
LEAST = 1e-4
"""Noise that is always left, as a share of the rewards' variance: items may explain them to the last digit."""
CHUNK = 50_000


@dataclass(frozen=True)
class Side:
    """What is believed of users, or of items.

    Attributes:
        mean_RF, covariance_RFF: of each row's figures.
        precision_F: one over the variance of a figure between rows.
    """

    mean_RF: np.ndarray
    covariance_RFF: np.ndarray
    precision_F: np.ndarray

    @property
    def variance_RF(self) -> np.ndarray:
        """Of each row's figures."""
        return np.diagonal(self.covariance_RFF, axis1=1, axis2=2).copy()

    def regressors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of x = (1, all figures but b), by which the other side's are regressed: E[x], E[x x'], E[x b].

        Shape: (R, F), (R, F, F), (R, F).
        """
        x_RF, covariance_RFF = self.mean_RF.copy(), self.covariance_RFF.copy()
        x_RF[:, 0] = 1
        covariance_RFF[:, 0, :] = covariance_RFF[:, :, 0] = 0
        with_level_RF = self.covariance_RFF[:, 0, :].copy()
        with_level_RF[:, 0] = 0
        return (
            x_RF,
            covariance_RFF + x_RF[:, :, None] * x_RF[:, None, :],
            with_level_RF + x_RF * self.mean_RF[:, :1],
        )

    def learned(self, rows: np.ndarray) -> Side:
        """The same with the precisions that these rows bear out."""
        square_RF = self.mean_RF[rows] ** 2 + self.variance_RF[rows]
        return Side(self.mean_RF, self.covariance_RFF, 1 / square_RF.mean(axis=0))


@dataclass(frozen=True)
class Beliefs:
    """A fitted factorisation.

    Attributes:
        mean: mu.
        users, items: zeros are expected of who or what has no training row.
        noise: variance of the noise.
    """

    mean: float
    users: Side
    items: Side
    noise: float

    def expected(self, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """Shape: (N,), (N,) -> (N,)."""
        p_NF, q_NF = self.users.mean_RF[user_N], self.items.mean_RF[item_N]
        return self.mean + p_NF[:, 0] + q_NF[:, 0] + (p_NF[:, 1:] * q_NF[:, 1:]).sum(axis=1)

    def own_doing(self, user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray) -> np.ndarray:
        """How far each training event moved what is expected of its own item: figures with it less those without.

        Args:
            user_N, item_N, reward_N: all training events.

        Shape: (N, F).
        """
        reward_N = reward_N - self.mean
        x_RF, square_RFF, with_level_RF = self.users.regressors()
        gram_RFF, right_RF = _sums(self.users, len(self.items.mean_RF), item_N, user_N, reward_N)
        gram_RFF += self.noise * np.diag(self.items.precision_F)
        with_RF = np.linalg.solve(gram_RFF, right_RF[..., None])[..., 0]
        moved_NF = np.empty((len(reward_N), x_RF.shape[1]))
        for first in range(0, len(reward_N), CHUNK):
            part = slice(first, first + CHUNK)
            user, item = user_N[part], item_N[part]
            own_NF = x_RF[user] * reward_N[part, None] - with_level_RF[user]
            without_NF = np.linalg.solve(gram_RFF[item] - square_RFF[user], (right_RF[item] - own_NF)[..., None])
            moved_NF[part] = with_RF[item] - without_NF[..., 0]
        return moved_NF

    @property
    def ridge_F(self) -> np.ndarray:
        """The weights of a user's squared figures beside squared errors: under them the beliefs are a regression."""
        return self.noise * self.users.precision_F


def believe(user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray, size: tuple[int, int], rank: int) -> Beliefs:
    """Fit by variational Bayes.

    Args:
        user_N, item_N: int64, from 0.
        reward_N: rewards.
        size: numbers of users and of items.
        rank: of p and q, at most: what is not borne out vanishes.
    """
    mean, variance = float(reward_N.mean()), float(reward_N.var())
    rng, noise = np.random.default_rng(0), 0.7 * variance
    level = 5 / variance  # each level's share is a fifth of the variance at first, and the taste's another
    items = _side(size[1], np.append(level, np.ones(rank)))
    items.mean_RF[:, 1:] = rng.normal(0, 0.1, (size[1], rank))
    users = _side(size[0], np.append(level, np.full(rank, rank * level)))
    present = np.unique(user_N), np.unique(item_N)
    for sweep in range(SWEEPS):
        before = noise
        users, _ = _given(items, users.precision_F, size[0], user_N, item_N, reward_N - mean, noise)
        items, noise = _given(users, items.precision_F, size[1], item_N, user_N, reward_N - mean, noise)
        noise = max(noise, LEAST * variance)
        if sweep > 1:  # until then they are those of the random start
            users, items = users.learned(present[0]), items.learned(present[1])
        if sweep > 2 and abs(noise - before) < LITTLE * before:
            break
    return Beliefs(mean, users, items, noise)


def _side(rows: int, precision_F: np.ndarray) -> Side:
    figures = len(precision_F)
    return Side(np.zeros((rows, figures)), np.zeros((rows, figures, figures)), precision_F)


def _given(
    other: Side,
    precision_F: np.ndarray,
    rows: int,
    row_N: np.ndarray,
    other_N: np.ndarray,
    reward_N: np.ndarray,
    noise: float,
) -> tuple[Side, float]:
    """What to believe of rows given the other side, and the mean square that is then expected of an error."""
    gram_RFF, right_RF = _sums(other, rows, row_N, other_N, reward_N)
    covariance_RFF = np.linalg.inv(gram_RFF / noise + np.diag(precision_F))
    mean_RF = (covariance_RFF @ right_RF[..., None])[..., 0] / noise
    level_N, variance_N = other.mean_RF[other_N, 0], other.covariance_RFF[other_N, 0, 0]
    errors = np.square(reward_N - level_N).sum() + variance_N.sum()
    errors += np.einsum("rfg,rfg->", covariance_RFF, gram_RFF)
    errors += (mean_RF * ((gram_RFF @ mean_RF[..., None])[..., 0] - 2 * right_RF)).sum()
    return Side(mean_RF, covariance_RFF, precision_F), float(errors / len(reward_N))


def _sums(
    other: Side, rows: int, row_N: np.ndarray, other_N: np.ndarray, reward_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's events: the sums of E[x x'] and of E[x (r - b)], b and x the other side's."""
    x_RF, square_RFF, with_level_RF = other.regressors()
    figures = x_RF.shape[1]
    gram_FFR, right_RF = np.empty((figures, figures, rows)), np.empty((rows, figures))
    square_FFR = np.ascontiguousarray(square_RFF.transpose(1, 2, 0))  # a column fits into the processor's cache
    for f in range(figures):
        right_RF[:, f] = np.bincount(row_N, x_RF[other_N, f] * reward_N - with_level_RF[other_N, f], rows)
        for g in range(f + 1):
            gram_FFR[f, g] = gram_FFR[g, f] = np.bincount(row_N, square_FFR[f, g][other_N], rows)
    return np.ascontiguousarray(gram_FFR.transpose(2, 0, 1)), right_RF
