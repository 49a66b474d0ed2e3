"""A memory of co-occurrence: items near the newest items of a history, in the training events of all users.

    cos_ij = c_ij / (sqrt(n_i n_j) + shrinkage)               c_ij: training events of i and j near each other
    s(v | h) = sum_m cos_{h_m, v} / m                         h_1: the newest item of the history, h_2 the next

A policy with a memory of strength a adds a s(v | h) to its logits (`recalign.recommender.sequence_policy`). s is 0 for
items that are no neighbours, such as new ones, and for all items after an empty history. The memory is not trained.
Jannach and Ludewig (RecSys 2017) found that a weighted hybrid of a recurrent network and neighbours beats both.

The cosine is that of Sarwar et al. (WWW 2001). Ludewig and Jannach (UMUAI 2018) count co-occurrence within sessions,
and weight recent events more. ``benchmarks/memory`` compares memories and settings.

Suffixes: T states, V items, W items with the padding 0 first, M newest events, K neighbours, N events, X a subset of
events, P pairs of items.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch, Sequences
from recalign.data.sequences.store import Group
from recalign.data.sequences.windows import ranges
from recalign.nn import Rebuildable

NEIGHBOURS = 200  # K at most
AT_ONCE = 32  # states scored at once on a CPU
PAIRS = 2**23  # pairs of events counted at once, about


class Memory(Rebuildable, nn.Module):
    """The neighbours of each item, and their weight in a policy. Nothing of it is trained.

    Args:
        num_items: V.
        neighbours: K.
        newest: M, how many of a history's newest events count.

    Attributes:
        neighbour_WK: int32, the neighbours of each item, padded with 0; row 0 is the padding item's.
        cosine_WK: float32, the neighbours' cosines (or counts), padded with 0.
        strength: a; a Python float, so that no step synchronises with the device.
    """

    PRIOR_STATE = ("neighbour_WK", "cosine_WK", "_extra_state")
    neighbour_WK: Tensor
    cosine_WK: Tensor

    def __init__(self, num_items: int, neighbours: int, newest: int = 50) -> None:
        super().__init__()
        self.register_buffer("neighbour_WK", torch.zeros(num_items + 1, neighbours, dtype=torch.int32))
        self.register_buffer("cosine_WK", torch.zeros(num_items + 1, neighbours))
        self.newest, self.strength = newest, 0.0

    @classmethod
    def of(
        cls,
        sequences: Sequences,
        users: Group = "all",
        window: int = 10,
        shrinkage: float | None = 10.0,
        newest: int = 50,
        before: bool = True,
    ) -> Memory:
        """Build a memory from the training events of a group of users; near means up to ``window`` places apart.

        With tie groups, two events are near if one is among the ``window`` newest before the other's group.

        For the other arguments see the class and `nearest`.
        """
        found = nearest(sequences, users, window, NEIGHBOURS, shrinkage, before)
        neighbour_WK, cosine_WK = map(torch.from_numpy, found)
        most = max(1, int((cosine_WK > 0).sum(dim=1).max()))
        made = cls(sequences.num_items, most, newest)
        made.neighbour_WK.copy_(neighbour_WK[:, :most])
        made.cosine_WK.copy_(cosine_WK[:, :most])
        return made

    def recall(self, batch: Batch) -> Recalled:
        """The memory's view of the histories before a batch's targets."""
        return Recalled(self, self.newest_items(batch.item_BL, batch.row_T, batch.column_T))

    def join(self, state_TD: Tensor, batch: Batch) -> StateWithMemory:
        """Add the memory's view of the histories to an encoder's states."""
        return StateWithMemory(state_TD, self.recall(batch))

    def newest_items(self, item_BL: Tensor, row_T: Tensor, column_T: Tensor) -> Tensor:
        """The newest items of histories, newest first, padded with 0. Shape: as in `Batch` -> int64 (T, M)."""
        column_TM = column_T[:, None] - torch.arange(self.newest, device=column_T.device)
        return item_BL[row_T[:, None], column_TM.clamp(min=0)] * (column_TM >= 0)

    def forward(self, newest_TM: Tensor) -> Tensor:
        """s(v | h) of all items, given `newest_items`. Shape: int64 (T, M) -> (T, V)."""
        items, neighbours = self.cosine_WK.shape
        shape, flat_X = (*newest_TM.shape, neighbours), newest_TM.flatten()
        weight_M1 = 1 / torch.arange(1, shape[1] + 1, device=newest_TM.device)[:, None]
        score_TMK = self.cosine_WK.index_select(0, flat_X).view(shape) * weight_M1
        neighbour_TMK = self.neighbour_WK.index_select(0, flat_X).long().view(shape)
        score_TW = score_TMK.new_zeros(shape[0], items)
        return score_TW.scatter_add(1, neighbour_TMK.flatten(1), score_TMK.flatten(1))[:, 1:]

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.strength, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.strength = state.item()


@dataclass(frozen=True)
class Recalled:
    """A memory's view of T histories. Scores are computed on first use, and cached.

    Attributes:
        memory: the policy's memory.
        newest_TM: from `Memory.newest_items`.
    """

    memory: Memory
    newest_TM: Tensor

    def __len__(self) -> int:
        return len(self.newest_TM)

    def __getitem__(self, part: slice | Tensor) -> Recalled:
        whole = isinstance(part, slice) and part == slice(0, len(self))
        return self if whole else Recalled(self.memory, self.newest_TM[part])

    @functools.cached_property
    def score_TV(self) -> Tensor:
        """s(v | h). Shape: (T, V). A CPU scores few states at a time, so that their neighbours fit into its caches, and
        skips padding beyond the longest of their histories."""
        if self.newest_TM.device.type != "cpu":
            return self.memory(self.newest_TM)
        parts = ((part_TM, int((part_TM > 0).any(dim=0).sum())) for part_TM in self.newest_TM.split(AT_ONCE))
        return torch.cat([self.memory(part_TM[:, :longest]) for part_TM, longest in parts])


@dataclass(frozen=True)
class StateWithMemory:
    """T states of a policy with a memory.

    Attributes:
        state_TD: the encoder's states.
        recalled: the memory's view of the histories.
    """

    state_TD: Tensor
    recalled: Recalled

    def __len__(self) -> int:
        return len(self.state_TD)

    def __getitem__(self, part: slice | Tensor) -> StateWithMemory:
        return StateWithMemory(self.state_TD[part], self.recalled[part])


def nearest(
    sequences: Sequences, users: Group, window: int, neighbours: int, shrinkage: float | None, before: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest neighbours of each item by cosine, nearest first, from the training events of a group of users.

    Items are counted in blocks, so that memory holds about `PAIRS` pairs of events, or the pairs of one item.

    Args:
        shrinkage: of the cosine; None: counts replace cosines.
        before: whether events before an item's event count too, not only those after it.

    Returns:
        Neighbours, int32 (W, K), and their cosines or counts, float32 (W, K), both padded with 0.
    """
    user_N = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offset))
    training = np.arange(len(user_N)) - sequences.offset[user_N] < sequences.train_count[user_N]
    training &= sequences.users_in(users)[user_N]
    user_N, item_N = user_N[training], sequences.item[training].astype(np.int64)
    first_N = None
    if sequences.tie_group_starts is not None:
        at_N = np.flatnonzero(training)
        first_N = np.arange(len(at_N)) - (at_N - sequences.tie_group_begin(at_N))
    root_W = np.sqrt(np.append(0, sequences.item_counts(users)))
    neighbour_WK = np.zeros((len(root_W), neighbours), np.int32)
    cosine_WK = np.zeros((len(root_W), neighbours), np.float32)
    by_item_N = np.argsort(item_N, kind="stable")
    borders = np.append(np.searchsorted(item_N[by_item_N], np.arange(len(root_W))), len(item_N))
    cuts = [*range(0, len(item_N), max(1, PAIRS // (2 * window))), len(item_N)]
    for at_N in np.split(by_item_N, np.unique(borders[np.searchsorted(borders, cuts)])[1:-1]):
        steps = range(-window if before else 1, window + 1)
        item_P, other_P, count_P = _pairs(user_N, item_N, at_N, steps, first_N)
        cosine_P = count_P if shrinkage is None else count_P / (root_W[item_P] * root_W[other_P] + shrinkage)
        order_P = np.lexsort((-cosine_P, item_P))
        item_P, other_P, cosine_P = item_P[order_P], other_P[order_P], cosine_P[order_P]
        rank_P = np.arange(len(item_P)) - np.searchsorted(item_P, item_P)
        kept = rank_P < neighbours
        neighbour_WK[item_P[kept], rank_P[kept]] = other_P[kept]
        cosine_WK[item_P[kept], rank_P[kept]] = cosine_P[kept]
    return neighbour_WK, cosine_WK


def _pairs(
    user_N: np.ndarray, item_N: np.ndarray, at_N: np.ndarray, steps: Iterable[int], first_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count other items near the events ``at_N``: item, other item, count; sorted. Shape: -> int64 (P,) each.

    ``first_N`` is the index of the first event of each event's set; None: each event is a set of its own.
    """
    pairs = []
    size_N = None if first_N is None else np.bincount(first_N, minlength=len(first_N))  # 0 except where a set begins
    for step in steps:  # step 0 finds no other item
        at_X, other_X = at_N, at_N + step
        if first_N is not None and step < 0:
            other_X = first_N[at_N] + step
        inside = (other_X >= 0) & (other_X < len(item_N))
        at_X, other_X = at_X[inside], other_X[inside]
        if size_N is not None and step > 0:  # all events of the set that begins there
            at_X, other_X = np.repeat(at_X, size_N[other_X]), ranges(other_X, size_N[other_X])
        differs = (user_N[other_X] == user_N[at_X]) & (item_N[other_X] != item_N[at_X])
        pairs.append(item_N[at_X[differs]] << 32 | item_N[other_X[differs]])
    pair_P, count_P = np.unique(np.concatenate(pairs), return_counts=True)
    return pair_P >> 32, pair_P & 0xFFFFFFFF, count_P
