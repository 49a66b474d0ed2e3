"""Policies that need no training: the baselines.

Suffixes: T targets, V items, K members, S numbers of a reward model's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch, Sequences
from recalign.recommender.policy import Policy
from recalign.reward import RewardEnsemble


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


class ItemScores(nn.Module):
    """One score an item for all users, in place of a reward model: mean rewards, log counts."""

    def __init__(self, score_V: Tensor) -> None:
        super().__init__()
        self.score_V = nn.Buffer(score_V.float())

    def states(self, batch: Batch) -> Tensor:
        return self.score_V.new_zeros(1, len(batch.target_T), 0)

    def predict(self, states: Tensor, item: Tensor | None = None) -> Tensor:
        return self.score_V.expand(states.shape[1], -1) if item is None else self.score_V[item - 1]


Scores = RewardEnsemble | ItemScores
"""What a policy can be reranked by."""


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
    """A policy reranked at serving: log pi(v | s) + strength * r(s, v), up to a constant, r a reward or another score.

    The strength is 1 / lambda, in 1 / the score's unit. A state may be one of `encode`, or log-probabilities.
    ``spread`` is the standard deviation of the rewards, in which whoever asks may give another strength.
    """

    def __init__(self, policy: Policy, reward: Scores, strength: float, spread: float = 1.0) -> None:
        super().__init__()
        self.num_items = policy.num_items
        self.policy, self.reward, self.strength, self.spread = policy, reward, strength, spread

    def encode(self, batch: Batch) -> Any:
        return RerankState(self.policy.encode(batch), self.reward.states(batch))

    def scored(self, state: RerankState) -> tuple[Tensor, Tensor]:
        """The policy's log-probabilities and the scores, which do not depend on the strength. Shape: -> (T, V) each."""
        return self.policy.log_probs(state.policy), self.reward.predict(state.reward_KTS)

    def tilted(self, logp_TV: Tensor, score_TV: Tensor) -> Tensor:
        """Log-probabilities over the catalogue from what `scored` returns. Shape: -> (T, V)."""
        return (logp_TV + self.strength * score_TV).log_softmax(dim=1)

    def log_probs(self, state: RerankState | Tensor, items: Tensor | None = None) -> Tensor:
        logp_TV = state if isinstance(state, Tensor) else self.tilted(*self.scored(state))
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


def log_counts(sequences: Sequences, high_only: bool = False) -> Tensor:
    """log(n_v + 1/2), n_v the training events of item v, or only those of users A with a high reward. Shape: (V,)."""
    count_V = sequences.item_counts("A", high_only=True) if high_only else sequences.item_counts()
    return torch.from_numpy(count_V + 0.5).log()
