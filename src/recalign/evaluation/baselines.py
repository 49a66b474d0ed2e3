"""Policies that need no training: what any trained one has to beat.

Suffixes: T targets, V items, K members, S numbers of a reward model's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from recalign.recommender.policy import Policy
from recalign.reward import RewardEnsemble
from recalign.sequences import Batch, Sequences
from recalign.sequences.splits import TRAIN


class SameForAll(Policy):
    """Scores of items that do not depend on the history; pi = softmax(scores)."""

    def __init__(self, score_V: Tensor) -> None:
        super().__init__()
        self.num_items = len(score_V)
        self.logp_V: Tensor
        self.register_buffer("logp_V", score_V.float().log_softmax(dim=0))

    def encode(self, batch: Batch) -> Tensor:
        return self.logp_V.new_zeros(len(batch.target_T), 1)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        if items is None:
            return self.logp_V.repeat(len(state), 1)
        return self.logp_V[items - 1]


class ItemMeans(nn.Module):
    """The reward model that knows each item's mean reward and nothing of the user."""

    def __init__(self, mean_V: Tensor) -> None:
        super().__init__()
        self.mean_V: Tensor
        self.register_buffer("mean_V", mean_V.float())

    def states(self, batch: Batch) -> Tensor:
        return self.mean_V.new_zeros(1, len(batch.target_T), 0)

    def predict(self, states: Tensor) -> Tensor:
        return self.mean_V.expand(states.shape[1], -1)


@dataclass(frozen=True)
class RerankState:
    """States of a policy and of a reward model, sliced together."""

    policy: Any
    reward_KTS: Tensor

    def __len__(self) -> int:
        return self.reward_KTS.shape[1]

    def __getitem__(self, part: slice) -> RerankState:
        return RerankState(self.policy[part], self.reward_KTS[:, part])


class Rerank(Policy):
    """A policy reranked at serving by predicted rewards: log pi(v | s) + strength * r(s, v), up to a constant.

    The strength is 1 / lambda, in 1 / the reward's unit.
    """

    def __init__(self, policy: Policy, reward: RewardEnsemble | ItemMeans, strength: float) -> None:
        super().__init__()
        self.num_items = policy.num_items
        self.policy, self.reward, self.strength = policy, reward, strength

    def encode(self, batch: Batch) -> Any:
        return RerankState(self.policy.encode(batch), self.reward.states(batch))

    def log_probs(self, state: Any, items: Tensor | None = None) -> Tensor:
        score_TV = self.policy.log_probs(state.policy) + self.strength * self.reward.predict(state.reward_KTS)
        logp_TV = score_TV.log_softmax(dim=1)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


def popularity(sequences: Sequences, high_only: bool = False) -> SameForAll:
    """Items by the number of their training events, or of those of users A with a high reward."""
    train = sequences.frame.filter(pl.col("split") == TRAIN)
    if high_only:
        in_a = pl.Series(sequences.users_in("A")).gather(train["user"])
        train = train.filter(in_a & pl.col("high") & pl.col("reward").is_not_null())
    counts = np.bincount(train["item_id"].to_numpy(), minlength=sequences.num_items + 1)[1:]
    return SameForAll(torch.from_numpy(counts + 0.5).log())  # half an event for items without one
