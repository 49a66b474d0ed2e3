"""A model of rewards for doubly robust estimates of lists: least squares, fitted on the lists themselves.

A user's own lists are predicted from those of others (cross-fitting: Chernozhukov et al. 2018), so that the model knows
nothing of the noise that it is to be compared with.

Suffixes: N lists, K places, F features, P coefficients.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recalign.evaluation.lists import Lists

FOLDS = 5
RIDGE = 1.0
"""Added to the diagonal, in lists: a coefficient that nothing is known of is 0."""


def with_model(
    shown: Lists, told_NKF: np.ndarray, expected_NKF: np.ndarray, real_NK: np.ndarray | None = None
) -> Lists:
    """Lists with what a model expects of each place: ``predicted_NK`` and ``direct_NK``.

    A reward is linear in its place, in the rewards of the places above, and in features of the item. It is fitted on
    all lists, ranked ones too: it need not be right, only near.

    Args:
        shown: the lists.
        told_NKF: features of the item at each place.
        expected_NKF: their mean over what the candidate would draw there, given the items above.
        real_NK: whether a place is one, bool; false: a shorter list was filled up with it. None: all are.
    """
    fold_N = np.unique(shown.user_N, return_inverse=True)[1] % FOLDS
    one_NK1 = np.ones((*shown.reward_NK.shape, 1)) if real_NK is None else real_NK[:, :, None]
    x_NKP, wanted_NKP = (_design(shown, one) * one_NK1 for one in (told_NKF, expected_NKF))
    beta_NP = np.empty((len(fold_N), x_NKP.shape[2]))
    for fold in range(FOLDS):
        beta_NP[fold_N == fold] = _fitted(x_NKP[fold_N != fold], shown.reward_NK[fold_N != fold])
    predicted_NK, direct_NK = (np.einsum("nkp,np->nk", x, beta_NP) for x in (x_NKP, wanted_NKP))
    return replace(shown, predicted_NK=predicted_NK, direct_NK=direct_NK)


def _design(shown: Lists, feature_NKF: np.ndarray) -> np.ndarray:
    """Places, rewards above and features. Shape: (N, K, F) -> (N, K, P)."""
    lists, places = shown.reward_NK.shape
    above_NK = np.concatenate([np.zeros((lists, 1)), shown.reward_NK.cumsum(axis=1)[:, :-1]], axis=1)
    place_NKK = np.broadcast_to(np.eye(places), (lists, places, places))
    return np.concatenate([place_NKK, above_NK[:, :, None], feature_NKF], axis=2)


def _fitted(x_NKP: np.ndarray, reward_NK: np.ndarray) -> np.ndarray:
    x_XP = x_NKP.reshape(-1, x_NKP.shape[2])
    return np.linalg.solve(x_XP.T @ x_XP + RIDGE * np.eye(x_XP.shape[1]), x_XP.T @ reward_NK.ravel())
