"""A Bayesian matrix factorisation: what a reward model starts from.

    r_ui = mu + b_u + b_i + p_u . q_i + t_u . z_i + noise,

z_i what is known of an item before any reward (`recalign.factorization.cooccurrence`), every other figure of a user or
an item normal around 0 with a variance that all users, or all items, share. By variational Bayes (Lim & Teh 2007):
users given
what is believed of items, with the noise, items given users, then the variances, until little changes. Nothing is
chosen: how far a row is drawn to 0 follows from its events, and a figure that the rewards do not bear out vanishes, for
everybody (MacKay 1994, automatic relevance determination).

Taste and traits have no unit of their own, as p / c and c q expect the same rewards: only their products do.

Suffixes: N events, R rows (of users or of items), C those of the other side, G figures of both sides: the level b, then
p or q; K numbers known of an item, F figures a row (of an item G, of a user G + K: t stands behind), P pairs of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

SWEEPS = 40
"""At most."""
LITTLE = 2e-4
"""Change of the noise from sweep to sweep, as a share of it, after which no more is to be had."""
LEAST = 1e-4
"""Noise that is always left, as a share of the rewards' variance: items may explain them to the last digit."""
GONE = 1e6
"""Precision, over that of the rewards, of a figure that has vanished."""
CHUNK = 50_000
"""Rows or events whose matrices are held at once."""
PAIRS = 32
"""Pairs of figures that are summed at once."""


@dataclass(frozen=True)
class Side:
    """What is believed of users, or of items.

    Attributes:
        mean_RF: of each row's figures.
        covariance_RGG: of those that both sides have.
        variance_RF: of all.
        precision_F: one over the variance of a figure between rows.
    """

    mean_RF: np.ndarray
    covariance_RGG: np.ndarray
    variance_RF: np.ndarray
    precision_F: np.ndarray

    def regressors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of x = (1, p) or (1, q), by which the other side's figures are regressed: E[x], E[x x'], E[x b].

        Shape: (R, G), (R, G, G), (R, G).
        """
        covariance_RGG = self.covariance_RGG.copy()
        x_RG = self.mean_RF[:, : covariance_RGG.shape[1]].copy()
        x_RG[:, 0] = 1
        covariance_RGG[:, 0, :] = covariance_RGG[:, :, 0] = 0
        with_level_RG = self.covariance_RGG[:, 0, :].copy()
        with_level_RG[:, 0] = 0
        return x_RG, covariance_RGG + x_RG[:, :, None] * x_RG[:, None, :], with_level_RG + x_RG * self.mean_RF[:, :1]

    def learned(self, rows: np.ndarray, most: float) -> Side:
        """The same with the precisions that these rows bear out.

        Those of t by MacKay's rule, which soon lets go of what tells nothing; where both sides are unknown, it would
        let go of everything.
        """
        shared = self.covariance_RGG.shape[1]
        square_F, variance_RF = np.square(self.mean_RF[rows]).sum(axis=0), self.variance_RF[rows]
        precision_F = len(rows) / (square_F + variance_RF.sum(axis=0))
        told_F = (1 - self.precision_F * variance_RF).sum(axis=0)  # of as many figures the rewards tell
        gone_F = square_F <= told_F / most
        precision_F[shared:] = np.divide(told_F, square_F, out=np.full_like(square_F, most), where=~gone_F)[shared:]
        return Side(self.mean_RF, self.covariance_RGG, self.variance_RF, precision_F)


@dataclass(frozen=True)
class VariationalMF:
    """A fitted factorisation.

    Attributes:
        mean: mu.
        users, items: zeros are expected of who or what has no training row.
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
        p_NF, q_NG = self.users.mean_RF[user_N], self.items.mean_RF[item_N]
        taste_N = (p_NF[:, 1 : q_NG.shape[1]] * q_NG[:, 1:]).sum(axis=1)
        return self.mean + p_NF[:, 0] + q_NG[:, 0] + taste_N + _by_known(self.users, self.known_RK, user_N, item_N)

    def self_influence(self, user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray) -> np.ndarray:
        """How far each training event moved what is expected of its own item: figures with it less those without.

        Args:
            user_N, item_N, reward_N: all training events.

        Shape: (N, G).
        """
        reward_N = reward_N - self.mean - _by_known(self.users, self.known_RK, user_N, item_N)
        x_RG, square_RGG, with_level_RG = self.users.regressors()
        gram_RP, right_RG = _sums(self.users, None, Rows(item_N, user_N, len(self.items.mean_RF)), reward_N)
        gram_RGG = _unpacked(gram_RP) + self.noise * np.diag(self.items.precision_F)
        with_RG = np.linalg.solve(gram_RGG, right_RG[..., None])[..., 0]
        moved_NG = np.empty((len(reward_N), x_RG.shape[1]))
        for first in range(0, len(reward_N), CHUNK):
            part = slice(first, first + CHUNK)
            user, item = user_N[part], item_N[part]
            own_NG = x_RG[user] * reward_N[part, None] - with_level_RG[user]
            without_NG = np.linalg.solve(gram_RGG[item] - square_RGG[user], (right_RG[item] - own_NG)[..., None])
            moved_NG[part] = with_RG[item] - without_NG[..., 0]
        return moved_NG

    @property
    def ridge_F(self) -> np.ndarray:
        """The weights of a user's squared figures beside squared errors: with them it is a ridge regression."""
        return self.noise * self.users.precision_F


def fit_variational_mf(
    user_N: np.ndarray,
    item_N: np.ndarray,
    reward_N: np.ndarray,
    size: tuple[int, int],
    rank: int,
    known_RK: np.ndarray | None = None,
) -> VariationalMF:
    """Fit by variational Bayes.

    Items are fitted to what t_u . z_i is expected to leave, as if it did not vary together with p_u.

    Args:
        user_N, item_N: integers from 0.
        reward_N: rewards.
        size: numbers of users and of items.
        rank: of p and q, at most: what is not borne out vanishes.
        known_RK: z, by item; none: nothing is known.
    """
    known_RK = np.zeros((size[1], 0)) if known_RK is None else known_RK
    mean, variance, known = float(reward_N.mean()), float(reward_N.var()), known_RK.shape[1]
    rng, noise = np.random.default_rng(0), 0.7 * variance
    level = 5 / variance  # of both sides at first a fifth of the variance, as of p . q and of t . z
    items = _unknown(size[1], np.append(level, np.ones(rank)), 1 + rank)
    items.mean_RF[:, 1:] = rng.normal(0, 0.1, (size[1], rank))
    items.covariance_RGG[:] = items.variance_RF[:] = 0
    users = _unknown(size[0], level * np.array([1] + [rank] * rank + [known] * known), 1 + rank)
    by_user, by_item = Rows(user_N, item_N, size[0]), Rows(item_N, user_N, size[1])
    for sweep in range(SWEEPS):
        before = noise
        users, noise = _given(items, known_RK, users.precision_F, by_user, reward_N - mean, noise)
        noise = max(noise, LEAST * variance)
        left_N = reward_N - mean - _by_known(users, known_RK, user_N, item_N)
        items, _ = _given(users, None, items.precision_F, by_item, left_N, noise)
        if sweep > 1:  # until then they are those of the random start
            users, items = (s.learned(r.present, GONE / variance) for s, r in ((users, by_user), (items, by_item)))
        if sweep > 2 and abs(noise - before) < LITTLE * before:
            break
    return VariationalMF(mean, users, items, known_RK, noise)


def _unknown(rows: int, precision_F: np.ndarray, shared: int) -> Side:
    """Rows of which nothing has been seen."""
    variance_RF = np.tile(1 / precision_F, (rows, 1))
    covariance_RGG = np.tile(np.diag(1 / precision_F[:shared]), (rows, 1, 1))
    return Side(np.zeros_like(variance_RF), covariance_RGG, variance_RF, precision_F)


def _by_known(users: Side, known_RK: np.ndarray, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    """The expected t_u . z_i of each event. Shape: (N,)."""
    out_N = np.zeros(len(user_N))
    for t_R, z_R in zip(users.mean_RF[:, users.covariance_RGG.shape[1] :].T, known_RK.T, strict=True):
        out_N += t_R[user_N] * z_R[item_N]
    return out_N


def _given(
    other: Side, known_CK: np.ndarray | None, precision_F: np.ndarray, rows: Rows, reward_N: np.ndarray, noise: float
) -> tuple[Side, float]:
    """What to believe of rows given the other side, and the mean square that is then expected of an error."""
    gram_RP, right_RF = _sums(other, known_CK, rows, reward_N)
    found = _unknown(rows.count, precision_F, shared := other.covariance_RGG.shape[1])
    errors = np.square(reward_N[rows.order_N] - other.mean_RF[rows.column_N, 0]).sum()
    errors += other.variance_RF[rows.column_N, 0].sum()
    for first in range(0, rows.count, CHUNK):
        part = slice(first, first + CHUNK)
        gram_RFF = _unpacked(gram_RP[part])
        covariance_RFF = np.linalg.inv(gram_RFF / noise + np.diag(precision_F))
        found.mean_RF[part] = mean_RF = (covariance_RFF @ right_RF[part, :, None])[..., 0] / noise
        found.covariance_RGG[part] = covariance_RFF[:, :shared, :shared]
        found.variance_RF[part] = np.diagonal(covariance_RFF, axis1=1, axis2=2)
        errors += np.einsum("rfg,rfg->", covariance_RFF, gram_RFF)
        errors += (mean_RF * ((gram_RFF @ mean_RF[..., None])[..., 0] - 2 * right_RF[part])).sum()
    return found, float(errors / len(reward_N))


def _sums(other: Side, known_CK: np.ndarray | None, rows: Rows, reward_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's events: the sums of E[x x'] and of E[x (r - b)], b and x the other side's, what is known behind x.

    Shape: (R, P), of each matrix the triangle below its diagonal; (R, F).
    """
    x_CF, square_CGG, with_level_CF = other.regressors()
    if known_CK is not None:
        x_CF = np.hstack([x_CF, known_CK])
        with_level_CF = np.hstack([with_level_CF, known_CK * other.mean_RF[:, :1]])
    f_P, g_P = np.tril_indices(x_CF.shape[1])
    gram_RP = np.empty((rows.count, len(f_P)))
    for first in range(0, len(f_P), PAIRS):
        f, g = f_P[first : first + PAIRS], g_P[first : first + PAIRS]
        inner = f < square_CGG.shape[1]  # of two figures that are not known
        square_CP = x_CF[:, f] * x_CF[:, g]
        square_CP[:, inner] = square_CGG[:, f[inner], g[inner]]
        gram_RP[:, first : first + PAIRS] = rows.sums(square_CP)
    return gram_RP, rows.sums(x_CF, reward_N) - rows.sums(with_level_CF)


def _unpacked(gram_RP: np.ndarray) -> np.ndarray:
    """The matrices of triangles. Shape: (R, F, F)."""
    figures = int((2 * gram_RP.shape[1]) ** 0.5)
    f_P, g_P = np.tril_indices(figures)
    gram_RFF = np.empty((len(gram_RP), figures, figures))
    gram_RFF[:, f_P, g_P] = gram_RFF[:, g_P, f_P] = gram_RP
    return gram_RFF


class Rows:
    """Events by user, or by item, and who or what each was met with.

    Args:
        row_N, column_N: integers from 0.
        count: R, number of rows.
    """

    def __init__(self, row_N: np.ndarray, column_N: np.ndarray, count: int) -> None:
        self.count = count
        self.order_N = np.argsort(row_N, kind="stable")
        self.column_N = column_N[self.order_N].astype(np.int64)
        events_R = np.bincount(row_N, minlength=count)
        self.start_R = np.append(0, events_R.cumsum())
        self.present = np.flatnonzero(events_R)

    def sums(self, value_CF: np.ndarray, weight_N: np.ndarray | None = None) -> np.ndarray:
        """Sums over each row's events of their columns' values, weighted. Shape: (C, F), (N,) -> (R, F)."""
        weight_N = np.ones(len(self.column_N)) if weight_N is None else weight_N[self.order_N].astype(float)
        start_R, column_N, weight = map(torch.from_numpy, (self.start_R, self.column_N, weight_N))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR")  # whose interface torch calls unfinished
            size = (self.count, len(value_CF))
            events = torch.sparse_csr_tensor(start_R, column_N, weight, size=size, check_invariants=False)
        return (events @ torch.from_numpy(np.ascontiguousarray(value_CF))).numpy()
