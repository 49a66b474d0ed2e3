"""Which items are chosen together: what is known of an item before anybody says what it was worth.

Who likes one of them is likely to like the others: over a log in which choices are many and rewards noisy, that tells
more of a taste than the rewards do. A truncated singular value decomposition of who chose what, each choice divided by
the square roots of how many its user and its item have, the mean added to each so that a few who share nothing with
the others do not fill it (regularised spectral clustering; Qin & Rohe 2013, https://arxiv.org/abs/1309.4111): z_i is
the item's row of right singular vectors times the singular values. It is the smaller the fewer choose the item. The
first of them, which is how popular an item is, is left out.

Suffixes: N choices, R rows (of items), K numbers an item.
"""

from __future__ import annotations

import numpy as np
import torch

SPARE = 8  # vectors found beyond those that are wanted, so that those that stand out are exact
ROUNDS = 6  # of subspace iteration
ROUNDING = 1e-6  # of the largest singular value: what is smaller is nothing


def cooccurrence_embedding(user_N: np.ndarray, item_N: np.ndarray, items: int, count: int) -> np.ndarray:
    """Items that are chosen together lie together.

    Args:
        user_N, item_N: integers from 0: who chose what, and however often it counts once.
        items: R; an item that nobody chose lies at 0.
        count: K; numbers that the choices are too few for are 0.

    Returns:
        float64 (R, K); each number has mean 0 over the choices, and those that are not 0 mean square 1 between them.
    """
    z_RK = np.zeros((items, count))
    pair_N = np.unique(user_N.astype(np.int64) * items + item_N)
    user_N, item_N = np.unique(pair_N // items, return_inverse=True)[1], pair_N % items
    size = int(user_N.max(initial=-1)) + 1, items
    found = min(count, min(size) - 1)
    if found < 1:
        return z_RK
    place = torch.from_numpy(np.stack([user_N, item_N]))
    share_N = torch.from_numpy(1 / np.sqrt(_regular(user_N) * _regular(item_N)))
    chosen = torch.sparse_coo_tensor(place, share_N, size, check_invariants=False).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, value, vector = torch.svd_lowrank(chosen, q=min(found + 1 + SPARE, *size), niter=ROUNDS)
    found = min(found, int((value > ROUNDING * value[0]).sum()) - 1)
    z_RK[:, :found] = (vector * value)[:, 1 : found + 1].numpy()
    times_R = np.bincount(item_N, minlength=items)
    z_RK[:, :found] -= times_R @ z_RK[:, :found] / len(item_N)
    z_RK[times_R == 0] = 0
    square = times_R @ np.square(z_RK[:, :found]).sum(axis=1) / len(item_N)
    return z_RK * np.sqrt(found / square) if square else z_RK


def _regular(row_N: np.ndarray) -> np.ndarray:
    """How many choices each one's row has, and the mean of all rows that have any. Shape: (N,)."""
    times_R = np.bincount(row_N)
    return times_R[row_N] + len(row_N) / (times_R > 0).sum()
