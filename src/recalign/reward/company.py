"""Which items are chosen together: what is known of an item before anybody says what it was worth.

Who likes one of them is likely to like the others: over a log in which choices are many and rewards noisy, that tells
more of a taste than the rewards do. A truncated singular value decomposition of who chose what, each choice divided by
the square roots of how many its user and its item have (correspondence analysis; Benzécri 1973): z_i is the item's row
of right singular vectors, times the singular values. The first of them, which is how popular an item is, is left out.

Suffixes: N choices, R rows (of items), K numbers an item.
"""

from __future__ import annotations

import numpy as np
import torch

SPARE = 8  # vectors found beyond those that are wanted, so that these are exact enough
ROUNDS = 6  # of subspace iteration


def company(user_N: np.ndarray, item_N: np.ndarray, items: int, count: int) -> np.ndarray:
    """Items that are chosen together lie together.

    Args:
        user_N, item_N: int64, from 0: who chose what, and however often it counts once.
        items: R; an item that nobody chose lies at 0.
        count: K; numbers that the choices are too few for are 0.

    Returns:
        float64 (R, K), with mean 0 and mean square 1 over all choices and numbers.
    """
    z_RK = np.zeros((items, count))
    pair_N = np.unique(user_N * items + item_N)
    user_N, item_N = np.unique(pair_N // items, return_inverse=True)[1], pair_N % items
    share_N = 1 / np.sqrt(np.bincount(user_N)[user_N] * np.bincount(item_N)[item_N])
    size = int(user_N.max(initial=-1)) + 1, items
    found = min(count, min(size) - 1)
    if found < 1:
        return z_RK
    place = torch.from_numpy(np.stack([user_N, item_N]))
    chosen = torch.sparse_coo_tensor(place, torch.from_numpy(share_N), size, check_invariants=False).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, value, vector = torch.svd_lowrank(chosen, q=min(found + 1 + SPARE, *size), niter=ROUNDS)
    z_RK[:, :found] = (vector * value)[:, 1 : found + 1].numpy()
    times_R = np.bincount(item_N, minlength=items)
    z_RK -= times_R @ z_RK / len(item_N)
    z_RK[times_R == 0] = 0
    return z_RK / max(np.sqrt(times_R @ np.square(z_RK).mean(axis=1) / len(item_N)), np.finfo(float).tiny)
