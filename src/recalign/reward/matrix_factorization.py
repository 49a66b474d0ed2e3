"""Bayesian matrix factorisation of rewards, fitted by variational inference.

    r_ui = mu + b_u + b_i + p_u . q_i + t_u . z_i + noise

b_u and b_i are biases, p_u and q_i latent factors. z_i are known item features (side information, here a co-occurrence
embedding), and t_u the user's weights on them. Every parameter has a normal prior with mean 0 and a variance shared by
all users, or by all items. Coordinate ascent alternates between the posterior of the users and the noise, the posterior
of the items, and the prior variances (Lim & Teh 2007), until the noise hardly changes.

Nothing needs tuning: users and items with few events are shrunk towards 0, and factors that the rewards do not support
vanish for everyone (automatic relevance determination, MacKay 1994). The scale of p and q is arbitrary: p / c and c q
predict the same rewards.

Suffixes: N events; R rows, the users or the items, and C rows of the other side; G parameters that both sides have, the
bias and the latent factors; K item features; F parameters of a row, G for an item and G + K for a user (b, p, t); P
entries in the lower triangle of an F x F matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

MAX_SWEEPS = 40
TOLERANCE = 2e-4
"""Stop when a sweep changes the noise by less than this fraction."""
MIN_NOISE = 1e-4
"""Smallest noise, as a fraction of the rewards' variance. It is needed where the fit is exact."""
MAX_PRECISION = 1e6
"""Largest prior precision of a feature weight, in units of the rewards' precision."""
CHUNK = 50_000
"""Rows or events processed at once, to bound memory."""


@dataclass(frozen=True)
class Posterior:
    """Normal posterior of one side's parameters (users or items), independent between rows.

    Attributes:
        mean_RF: means.
        covariance_RGG: covariances of the parameters that both sides have.
        variance_RF: variances of all parameters.
        precision_F: precisions (1 / variance) of the prior.
    """

    mean_RF: np.ndarray
    covariance_RGG: np.ndarray
    variance_RF: np.ndarray
    precision_F: np.ndarray

    @classmethod
    def prior(cls, rows: int, precision_F: np.ndarray, shared: int) -> Posterior:
        """The prior of ``rows`` rows. ``shared`` is G, the number of parameters that both sides have."""
        variance_RF = np.tile(1 / precision_F, (rows, 1))
        covariance_RGG = np.tile(np.diag(1 / precision_F[:shared]), (rows, 1, 1))
        return cls(np.zeros_like(variance_RF), covariance_RGG, variance_RF, precision_F)

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E[x], E[x x'] and E[x b] of x = (1, p) or (1, q), the regressors of the other side's parameters.

        Shape: (R, G), (R, G, G), (R, G).
        """
        covariance_RGG = self.covariance_RGG.copy()
        x_RG = self.mean_RF[:, : covariance_RGG.shape[1]].copy()
        x_RG[:, 0] = 1
        covariance_RGG[:, 0, :] = covariance_RGG[:, :, 0] = 0
        xb_RG = self.covariance_RGG[:, 0, :].copy()
        xb_RG[:, 0] = 0
        return x_RG, covariance_RGG + x_RG[:, :, None] * x_RG[:, None, :], xb_RG + x_RG * self.mean_RF[:, :1]

    def update_precisions(self, seen_R: np.ndarray, limit: float) -> Posterior:
        """Fit the prior precisions to the rows that have events (automatic relevance determination).

        Feature weights use MacKay's fixed-point update, which quickly drops useless features. Biases and factors use
        the EM update: since both sides are unknown, MacKay's would drop every factor.

        Args:
            seen_R: bool, whether a row has events.
            limit: largest precision of a feature weight.
        """
        shared = self.covariance_RGG.shape[1]
        square_F, variance_RF = np.square(self.mean_RF[seen_R]).sum(axis=0), self.variance_RF[seen_R]
        precision_F = seen_R.sum() / (square_F + variance_RF.sum(axis=0))
        determined_F = (1 - self.precision_F * variance_RF).sum(axis=0)  # effective number of parameters
        kept_F = square_F > determined_F / limit
        mackay_F = np.divide(determined_F, square_F, out=np.full_like(square_F, limit), where=kept_F)
        precision_F[shared:] = mackay_F[shared:]
        return Posterior(self.mean_RF, self.covariance_RGG, self.variance_RF, precision_F)


@dataclass(frozen=True)
class VariationalMF:
    """A fitted factorisation.

    Attributes:
        mean: mu.
        users, items: posteriors; the prior for rows without a training event.
        features_RK: z, by item.
        noise: variance of the noise.
    """

    mean: float
    users: Posterior
    items: Posterior
    features_RK: np.ndarray
    noise: float

    def expected(self, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """Expected rewards of (user, item) pairs. Shape: (N,), (N,) -> (N,)."""
        p_NF, q_NG = self.users.mean_RF[user_N], self.items.mean_RF[item_N]
        match_N = (p_NF[:, 1 : q_NG.shape[1]] * q_NG[:, 1:]).sum(axis=1)
        return (
            self.mean + p_NF[:, 0] + q_NG[:, 0] + match_N + _by_features(self.users, self.features_RK, user_N, item_N)
        )

    def self_influence(self, user_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray) -> np.ndarray:
        """Leave-one-out effect: the parameters of each event's item, minus their values when fitted without the event.

        Args:
            user_N, item_N, reward_N: all training events.

        Shape: (N, G).
        """
        reward_N = reward_N - self.mean - _by_features(self.users, self.features_RK, user_N, item_N)
        x_RG, xx_RGG, xb_RG = self.users.moments()
        place, shape = (item_N, user_N), (len(self.items.mean_RF), len(x_RG))
        count_RC, reward_RC = (csr_array((v, place), shape=shape) for v in (np.ones(len(reward_N)), reward_N))
        gram_RGG = _unpacked(count_RC @ _packed(xx_RGG)) + self.noise * np.diag(self.items.precision_F)
        right_RG = reward_RC @ x_RG - count_RC @ xb_RG
        all_RG = np.linalg.solve(gram_RGG, right_RG[..., None])[..., 0]
        out_NG = np.empty((len(reward_N), x_RG.shape[1]))
        for first in range(0, len(reward_N), CHUNK):
            part = slice(first, first + CHUNK)
            user, item = user_N[part], item_N[part]
            own_NG = x_RG[user] * reward_N[part, None] - xb_RG[user]
            others_NG = np.linalg.solve(gram_RGG[item] - xx_RGG[user], (right_RG[item] - own_NG)[..., None])[..., 0]
            out_NG[part] = all_RG[item] - others_NG
        return out_NG

    @property
    def ridge_F(self) -> np.ndarray:
        """Ridge penalties of a user's parameters in the equivalent ridge regression."""
        return self.noise * self.users.precision_F


def fit_variational_mf(
    user_N: np.ndarray,
    item_N: np.ndarray,
    reward_N: np.ndarray,
    size: tuple[int, int],
    rank: int,
    features_RK: np.ndarray | None = None,
) -> VariationalMF:
    """Fit by variational inference.

    Items are fitted to the residuals of the features, with t_u . z_i at its mean, as if t_u and p_u were independent.

    Args:
        user_N, item_N: integers from 0.
        reward_N: rewards.
        size: numbers of users and of items.
        rank: largest number of latent factors; unsupported ones vanish.
        features_RK: z, by item; None: no features.
    """
    features_RK = np.zeros((size[1], 0)) if features_RK is None else features_RK
    mean, variance, features = float(reward_N.mean()), float(reward_N.var()), features_RK.shape[1]
    centred_N = reward_N.astype(float) - mean
    count_UI, reward_UI = (csr_array((v, (user_N, item_N)), shape=size) for v in (np.ones(len(reward_N)), centred_N))
    count_IU = count_UI.T.tocsr()
    pair_user, pair_item = np.repeat(np.arange(size[0]), np.diff(count_UI.indptr)), count_UI.indices
    users, items, noise = *_initial(size, rank, features, variance), 0.7 * variance
    for sweep in range(MAX_SWEEPS):
        before = noise
        users, gain = _update(items, features_RK, users.precision_F, count_UI, reward_UI, noise)
        bias_I, bias_variance_I = items.mean_RF[:, 0], items.variance_RF[:, 0]
        square = np.square(centred_N).sum() - 2 * reward_UI.sum(axis=0) @ bias_I
        square += count_UI.sum(axis=0) @ (bias_I**2 + bias_variance_I)
        noise = max((square - gain) / len(reward_N), MIN_NOISE * variance)
        rest = reward_UI.data - count_UI.data * _by_features(users, features_RK, pair_user, pair_item)
        rest_UI = csr_array((rest, count_UI.indices, count_UI.indptr), shape=size)
        items, _ = _update(users, None, items.precision_F, count_IU, rest_UI.T.tocsr(), noise)
        if sweep > 1:  # the first sweeps still reflect the random start
            users = users.update_precisions(np.diff(count_UI.indptr) > 0, MAX_PRECISION / variance)
            items = items.update_precisions(np.diff(count_IU.indptr) > 0, MAX_PRECISION / variance)
        if sweep > 2 and abs(noise - before) < TOLERANCE * before:
            break
    return VariationalMF(mean, users, items, features_RK, noise)


def _initial(size: tuple[int, int], rank: int, features: int, variance: float) -> tuple[Posterior, Posterior]:
    """Initial users and items: each bias, p . q and t . z explain a fifth of the rewards' variance."""
    bias = 5 / variance
    users = Posterior.prior(size[0], bias * np.array([1] + [rank] * rank + [features] * features), 1 + rank)
    items = Posterior.prior(size[1], np.append(bias, np.ones(rank)), 1 + rank)
    items.mean_RF[:, 1:] = np.random.default_rng(0).normal(0, 0.1, (size[1], rank))
    items.covariance_RGG[:] = items.variance_RF[:] = 0
    return users, items


def _by_features(users: Posterior, features_RK: np.ndarray, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    """The expected t_u . z_i of each event. Shape: (N,)."""
    out_N = np.zeros(len(user_N))
    for t_R, z_R in zip(users.mean_RF[:, users.covariance_RGG.shape[1] :].T, features_RK.T, strict=True):
        out_N += t_R[user_N] * z_R[item_N]
    return out_N


def _update(
    other: Posterior,
    features_CK: np.ndarray | None,
    precision_F: np.ndarray,
    count_RC: csr_array,
    reward_RC: csr_array,
    noise: float,
) -> tuple[Posterior, float]:
    """Update the posterior of one side given the other's.

    Args:
        other: the other side.
        features_CK: item features, if the other side is the items.
        precision_F: prior precisions.
        count_RC, reward_RC: number and sum of the rewards of each pair.
        noise: variance of the noise.

    Returns:
        The posterior, and how much it reduces the expected squared error that remains after the other side's biases.
    """
    x_CF, xx_CGG, xb_CF = other.moments()
    xx_CP, shared = _packed(xx_CGG), x_CF.shape[1]
    if features_CK is not None:
        x_CF = np.hstack([x_CF, features_CK])
        xb_CF = np.hstack([xb_CF, features_CK * other.mean_RF[:, :1]])
        f_P, g_P = (index[xx_CP.shape[1] :] for index in np.tril_indices(x_CF.shape[1]))  # rows below the first G
        xx_CP = np.hstack([xx_CP, np.take(x_CF, f_P, axis=1) * np.take(x_CF, g_P, axis=1)])
    right_RF = reward_RC @ x_CF - count_RC @ xb_CF
    found, gain = Posterior.prior(count_RC.shape[0], precision_F, shared), 0.0
    for first in range(0, count_RC.shape[0], CHUNK):
        part = slice(first, first + CHUNK)
        gram_RFF = _unpacked(count_RC[part] @ xx_CP)
        covariance_RFF = np.linalg.inv(gram_RFF / noise + np.diag(precision_F))
        found.mean_RF[part] = mean_RF = (covariance_RFF @ right_RF[part, :, None])[..., 0] / noise
        found.covariance_RGG[part] = covariance_RFF[:, :shared, :shared]
        found.variance_RF[part] = np.diagonal(covariance_RFF, axis1=1, axis2=2)
        gain += (mean_RF * (2 * right_RF[part] - (gram_RFF @ mean_RF[..., None])[..., 0])).sum()
        gain -= np.einsum("rfg,rfg->", covariance_RFF, gram_RFF)
    return found, float(gain)


def _packed(matrix_CFF: np.ndarray) -> np.ndarray:
    """Lower triangles of symmetric matrices. Shape: (C, P)."""
    size = matrix_CFF.shape[1]
    return matrix_CFF.reshape(-1, size**2).take(np.ravel_multi_index(np.tril_indices(size), (size, size)), axis=1)


def _unpacked(triangle_RP: np.ndarray) -> np.ndarray:
    """Inverse of `_packed`: full symmetric matrices. Shape: (R, F, F)."""
    size = int((2 * triangle_RP.shape[1]) ** 0.5)
    f_P, g_P = np.tril_indices(size)
    out_RFF = np.empty((len(triangle_RP), size, size))
    out_RFF[:, f_P, g_P] = out_RFF[:, g_P, f_P] = triangle_RP
    return out_RFF
