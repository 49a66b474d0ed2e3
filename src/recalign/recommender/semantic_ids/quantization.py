"""Residual k-means: write a vector as a few codes, each for the residual of those before.

    r_0 = x,    c_l = the code of level l whose centre is near r_l,    r_{l+1} = r_l - centre_l[c_l]

as in the tokenizers of OneRec (arXiv 2506.13695) and, with a neural encoder, of TIGER (2305.05065). All prefixes share
the centres of a level. Here an item may be refused its nearest code, so that ids stay unique: see `Collisions`.

Suffixes: N items, D width of a vector, L levels, K codes of a level, P ids that are taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from recalign.errors import InputError

Collisions = Literal["assign", "token"]
"""What keeps ids unique.

- ``assign``: no collision arises. Each code takes no more items than there are ids below it, and the codes of the last
  level are assigned within each prefix (linear assignment).
- ``token``: every item takes its nearest codes. One more code numbers the items of an id.
"""

REFINEMENTS = 8
"""How often codes are chosen and centres moved to the means of their items, at most, after the k-means."""
KMEANS_SAMPLE = 256
"""Vectors a centre that the k-means sees at most."""
DISTANCES_AT_ONCE = 2**24
MOST_ASSIGNED = 2**27
"""Distances, of one prefix's items to its free codes, up to which a linear assignment is solved."""


@dataclass(frozen=True)
class Quantized:
    """Items as codes.

    Attributes:
        codes_NL: int64, unique rows.
        sizes: codes of each level.
        centres: of each level, float32 (K, D); those of a level that numbers collisions are 0.
        nearest_NL: the codes that items would have if ids need not be unique; without a level that numbers collisions.
    """

    codes_NL: np.ndarray
    sizes: tuple[int, ...]
    centres: list[np.ndarray]
    nearest_NL: np.ndarray

    @property
    def moved(self) -> int:
        """Items that have another id than the nearest, or a number above 0 in the last level."""
        if self.nearest_NL.shape == self.codes_NL.shape:
            return int((self.codes_NL != self.nearest_NL).any(axis=1).sum())
        return int((self.codes_NL[:, -1] > 0).sum())


@dataclass(frozen=True)
class CodeAllocator:
    """The ids that may be given: one code a level, each id to one item.

    Attributes:
        sizes: codes of each level.
        taken_P: keys (`keys`) of the ids that are taken, sorted.
        unique: whether each id goes to one item only.
    """

    sizes: tuple[int, ...]
    taken_P: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
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

        Raises:
            InputError: too many items of a prefix are to be assigned at once.
        """
        if not self.unique:
            return nearest(x_ND, centre_KD)[0]
        code_N, size = np.empty(len(prefix_N), np.int64), self.sizes[level]
        below = math.prod(self.sizes[level + 1 :])
        assign = assign_one_to_one if level == len(self.sizes) - 1 else assign_greedy
        for rows in groups(prefix_N):
            edges = (int(prefix_N[rows[0]]) * size + np.arange(size + 1)) * below
            room_K = below - np.diff(np.searchsorted(self.taken_P, edges))
            code_N[rows] = assign(x_ND[rows], centre_KD, room_K)
        return code_N


def quantize(x_ND: np.ndarray, sizes: tuple[int, ...], collisions: Collisions = "assign", seed: int = 0) -> Quantized:
    """Give each vector a unique id.

    Args:
        x_ND: float32.
        sizes: codes of each level.
        collisions, seed: as of `recalign.recommender.semantic_ids.tokenize_command.tokenize`.

    Raises:
        InputError: there are more items than ids, or faiss is not installed.
    """
    if len(x_ND) > math.prod(sizes) and collisions != "token":
        text = f"{len(x_ND):,} items, and {' x '.join(map(str, sizes))} codes are only {math.prod(sizes):,} ids"
        raise InputError(text, where="sizes", remedy="give larger levels or one more")
    codes_NL, centres = _fit(x_ND, CodeAllocator(sizes, unique=collisions == "assign"), seed)
    nearest_NL = greedy_encode(x_ND, CodeAllocator(sizes, unique=False), centres)
    if collisions == "token":
        number_N = _numbered(x_ND, codes_NL, sizes, centres)
        codes_NL, sizes = np.column_stack([codes_NL, number_N]), (*sizes, int(number_N.max()) + 1)
        centres = [*centres, np.zeros((sizes[-1], x_ND.shape[1]), np.float32)]
    return Quantized(codes_NL, sizes, centres, nearest_NL)


def append_codes(x_ND: np.ndarray, codes_PL: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Give new items the nearest free ids. Those of the others stay.

    The centres are the means of the items that have ids, so the vectors may come from another source than the ids did.

    Args:
        x_ND: float32 vectors, those of the P items with ids first.
        codes_PL: their ids.
        sizes: codes of each level.

    Shape: -> int64 (N, L).

    Raises:
        InputError: there are more items than ids.
    """
    old, ids = len(codes_PL), math.prod(sizes)
    if len(x_ND) > ids:
        text = f"{len(x_ND) - old:,} new items, and {ids - old:,} of {ids:,} ids are free"
        remedy = "make new ids for all items, with larger levels, and train the policy anew"
        raise InputError(text, where="append", remedy=remedy)
    free = CodeAllocator(sizes, np.sort(keys(codes_PL, sizes)))
    return np.concatenate([codes_PL, greedy_encode(x_ND[old:], free, means(x_ND[:old], codes_PL, sizes))])


def described(x_ND: np.ndarray, codes_NL: np.ndarray, sizes: tuple[int, ...], numbered: bool = False) -> Quantized:
    """Existing ids, with the means of their items as centres; ``numbered``: the last level numbers collisions."""
    centres, levels = means(x_ND, codes_NL, sizes), len(sizes) - numbered
    nearest_NL = greedy_encode(x_ND, CodeAllocator(sizes[:levels], unique=False), centres[:levels])
    if numbered:
        centres[-1] = np.zeros_like(centres[-1])
    return Quantized(codes_NL, sizes, centres, nearest_NL)


def greedy_encode(x_ND: np.ndarray, allocator: CodeAllocator, centres: list[np.ndarray]) -> np.ndarray:
    """Choose codes level by level, near ones first, among ids that may be given. Shape: int64 (N, L)."""
    codes_NL, rest_ND = np.empty((len(x_ND), 0), np.int64), x_ND
    for level, centre_KD in enumerate(centres):
        code_N = allocator.choose(level, keys(codes_NL, allocator.sizes), rest_ND, centre_KD)
        codes_NL, rest_ND = np.column_stack([codes_NL, code_N]), rest_ND - centre_KD[code_N]
    return codes_NL


def decode(codes_NL: np.ndarray, centres: list[np.ndarray]) -> np.ndarray:
    """The sum of each item's centres. Shape: float32 (N, D)."""
    x_ND = np.zeros((len(codes_NL), centres[0].shape[1]), np.float32)
    for centre_KD, code_N in zip(centres, codes_NL.T, strict=True):
        x_ND += centre_KD[code_N]
    return x_ND


def means(x_ND: np.ndarray, codes_NL: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Centres of given ids: means of the residuals at each level; 0 for a code without items."""
    centres, rest_ND = [], x_ND
    for size, code_N in zip(sizes, codes_NL.T, strict=True):
        centres.append(_means(rest_ND, code_N, size))
        rest_ND = rest_ND - centres[-1][code_N]
    return centres


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


def assign_greedy(x_ND: np.ndarray, centre_KD: np.ndarray, room_K: np.ndarray) -> np.ndarray:
    """Assign each vector to the nearest centre with room, the closest vectors first. Shape: -> int64 (N,).

    ``room_K`` says how many vectors each centre takes; N in all, or more. Memory grows with N and K, never with N x K.
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


def assign_one_to_one(x_ND: np.ndarray, centre_KD: np.ndarray, room_K: np.ndarray) -> np.ndarray:
    """Assign each vector a centre of its own that has room, at the smallest sum of squared distances. -> int64 (N,)."""
    open_K = np.flatnonzero(room_K)
    if len(x_ND) * len(open_K) > MOST_ASSIGNED:
        text = f"{len(x_ND):,} items share a prefix and would be matched with {len(open_K):,} codes at once"
        remedy = "give more levels or a smaller last one, or use --collisions token"
        raise InputError(text, where="sizes", remedy=remedy)
    return open_K[linear_sum_assignment(_squares(x_ND, centre_KD[open_K]))[1]]


def keys(codes_NL: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Ids, or prefixes of them, as single numbers that sort as they do. Shape: (N, L) -> int64 (N,)."""
    levels = codes_NL.shape[1]
    return codes_NL @ np.array([math.prod(sizes[level:levels]) for level in range(1, levels + 1)], np.int64)


def groups(key_N: np.ndarray) -> list[np.ndarray]:
    """Rows of equal keys together, in order."""
    order = np.argsort(key_N, kind="stable")
    edges = np.flatnonzero(np.diff(key_N[order])) + 1
    return np.split(order, edges) if len(order) else []


def _fit(x_ND: np.ndarray, allocator: CodeAllocator, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    codes_NL, centres, rest_ND = np.empty((len(x_ND), 0), np.int64), [], x_ND
    for level, size in enumerate(allocator.sizes):
        centre_KD, prefix_N = _kmeans(rest_ND, size, seed + level), keys(codes_NL, allocator.sizes)
        code_N = np.empty(0, np.int64)
        for _ in range(REFINEMENTS):
            before_N, code_N = code_N, allocator.choose(level, prefix_N, rest_ND, centre_KD)
            if np.array_equal(before_N, code_N):
                break
            centre_KD = _means(rest_ND, code_N, size)
        codes_NL, rest_ND = np.column_stack([codes_NL, code_N]), rest_ND - centre_KD[code_N]
        centres.append(centre_KD)
    return codes_NL, centres


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


def _numbered(x_ND: np.ndarray, codes_NL: np.ndarray, sizes: tuple[int, ...], centres: list[np.ndarray]) -> np.ndarray:
    """The place of each item among those of its id, the nearest first. Shape: int64 (N,), from 0."""
    error_ND = x_ND - decode(codes_NL, centres)
    square_N, number_N = np.square(error_ND).sum(axis=1), np.empty(len(x_ND), np.int64)
    for rows in groups(keys(codes_NL, sizes)):
        number_N[rows[np.argsort(square_N[rows], kind="stable")]] = np.arange(len(rows))
    return number_N
