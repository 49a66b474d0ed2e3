"""Assign vectors to centres of limited capacity.

Suffixes: N vectors, D their width, K centres, P ids that are taken.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from recalign.errors import InputError

COSTS = 2**24
"""Distances that `nearest` holds at once."""
EXACT = 2**27
"""Distances, of one prefix's items to its free codes, up to which a linear assignment is solved."""


def nearest(x_ND: np.ndarray, centre_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each vector, and the squared distance to it. Shape: -> int64 (N,), float32 (N,)."""
    code_N, square_N = np.empty(len(x_ND), np.int64), np.empty(len(x_ND), np.float32)
    rows = max(1, COSTS // len(centre_KD))
    for first in range(0, len(x_ND), rows):
        part = slice(first, first + rows)
        square_NK = _squares(x_ND[part], centre_KD)
        code_N[part] = square_NK.argmin(axis=1)
        square_N[part] = square_NK.min(axis=1)
    return code_N, square_N


def assign_greedy(x_ND: np.ndarray, centre_KD: np.ndarray, room_K: np.ndarray) -> np.ndarray:
    """Assign each vector to the nearest centre with room, the closest vectors first.

    Memory grows with N and K, never with N x K.

    Args:
        room_K: how many vectors each centre takes; N in all, or more.

    Returns:
        int64 (N,).
    """
    code_N, left, room_K = np.empty(len(x_ND), np.int64), np.arange(len(x_ND)), room_K.copy()
    while len(left):
        open_K = np.flatnonzero(room_K)
        near, square = nearest(x_ND[left], centre_KD[open_K])
        near = open_K[near]
        order = np.lexsort((square, near))
        queue = near[order]
        place = np.arange(len(queue)) - np.searchsorted(queue, queue)
        taken = order[place < room_K[queue]]
        code_N[left[taken]] = near[taken]
        room_K -= np.bincount(near[taken], minlength=len(room_K))
        left = np.delete(left, taken)
    return code_N


def match(x_ND: np.ndarray, centre_KD: np.ndarray, free_K: np.ndarray) -> np.ndarray:
    """Assign each vector a centre of its own, at the smallest sum of squared distances.

    Args:
        free_K: whether a centre may be given; N of them, or more.

    Returns:
        int64 (N,).

    Raises:
        InputError: there are too many distances to hold.
    """
    open_K = np.flatnonzero(free_K)
    if len(x_ND) * len(open_K) > EXACT:
        text = f"{len(x_ND):,} items share a prefix and would be matched with {len(open_K):,} codes at once"
        remedy = "give more levels or a smaller last one, or use --collisions relocate"
        raise InputError(text, where="sizes", remedy=remedy)
    return open_K[linear_sum_assignment(_squares(x_ND, centre_KD[open_K]))[1]]


@dataclass(frozen=True)
class CodeAllocator:
    """The ids that may be given: one code a level, each id to one item.

    Attributes:
        sizes: codes of each level.
        taken_P: keys (`keys`) of the ids that are taken, sorted.
        balance: the most items of a code of any level but the last, in multiples of an even share. It is exceeded
            by as little as it takes where the ids below run short. null: no limit.
        unique: whether each id goes to one item only.
    """

    sizes: tuple[int, ...]
    taken_P: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    balance: float | None = None
    unique: bool = True

    def choose(self, level: int, prefix_N: np.ndarray, x_ND: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
        """Choose near codes of a level, with room below them for all.

        Args:
            level: from 0.
            prefix_N: keys of the codes so far.
            x_ND: what is left of the vectors after the codes so far.
            centre_KD: of this level's codes.

        Returns:
            int64 (N,).
        """
        code_N = np.empty(len(prefix_N), np.int64)
        size, last = self.sizes[level], level == len(self.sizes) - 1
        limited = self.balance is not None and not last
        left_K = np.full(size, math.ceil((self.balance or 0) * len(prefix_N) / size))
        for rows in groups(prefix_N):
            room_K = self._room(level, int(prefix_N[rows[0]]), len(rows))
            if limited:
                room_K = _limited(room_K, left_K, len(rows))
            give = match if last and self.unique else assign_greedy
            code_N[rows] = give(x_ND[rows], centre_KD, room_K)
            left_K = np.maximum(left_K - np.bincount(code_N[rows], minlength=size), 0)
        return code_N

    def _room(self, level: int, prefix: int, items: int) -> np.ndarray:
        """How many of a prefix's items each of its next codes may take. Shape: int64 (K,)."""
        size, below = self.sizes[level], math.prod(self.sizes[level + 1 :])
        room_K = np.full(size, items)
        if self.unique:
            edges = (prefix * size + np.arange(size + 1)) * below
            room_K = below - np.diff(np.searchsorted(self.taken_P, edges))
        return room_K


def keys(codes_NL: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Ids, or prefixes of them, as single numbers that sort as they do. Shape: (N, L) -> int64 (N,)."""
    levels = codes_NL.shape[1]
    return codes_NL @ np.array([math.prod(sizes[level:levels]) for level in range(1, levels + 1)], np.int64)


def groups(key_N: np.ndarray) -> list[np.ndarray]:
    """Rows of equal keys together, in order."""
    order = np.argsort(key_N, kind="stable")
    edges = np.flatnonzero(np.diff(key_N[order])) + 1
    return np.split(order, edges) if len(order) else []


def _squares(x_ND: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
    """Squared distances. Shape: float32 (N, K)."""
    square_NK = x_ND @ (-2 * centre_KD.T)
    square_NK += np.square(x_ND).sum(axis=1)[:, None]
    square_NK += np.square(centre_KD).sum(axis=1)
    return np.maximum(square_NK, 0, out=square_NK)


def _limited(room_K: np.ndarray, left_K: np.ndarray, items: int) -> np.ndarray:
    """Room within a limit, which is exceeded by no more than it takes to hold some items. Shape: int64 (K,)."""
    over = bisect_left(range(items), items, key=lambda over: np.minimum(room_K, left_K + over).sum())
    return np.minimum(room_K, left_K + over)
