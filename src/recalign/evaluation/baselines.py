"""Policies that need no training: what any trained one has to beat."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.recommender.policy import Policy
from recalign.reward import RewardEnsemble
from recalign.sequences import Batch, Sequences
from recalign.sequences.splits import TRAIN


class SameForAll(Policy):
    """Scores of items that do not depend on the history; pi = softmax(scores).

    Args:
        score_V: a score an item.
    """

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


class Rerank(Policy):
    """The starting policy, tilted at serving: log pi(v | s) + r(s, v) / lambda, up to a constant.

    Args:
        policy: the starting policy.
        reward: the training reward model.
        strength: 1 / lambda, in 1 / the reward's unit.
    """

    def __init__(self, policy: Policy, reward: RewardEnsemble, strength: float) -> None:
        super().__init__()
        self.num_items = policy.num_items
        self.policy, self.reward, self.strength = policy, reward, strength
        self._shape: torch.Size = torch.Size()

    def encode(self, batch: Batch) -> Tensor:
        pi_T, r_KTD = self.policy.encode(batch), self.reward.states(batch)
        self._shape = pi_T.shape[1:]
        return torch.cat([pi_T.flatten(1), r_KTD.transpose(0, 1).flatten(1)], dim=1)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        own = self._shape.numel()
        pi_T = state[:, :own].view(-1, *self._shape)
        r_KTD = state[:, own:].view(len(state), self.reward.members, -1).transpose(0, 1)
        tilted_TV = self.policy.log_probs(pi_T) + self.strength * self.reward.predict(r_KTD)
        logp_TV = tilted_TV.log_softmax(dim=1)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


class RerankByMean(Policy):
    """The starting policy, tilted by each item's mean reward instead of a reward model.

    Args:
        policy: the starting policy.
        item_mean_V: shrunk mean reward of each item.
        strength: 1 / lambda, in 1 / the reward's unit.
    """

    def __init__(self, policy: Policy, item_mean_V: Tensor, strength: float) -> None:
        super().__init__()
        self.num_items = policy.num_items
        self.policy = policy
        self.tilt_V: Tensor
        self.register_buffer("tilt_V", item_mean_V.float() * strength)

    def encode(self, batch: Batch) -> Tensor:
        return self.policy.encode(batch)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        logp_TV = (self.policy.log_probs(state) + self.tilt_V).log_softmax(dim=1)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


def popularity(sequences: Sequences, high_only: bool = False) -> SameForAll:
    """Items by the number of their training events; or of those of users A with a high reward."""
    train = sequences.frame.filter(pl.col("split") == TRAIN)
    if high_only:
        in_a = pl.Series(sequences.users_in("A")).gather(train["user"])
        train = train.filter(in_a & pl.col("high") & pl.col("reward").is_not_null())
    counts = np.bincount(train["item_id"].to_numpy(), minlength=sequences.num_items + 1)[1:]
    return SameForAll(torch.from_numpy(counts + 0.5).log())  # half an event for items without one


def item_mean(item_mean_V: np.ndarray, scale: float) -> SameForAll:
    """Items by their shrunk mean reward, in standard deviations."""
    return SameForAll(torch.from_numpy(item_mean_V) / scale)
