"""A Bayesian matrix factorisation: what a reward model starts from.

    r_ui = mu + b_u + b_i + p_u . q_i + t_u . z_i + noise,

z_i what is known of an item before any reward (`recalign.reward.company`), every other figure of a user or an item
normal around 0 with a variance that all users, or all items, share. By variational Bayes (Lim & Teh 2007): users given
what is believed of items, items given users, then the variances and the noise's, until little changes. Nothing is
chosen: how far a row is drawn to 0 follows from its events, and a figure that the rewards do not bear out vanishes, for
everybody (MacKay 1994, automatic relevance determination).

Taste and traits have no unit of their own, as p / c and c q expect the same rewards: only their products do.

Suffixes: N events, R rows (of users or of items), F figures a row: the level b, then p or q, and of a user t as well;
K numbers known of an item (the length of z), P pairs of figures.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

SWEEPS = 30
"""At most."""
LITTLE = 5e-4
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

    def first(self, figures: int) -> Side:
        """The first figures alone."""
        return Side(self.mean_RF[:, :figures], self.covariance_RFF[:, :figures, :figures], self.precision_F[:figures])

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
        users, items: zeros are expected of who or what has no training row. A user has a figure for each of an item's
            and, behind them, one for each number that is known of an item.
        known_RK: z, by item.
        noise: variance of the noise.
    """

    mean: float
    users: Side
    items: Side
    known_RK: np.ndarray
    noise: float

    def expected(self, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """Shape: (N,), (N,) -> (N,)."""
        p_NF, q_NF = self.users.mean_RF[user_N], _beside(self.items, self.known_RK).mean_RF[item_N]
        return self.mean + p_NF[:, 0] + q_NF[:, 0] + (p_NF[:, 1:] * q_NF[:, 1:]).sum(axis=1)

    def own_doing(self, user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray) -> np.ndarray:
        """How far each training event moved what is expected of its own item: figures with it less those without.

        Args:
            user_N, item_N, reward_N: all training events.

        Shape: (N, F).
        """
        figures = self.items.mean_RF.shape[1]
        users, by_item = self.users.first(figures), Rows(item_N, user_N, len(self.items.mean_RF))
        reward_N = reward_N - self.mean - _by_known(self.users, self.known_RK, user_N, item_N)
        x_RF, square_RFF, with_level_RF = users.regressors()
        gram_RFF, right_RF = _sums(users, by_item, reward_N)
        gram_RFF += self.noise * np.diag(self.items.precision_F)
        with_RF = np.linalg.solve(gram_RFF, right_RF[..., None])[..., 0]
        moved_NF = np.empty((len(reward_N), figures))
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


def believe(
    user_N: np.ndarray,
    item_N: np.ndarray,
    reward_N: np.ndarray,
    size: tuple[int, int],
    rank: int,
    known_RK: np.ndarray | None = None,
) -> Beliefs:
    """Fit by variational Bayes.

    Items are fitted to what t_u . z_i is expected to leave, as if it did not vary together with p_u.

    Args:
        user_N, item_N: int64, from 0.
        reward_N: rewards.
        size: numbers of users and of items.
        rank: of p and q, at most: what is not borne out vanishes.
        known_RK: z, by item; none: nothing is known.
    """
    known_RK = np.zeros((size[1], 0)) if known_RK is None else known_RK
    mean, variance = float(reward_N.mean()), float(reward_N.var())
    rng, noise = np.random.default_rng(0), 0.7 * variance
    level, known = (
        5 / variance,
        known_RK.shape[1],
    )  # a level's share is a fifth of the variance at first, so is p's, t's
    items = _side(size[1], np.append(level, np.ones(rank)))
    items.mean_RF[:, 1:] = rng.normal(0, 0.1, (size[1], rank))
    users = _side(size[0], level * np.array([1] + [rank] * rank + [known] * known))
    present = np.unique(user_N), np.unique(item_N)
    by_user, by_item = Rows(user_N, item_N, size[0]), Rows(item_N, user_N, size[1])
    for sweep in range(SWEEPS):
        before = noise
        users, noise = _given(_beside(items, known_RK), users.precision_F, by_user, reward_N - mean, noise)
        noise = max(noise, LEAST * variance)
        left_N = reward_N - mean - _by_known(users, known_RK, user_N, item_N)
        items, _ = _given(users.first(1 + rank), items.precision_F, by_item, left_N, noise)
        if sweep > 1:  # until then they are those of the random start
            users, items = users.learned(present[0]), items.learned(present[1])
        if sweep > 2 and abs(noise - before) < LITTLE * before:
            break
    return Beliefs(mean, users, items, known_RK, noise)


def _side(rows: int, precision_F: np.ndarray) -> Side:
    figures = len(precision_F)
    return Side(np.zeros((rows, figures)), np.zeros((rows, figures, figures)), precision_F)


def _beside(items: Side, known_RK: np.ndarray) -> Side:
    """Items with what is known of them behind what is believed."""
    known = known_RK.shape[1]
    covariance_RFF = np.pad(items.covariance_RFF, ((0, 0), (0, known), (0, known)))
    return Side(np.hstack([items.mean_RF, known_RK]), covariance_RFF, np.pad(items.precision_F, (0, known)))


def _by_known(users: Side, known_RK: np.ndarray, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    """The expected t_u . z_i of each event. Shape: (N,)."""
    out_N = np.zeros(len(user_N))
    for k, t_R in enumerate(users.mean_RF[:, users.mean_RF.shape[1] - known_RK.shape[1] :].T):
        out_N += t_R[user_N] * known_RK[item_N, k]
    return out_N


def _given(other: Side, precision_F: np.ndarray, rows: Rows, reward_N: np.ndarray, noise: float) -> tuple[Side, float]:
    """What to believe of rows given the other side, and the mean square that is then expected of an error."""
    gram_RFF, right_RF = _sums(other, rows, reward_N)
    covariance_RFF = np.linalg.inv(gram_RFF / noise + np.diag(precision_F))
    mean_RF = (covariance_RFF @ right_RF[..., None])[..., 0] / noise
    level_N, variance_N = other.mean_RF[rows.column_N, 0], other.covariance_RFF[rows.column_N, 0, 0]
    errors = np.square(reward_N[rows.order_N] - level_N).sum() + variance_N.sum()
    errors += np.einsum("rfg,rfg->", covariance_RFF, gram_RFF)
    errors += (mean_RF * ((gram_RFF @ mean_RF[..., None])[..., 0] - 2 * right_RF)).sum()
    return Side(mean_RF, covariance_RFF, precision_F), float(errors / len(reward_N))


def _sums(other: Side, rows: Rows, reward_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's events: the sums of E[x x'] and of E[x (r - b)], b and x the other side's."""
    x_RF, square_RFF, with_level_RF = other.regressors()
    f_P, g_P = np.tril_indices(x_RF.shape[1])
    gram_RFF = np.empty((rows.count, *square_RFF.shape[1:]))
    gram_RFF[:, f_P, g_P] = gram_RFF[:, g_P, f_P] = rows.sums(square_RFF[:, f_P, g_P])
    return gram_RFF, rows.sums(x_RF, reward_N) - rows.sums(with_level_RF)


class Rows:
    """Events by user, or by item, and who or what each was met with.

    Args:
        row_N, column_N: int64, from 0.
        count: R, number of rows.
    """

    def __init__(self, row_N: np.ndarray, column_N: np.ndarray, count: int) -> None:
        self.count = count
        self.order_N = np.argsort(row_N, kind="stable")
        self.column_N = column_N[self.order_N]
        self.start_R = np.concatenate([[0], np.bincount(row_N, minlength=count).cumsum()])

    def sums(self, value_CF: np.ndarray, weight_N: np.ndarray | None = None) -> np.ndarray:
        """Sums over each row's events of their columns' values, weighted. Shape: (C, F), (N,) -> (R, F)."""
        one_N = np.ones(len(self.column_N)) if weight_N is None else weight_N[self.order_N]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR")  # whose interface torch calls unfinished
            start_R, column_N, weight = map(torch.from_numpy, (self.start_R, self.column_N, one_N))
            size = (self.count, len(value_CF))
            sparse = torch.sparse_csr_tensor(start_R, column_N, weight, size=size, check_invariants=False)
        return (sparse @ torch.from_numpy(np.ascontiguousarray(value_CF))).numpy()
