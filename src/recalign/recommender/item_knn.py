"""Item-kNN: rank items by co-occurrence with the newest items of a history. No training, no reward.

    pi(v | h) = (s(v | h) + n_v / n) / (sum_u s(u | h) + 1)

Scores s are those of `recalign.recommender.memory`, n_v counts item v's training events, n all of them. Popularity
ranks items without a score. `transitions` has counts of the items right after the newest one in place of cosines.

Suffixes: T states, V items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch, Sequences
from recalign.recommender.memory import Memory, Recalled
from recalign.recommender.policy import Policy


class ItemKNN(Policy):
    """The policy of this module's formula, from a memory and each item's number of training events."""

    def __init__(self, co_occurrence: Memory, count_V: Tensor) -> None:
        super().__init__()
        self.num_items, self.co_occurrence = len(count_V), co_occurrence
        self.share_V = nn.Buffer((count_V.clamp(min=0.5) / count_V.sum()).float())  # avoids log 0

    @classmethod
    def of(cls, sequences: Sequences, **settings: Any) -> ItemKNN:
        """Count the training events of all users; ``settings``: arguments of `Memory.of`."""
        return cls(Memory.of(sequences, **settings), torch.from_numpy(sequences.item_counts()))

    def encode(self, batch: Batch) -> Recalled:
        return self.co_occurrence.recall(batch)

    def log_probs(self, state: Recalled, items: Tensor | None = None) -> Tensor:
        score_TV = state.score_TV + self.share_V
        logp_TV = score_TV.log() - score_TV.sum(dim=1, keepdim=True).log()
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


def transitions(sequences: Sequences) -> ItemKNN:
    """One-step transitions, backed off to popularity: (c_{h_1, v} + n_v / n) / (sum_u c_{h_1, u} + 1).

    c_ij counts how often j came right after i, in the training events of all users.
    """
    return ItemKNN.of(sequences, window=1, shrinkage=None, newest=1, before=False)
