"""Memories: what the newest events of a history score, by matrices made from the training events of all users.

    s(v | h) = sum_m S_{h_m, v} / m                     h_1: the newest item of the history, h_2 the next

Suffixes: W items after the padding 0, V without it, U users, R histories, M events of them, N training events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from recalign.data.sequences import Sequences
from recalign.recommender.memory import Memory

Scores = Callable[[Tensor], Tensor]
"""Histories, newest item first, int (R, M) -> s (R, V)."""
Made = Callable[[Sequences], Scores]


def neighbours(keep: int | None = None, **settings: Any) -> Made:
    """The memory of `recalign.recommender.memory` with some of its settings; ``keep``: neighbours of an item."""

    def made(sequences: Sequences) -> Scores:
        memory = Memory.of(sequences, **settings)
        memory.cosine_WK[:, keep or len(memory.cosine_WK) :] = 0
        return lambda history_RM: memory(history_RM[:, : memory.newest].long())

    return made


def linear(matrix: Callable[..., Tensor], newest: int, *settings: float) -> Made:
    """Scores by a matrix S that is no table of neighbours."""

    def made(sequences: Sequences) -> Scores:
        matrix_WW = matrix(*training(sequences), *settings)

        def scores(history_RM: Tensor) -> Tensor:
            item_RM = history_RM[:, :newest].long()
            weight_RM = (item_RM > 0) / torch.arange(1, item_RM.shape[1] + 1)
            return F.embedding_bag(item_RM, matrix_WW, per_sample_weights=weight_RM, mode="sum")[:, 1:]

        return scores

    return made


def training(sequences: Sequences) -> tuple[np.ndarray, np.ndarray, int]:
    """User and item of all training events, in order, int64 (N,) each; and W."""
    user_N = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offset))
    trained_N = np.arange(len(user_N)) - sequences.offset[user_N] < sequences.train_count[user_N]
    return user_N[trained_N], sequences.item[trained_N].astype(np.int64), sequences.num_items + 1


def ease(user_N: np.ndarray, item_N: np.ndarray, items: int, penalty: float) -> Tensor:
    """EASE^R of users' sets of items (Steck, WWW 2019): -P_ij / P_jj, 0 where i = j; P = (X'X + penalty)^-1."""
    chosen_UW = csr_array((np.ones(len(item_N)), (user_N, item_N)), (user_N.max() + 1, items))
    chosen_UW.data[:] = 1
    gram_WW = torch.from_numpy((chosen_UW.T @ chosen_UW).toarray())
    inverse_WW = torch.linalg.inv(gram_WW + penalty * torch.eye(items))
    return (-inverse_WW / inverse_WW.diagonal()).fill_diagonal_(0).float()


def ridge(user_N: np.ndarray, item_N: np.ndarray, items: int, penalty: float) -> Tensor:
    """Ridge regression of the next item on the ten newest, weighted 1 / m: SLIM without its constraints."""
    x_NW = csr_array((len(item_N), items))
    for m in range(1, 11):
        at_N = np.flatnonzero(user_N[m:] == user_N[:-m]) + m
        x_NW += csr_array((np.full(len(at_N), 1 / m), (at_N, item_N[at_N - m])), x_NW.shape)
    y_NW = csr_array((np.ones(len(item_N)), (np.arange(len(item_N)), item_N)), x_NW.shape)
    gram_WW, cross_WW = (torch.from_numpy((x_NW.T @ other_NW).toarray()) for other_NW in (x_NW, y_NW))
    return torch.linalg.solve(gram_WW + penalty * torch.eye(items), cross_WW).float()
