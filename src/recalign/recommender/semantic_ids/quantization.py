"""Residual k-means: write a vector as a few codes, each for the residual of those before.

    r_0 = x,    c_l = the code of level l whose centre is near r_l,    r_{l+1} = r_l - centre_l[c_l]

as in the tokenizers of OneRec (arXiv 2506.13695) and, with a neural encoder, of TIGER (2305.05065). All prefixes share
the centres of a level. Here an item may get another code than its nearest, to keep ids unique: a code takes at most as
many items as there are ids below it, and the codes of the last level are assigned within each prefix.

Suffixes: N items, D width of a vector, L levels, K codes of a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from recalign.errors import InputError

REFINEMENTS = 8
"""Most rounds, after k-means, of choosing codes and moving centres to the means of their items."""
KMEANS_SAMPLE = 256
"""Most vectors per centre that k-means trains on."""
DISTANCES_AT_ONCE = 2**24
MOST_ASSIGNED = 2**27
"""Largest linear assignment: one prefix's items times codes of the last level."""


@dataclass(frozen=True)
class Quantized:
    """Items as codes.

    Attributes:
        codes_NL: int64, unique rows.
        sizes: number of codes at each level.
        centres: of each level, float32 (K, D).
        nearest_NL: the codes that items would have if ids need not be unique.
    """

    codes_NL: np.ndarray
    sizes: tuple[int, ...]
    centres: list[np.ndarray]
    nearest_NL: np.ndarray


def quantize(x_ND: np.ndarray, sizes: tuple[int, ...], seed: int = 0) -> Quantized:
    """Give each vector a unique id.

    Args:
        x_ND: float32.
        sizes: number of codes at each level.
        seed: of the k-means.

    Raises:
        InputError: there are more items than ids, too many items share a prefix, or faiss is not installed.
    """
    if len(x_ND) > math.prod(sizes):
        text = f"{len(x_ND):,} items need ids, but {' x '.join(map(str, sizes))} codes give only {math.prod(sizes):,}"
        raise InputError(text, where="sizes", remedy="give larger levels or one more")
    codes_NL, nearest_NL, centres = np.empty((len(x_ND), 0), np.int64), np.empty((len(x_ND), 0), np.int64), []
    rest_ND = rest_of_nearest_ND = x_ND
    for level, size in enumerate(sizes):
        centre_KD, prefix_N = _kmeans(rest_ND, size, seed + level), keys(codes_NL, sizes)
        code_N = np.empty(0, np.int64)
        for _ in range(REFINEMENTS):
            before_N, code_N = code_N, _choose(rest_ND, centre_KD, prefix_N, math.prod(sizes[level + 1 :]))
            if np.array_equal(before_N, code_N):
                break
            centre_KD = _means(rest_ND, code_N, size)
        codes_NL, rest_ND = np.column_stack([codes_NL, code_N]), rest_ND - centre_KD[code_N]
        code_N = nearest(rest_of_nearest_ND, centre_KD)[0]
        nearest_NL, rest_of_nearest_ND = np.column_stack([nearest_NL, code_N]), rest_of_nearest_ND - centre_KD[code_N]
        centres.append(centre_KD)
    return Quantized(codes_NL, sizes, centres, nearest_NL)


def _choose(x_ND: np.ndarray, centre_KD: np.ndarray, prefix_N: np.ndarray, room: int) -> np.ndarray:
    """Choose near codes of a level within each prefix, with ``room`` items at most per code. Shape: -> int64 (N,)."""
    code_N = np.empty(len(prefix_N), np.int64)
    for rows in groups(prefix_N):
        code_N[rows] = (
            assign_one_to_one(x_ND[rows], centre_KD) if room == 1 else assign_greedy(x_ND[rows], centre_KD, room)
        )
    return code_N


def decode(codes_NL: np.ndarray, centres: list[np.ndarray]) -> np.ndarray:
    """The sum of each item's centres. Shape: float32 (N, D)."""
    x_ND = np.zeros((len(codes_NL), centres[0].shape[1]), np.float32)
    for centre_KD, code_N in zip(centres, codes_NL.T, strict=True):
        x_ND += centre_KD[code_N]
    return x_ND


def nearest(x_ND: np.ndarray, centre_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each vector, and the squared distance to it. Shape: -> int64 (N,), float32 (N,)."""
    code_N, square_N = np.empty(len(x_ND), np.int64), np.empty(len(x_ND), np.float32)
    rows = max(1, DISTANCES_AT_ONCE // len(centre_KD))
    for first in range(0, len(x_ND), rows):
        part = slice(first, first + rows)
        square_NK = _squares(x_ND[part], centre_KD)
        code_N[part] = square_NK.argmin(axis=1)
        square_N[part] = square_NK.min(axis=1)
    return code_N, square_N


def assign_greedy(x_ND: np.ndarray, centre_KD: np.ndarray, room: int) -> np.ndarray:
    """Assign each vector to the nearest centre with room, the closest vectors first. Shape: -> int64 (N,).

    Each centre takes up to ``room`` vectors; K x room must be at least N. Memory grows with N and K, not with N x K.
    """
    code_N, left, room_K = np.empty(len(x_ND), np.int64), np.arange(len(x_ND)), np.full(len(centre_KD), room)
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


def assign_one_to_one(x_ND: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
    """Assign each vector a centre of its own, at the smallest sum of squared distances. Shape: -> int64 (N,)."""
    if len(x_ND) * len(centre_KD) > MOST_ASSIGNED:
        text = f"{len(x_ND):,} items share a prefix: too many to be matched with {len(centre_KD):,} codes at once"
        raise InputError(text, where="sizes", remedy="give more levels or a smaller last one")
    return linear_sum_assignment(_squares(x_ND, centre_KD))[1]


def keys(codes_NL: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Encode ids, or prefixes of them, as integers with the same sort order. Shape: (N, L) -> int64 (N,)."""
    levels = codes_NL.shape[1]
    return codes_NL @ np.array([math.prod(sizes[level:levels]) for level in range(1, levels + 1)], np.int64)


def groups(key_N: np.ndarray) -> list[np.ndarray]:
    """Row indices grouped by key, in key order."""
    order = np.argsort(key_N, kind="stable")
    edges = np.flatnonzero(np.diff(key_N[order])) + 1
    return np.split(order, edges) if len(order) else []


def _kmeans(x_ND: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Centres by Lloyd's algorithm; 0 where there are fewer vectors. Shape: float32 (K, D)."""
    try:
        import faiss
    except ImportError as error:
        remedy = "install it: python -m pip install 'recalign[ids]'"
        raise InputError("k-means needs faiss, which is not installed", remedy=remedy) from error
    centre_KD, found = np.zeros((size, x_ND.shape[1]), np.float32), min(size, len(x_ND))
    points = {"min_points_per_centroid": 1, "max_points_per_centroid": KMEANS_SAMPLE}
    kmeans = faiss.Kmeans(x_ND.shape[1], found, niter=25, seed=seed, **points)
    kmeans.train(np.ascontiguousarray(x_ND))
    centre_KD[:found] = kmeans.centroids
    return centre_KD


def _means(x_ND: np.ndarray, code_N: np.ndarray, size: int) -> np.ndarray:
    """Mean of the vectors of each code, 0 where there are none. Shape: float32 (K, D)."""
    one_hot = csr_array((np.ones(len(code_N), np.float32), (code_N, np.arange(len(code_N)))), (size, len(code_N)))
    return (one_hot @ x_ND) / np.maximum(np.bincount(code_N, minlength=size), 1)[:, None].astype(np.float32)


def _squares(x_ND: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
    """Squared distances. Shape: float32 (N, K)."""
    square_NK = x_ND @ (-2 * centre_KD.T)
    square_NK += np.square(x_ND).sum(axis=1)[:, None]
    square_NK += np.square(centre_KD).sum(axis=1)
    return np.maximum(square_NK, 0, out=square_NK)
