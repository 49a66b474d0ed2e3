"""The rows of a table: what a row is, and the rows that are counted from the log, without training.

Suffixes: T targets, V items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch, Sequences
from recalign.recommender.policy import Policy
from recalign.reward import RewardData


@dataclass(frozen=True)
class TableRow:
    """How a row of a table gets its policy.

    Attributes:
        counted: makes the policy of a row that is counted from the log; None: the row is a network.
        trained: whether it is trained for this row; an untrained network is the start, the cloned policy.
    """

    counted: Callable[[RewardData], Policy] | None = None
    trained: bool = False


class SameForAll(Policy):
    """Scores of items that do not depend on the history; pi = softmax(scores)."""

    def __init__(self, score_V: Tensor) -> None:
        super().__init__()
        self.num_items = len(score_V)
        self.logp_V = nn.Buffer(score_V.float().log_softmax(dim=0))

    def encode(self, batch: Batch) -> Tensor:
        return self.logp_V.new_zeros(len(batch.target_T), 1)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        return self.logp_V.repeat(len(state), 1) if items is None else self.logp_V[items - 1]


def log_counts(sequences: Sequences, high_only: bool = False) -> Tensor:
    """log(n_v + 1/2), n_v the training events of item v, or only those of users A with a high reward. Shape: (V,)."""
    count_V = sequences.item_counts("A", high_only=True) if high_only else sequences.item_counts()
    return torch.from_numpy(count_V + 0.5).log()


NON_PERSONALISED = {
    "popularity": TableRow(lambda data: SameForAll(log_counts(data.sequences))),
    "popularity_high": TableRow(lambda data: SameForAll(log_counts(data.sequences, high_only=True))),
    "item_mean": TableRow(
        lambda data: SameForAll(torch.from_numpy(data.reward_moments().item_mean_V) / data.reward_moments().sd)
    ),
}
"""Rows that rank items the same for everybody, by name; `item_mean`: shrunk mean rewards, in standard deviations."""
