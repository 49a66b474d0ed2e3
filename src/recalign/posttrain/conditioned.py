"""Return-conditioned cloning: condition the policy on an event's reward, and ask for a high one when serving.

As in the decision transformer (Chen et al., arXiv 2106.01345); for retrieval, PinRec (arXiv 2504.10507).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.distributed import gathered
from recalign.errors import InputError
from recalign.posttrain.base import Figures, PostTraining, TrainingSettings
from recalign.posttrain.heads import at_own_rate, state_width
from recalign.posttrain.weighted import weighted_likelihood
from recalign.recommender.policy import Policy, State
from recalign.recommender.training import adamw
from recalign.typed import passes_on


class ConditionedPolicy(Policy):
    """pi(item | history, reward): a base policy whose states are shifted by a function of the reward.

        hidden(s, r) = hidden(s) + W2 SiLU(W1 [hidden(s), r]),        W2 = 0 initially

    `encode` always conditions on the reward ``asked``, so that an event's own reward cannot leak into its evaluation.
    Only `encode_given` reads rewards.
    """

    def __init__(self, base: Policy) -> None:
        super().__init__()
        self.base, self.num_items = base, base.num_items
        width = state_width(base)
        self.condition = nn.Sequential(nn.Linear(width + 1, width), nn.SiLU(), nn.Linear(width, width))
        for parameter in self.condition[2].parameters():
            nn.init.zeros_(parameter)
        self.asked: Tensor
        self.register_buffer("asked", torch.zeros(()))

    @property
    def prior_strength(self) -> float:
        return self.base.prior_strength

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        self.base.prior_strength = strength

    @property
    def num_warm(self) -> int:
        return self.base.num_warm

    @property
    def warm_only(self) -> bool:
        return self.base.warm_only

    @warm_only.setter
    def warm_only(self, only: bool) -> None:
        self.base.warm_only = only

    def begin_step(self) -> None:
        self.base.begin_step()

    def end_step(self) -> None:
        self.base.end_step()

    def start_weights(self, start: Policy) -> list[Tensor]:
        """Parameters of the start, and of a condition that shifts nothing, unless the start has its own."""
        if isinstance(start, ConditionedPolicy) and not isinstance(self.base, ConditionedPolicy):
            return list(start.parameters())
        first, last = self.condition[0], self.condition[2]
        return [*start.parameters(), *first.parameters(), *(torch.zeros_like(one) for one in last.parameters())]

    def encode(self, batch: Batch) -> State:
        return self.encode_given(batch, self.asked.expand(len(batch.row_T)))

    def encode_given(self, batch: Batch, reward_T: Tensor) -> State:
        """States conditioned on a reward each."""
        state = self.base.encode(batch)
        shift_TD = self.condition(torch.cat([self.base.hidden(state), reward_T[:, None]], dim=1))
        return self.base.shift(state, shift_TD)

    def hidden(self, state: State) -> Tensor:
        return self.base.hidden(state)

    def log_probs(self, state: State, items: Tensor | None = None) -> Tensor:
        return self.base.log_probs(state, items)

    def over_items(self, state: State) -> Tensor:
        return self.base.over_items(state)

    def log_prob(self, state: State, item: Tensor) -> Tensor:
        return self.base.log_prob(state, item)

    def weighted_nll(self, state: State, item: Tensor, weight: Tensor) -> Tensor:
        return self.base.weighted_nll(state, item, weight)

    def sample(self, state: State, count: int) -> Tensor:
        return self.base.sample(state, count)

    def top_k(self, state: State, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.base.top_k(state, k, seen)

    def ranks(self, state: State, item: Tensor, seen: Tensor | None = None) -> Tensor:
        return self.base.ranks(state, item, seen)

    def ranks_within(self, state: State, item: Tensor, k: int, seen: Tensor | None = None) -> Tensor:
        return self.base.ranks_within(state, item, k, seen)


class ReturnConditioned(PostTraining):
    """Clone pi(a | s, r) on events that have a reward. The saved policy conditions on a high quantile of the rewards.

    Rewards are the batch's advantages: with ``baseline: global`` the logged rewards minus their mean, in standard
    deviations; with ``baseline: user`` minus the user's earlier mean.

    Logs ``condition/asked``, the reward that serving asks for. ``policy/kl`` is measured at that reward.

    Args:
        ask: quantile of the training rewards to ask for when serving.
        condition_lr: AdamW's learning rate of the network that reads the reward.
        lr: AdamW's learning rate of the policy.
        **training: arguments of `PostTraining`.
    """

    FIGURES = "condition"
    NOT_NEGATIVE = ("condition_lr",)
    policy: ConditionedPolicy

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        if not 0 <= (ask := given.get("ask", 0.9)) <= 1:
            raise InputError(f"{ask} is not a quantile", where="model.ask", remedy="give a number between 0 and 1")

    @passes_on
    def __init__(
        self, ask: float = 0.9, condition_lr: float = 3e-3, lr: float = 3e-5, **training: Unpack[TrainingSettings]
    ) -> None:
        super().__init__(lr=lr, **training)
        self.ask, self.condition_lr = ask, condition_lr
        self.policy = ConditionedPolicy(self.policy)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.policy.asked.fill_(float(np.nanquantile(self.data.advantages, self.ask)))  # type: ignore[attr-defined]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        base = adamw(self.policy.base, self.lr, self.weight_decay)
        return at_own_rate(base, self.policy.condition, self.condition_lr)

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        reward_T = self.advantages(batch)
        state = self.policy.encode_given(batch, reward_T.nan_to_num())
        loss, _ = weighted_likelihood(self.policy, state, batch.target_T, gathered(~reward_T.isnan()).float())
        return loss, {"asked": self.policy.asked}
