"""Item-kNN: rank items by what co-occurs with the newest items of a history. No training, no reward.

    cos_ij = c_ij / (sqrt(n_i n_j) + shrinkage)                     c_ij: training events of i and j near each other
    s(v | h) = sum_m cos_{h_m, v} / m                               h_1: the newest item of the history, h_2 the next
    pi(v | h) = (s(v | h) + n_v / n) / (sum_u s(u | h) + 1)         n_v: training events of v; n: those of all items

Each item keeps its nearest neighbours only; popularity ranks the items that are nobody's. `transitions` has counts of
what came right after an item in place of cosines, and reads the newest item alone. Sarwar et al. (WWW 2001) have
the cosine. Ludewig & Jannach (UMUAI 2018) let co-occurrence count within sessions, and recent events for more; what
both are worth here, and the defaults: ``benchmarks/item_knn.py`` at 6cff785.

Suffixes: T states, V items, W items after the padding 0, M newest events, K neighbours, N events, X some of them,
P pairs of items.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch, Sequences
from recalign.recommender.policy import Policy

NEIGHBOURS = 200  # K
PAIRS = 2**23  # pairs of events that are counted at once, about


class ItemKNN(Policy):
    """The policy of this module's formula.

    Args:
        neighbour_WK: int32, the neighbours of each item, 0 where there are fewer; row 0 is of the padding.
        cosine_WK: float32, how near they are; 0 of neighbour 0. Of a table of transitions: counts.
        count_V: training events of each item.
        newest: M, events of a history that count.
    """

    def __init__(self, neighbour_WK: Tensor, cosine_WK: Tensor, count_V: Tensor, newest: int = 50) -> None:
        super().__init__()
        self.num_items = len(count_V)
        self.neighbour_WK = nn.Buffer(neighbour_WK)
        self.cosine_WK = nn.Buffer(cosine_WK)
        self.share_V = nn.Buffer((count_V.clamp(min=0.5) / count_V.sum()).float())  # log 0 is no score
        self.weight_M = nn.Buffer(1 / torch.arange(1, newest + 1))

    @classmethod
    def of(cls, sequences: Sequences, window: int = 10, shrinkage: float = 10.0, newest: int = 50) -> ItemKNN:
        """Count the training events of all users, which are near each other up to ``window`` places apart."""
        neighbour_WK, cosine_WK = map(torch.from_numpy, nearest(sequences, window, NEIGHBOURS, shrinkage))
        return cls(neighbour_WK, cosine_WK, torch.from_numpy(sequences.item_counts()), newest)

    def encode(self, batch: Batch) -> Tensor:
        """The newest items of each history, newest first, then 0. Shape: -> int64 (T, M)."""
        column_TM = batch.column_T[:, None] - torch.arange(len(self.weight_M), device=batch.column_T.device)
        return batch.item_BL[batch.row_T[:, None], column_TM.clamp(min=0)] * (column_TM >= 0)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        neighbour_TMK, score_TMK = self.neighbour_WK[state].long(), self.cosine_WK[state] * self.weight_M[:, None]
        score_TW = self.cosine_WK.new_zeros(len(state), self.num_items + 1)
        score_TW.scatter_add_(1, neighbour_TMK.flatten(1), score_TMK.flatten(1))
        score_TV = score_TW[:, 1:] + self.share_V
        logp_TV = score_TV.log() - score_TV.sum(dim=1, keepdim=True).log()
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


def transitions(sequences: Sequences) -> ItemKNN:
    """One-step transitions, backed off to popularity: (c_{h_1, v} + n_v / n) / (sum_u c_{h_1, u} + 1).

    c_ij counts how often j came right after i, in the training events of all users.
    """
    next_WK, count_WK = map(torch.from_numpy, nearest(sequences, 1, NEIGHBOURS, None, before=False))
    return ItemKNN(next_WK, count_WK, torch.from_numpy(sequences.item_counts()), newest=1)


def nearest(
    sequences: Sequences, window: int, neighbours: int, shrinkage: float | None, before: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours of each item by cosine, nearest first, as `ItemKNN.of` counts them.

    Items are counted a block at a time, so that no more than `PAIRS` pairs of events are held, or those of one item.

    Args:
        shrinkage: of the cosine; None: neighbours are ordered by their counts.
        before: whether events before an item's count too, not only those after it.

    Returns:
        int32 (W, K), 0 where there are fewer, and their cosines or counts, float32 (W, K).
    """
    user_N = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offset))
    training = np.arange(len(user_N)) - sequences.offset[user_N] < sequences.train_count[user_N]
    user_N, item_N = user_N[training], sequences.item[training].astype(np.int64)
    root_W = np.sqrt(np.append(0, sequences.item_counts()))
    neighbour_WK = np.zeros((len(root_W), neighbours), np.int32)
    cosine_WK = np.zeros((len(root_W), neighbours), np.float32)
    by_item_N = np.argsort(item_N, kind="stable")
    borders = np.append(np.searchsorted(item_N[by_item_N], np.arange(len(root_W))), len(item_N))
    cuts = [*range(0, len(item_N), max(1, PAIRS // (2 * window))), len(item_N)]
    for at_N in np.split(by_item_N, np.unique(borders[np.searchsorted(borders, cuts)])[1:-1]):
        item_P, other_P, count_P = _pairs(user_N, item_N, at_N, range(-window if before else 1, window + 1))
        cosine_P = count_P if shrinkage is None else count_P / (root_W[item_P] * root_W[other_P] + shrinkage)
        order_P = np.lexsort((-cosine_P, item_P))
        item_P, other_P, cosine_P = item_P[order_P], other_P[order_P], cosine_P[order_P]
        rank_P = np.arange(len(item_P)) - np.searchsorted(item_P, item_P)
        kept = rank_P < neighbours
        neighbour_WK[item_P[kept], rank_P[kept]] = other_P[kept]
        cosine_WK[item_P[kept], rank_P[kept]] = cosine_P[kept]
    return neighbour_WK, cosine_WK


def _pairs(
    user_N: np.ndarray, item_N: np.ndarray, at_N: np.ndarray, steps: Iterable[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Other items near some events, ``at_N``: item, the other one, how often. Sorted. Shape: -> int64 (P,) each."""
    pairs = []
    for step in steps:  # 0 finds no other item
        at_X = at_N[(at_N + step >= 0) & (at_N + step < len(item_N))]
        at_X = at_X[(user_N[at_X + step] == user_N[at_X]) & (item_N[at_X + step] != item_N[at_X])]
        pairs.append(item_N[at_X] << 32 | item_N[at_X + step])
    pair_P, count_P = np.unique(np.concatenate(pairs), return_counts=True)
    return pair_P >> 32, pair_P & 0xFFFFFFFF, count_P
