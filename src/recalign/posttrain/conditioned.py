"""Return-conditioned: the policy is told what reward an event had, and asked for a high one when it serves.

As the decision transformer does (Chen et al., arXiv 2106.01345); for retrieval, PinRec (arXiv 2504.10507).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.posttrain.base import PostTraining
from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.heads import state_width
from recalign.posttrain.losses import weighted_likelihood
from recalign.recommender.policy import Policy
from recalign.recommender.training import adamw
from recalign.sequences import Batch


class ConditionedPolicy(Policy):
    """pi(item | history, reward): a policy whose states are moved by the reward that is asked for.

        state(s, r) = state(s) + W2 SiLU(W1 [state(s), r]),        W2 = 0 at first

    `encode` asks for one reward, ``asked``, whatever the batch says: an event's own reward cannot leak into how it is
    evaluated. Only `encode_given` is told rewards.

    Args:
        base: the policy that it is made of.
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

    def origin(self, start: Policy) -> list[Tensor]:
        """The start, and a condition that does not move its states."""
        first, last = self.condition[0], self.condition[2]
        return [*start.parameters(), *first.parameters(), *(torch.zeros_like(one) for one in last.parameters())]

    def encode(self, batch: Batch) -> Tensor:
        return self.encode_given(batch, self.asked.expand(len(batch.row_T)))

    def encode_given(self, batch: Batch, reward_T: Tensor) -> Tensor:
        """States that are told a reward each. Shape: (T,) -> (T, ...)."""
        state = self.base.encode(batch)
        told = torch.cat([state.flatten(1), reward_T[:, None]], dim=1)
        return state + self.condition(told).view_as(state)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        return self.base.log_probs(state, items)

    def log_prob(self, state: Tensor, item: Tensor) -> Tensor:
        return self.base.log_prob(state, item)

    def weighted_nll(self, state: Tensor, item: Tensor, weight: Tensor) -> Tensor:
        return self.base.weighted_nll(state, item, weight)

    def sample(self, state: Tensor, count: int) -> Tensor:
        return self.base.sample(state, count)

    def top_k(self, state: Tensor, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.base.top_k(state, k, seen)

    def ranks(self, state: Tensor, item: Tensor, seen: Tensor | None = None) -> Tensor:
        return self.base.ranks(state, item, seen)


class ReturnConditioned(PostTraining):
    """Cloning of pi(a | s, r) on events that have a reward; what is handed over asks for a high quantile of them.

    Rewards are the batch's advantages: with ``baseline: global`` the log's own, less their mean, in standard
    deviations; with ``baseline: user`` how much better than the user's own an event was.

    Logs ``train/loss``; ``condition/asked``, the reward asked for; ``policy/kl``, with that reward asked for.

    Args:
        init_from: checkpoint whose policy is the start; null: the newest of this log.
        ask: quantile of the training rewards that is asked for at serving.
        condition_lr: AdamW's learning rate of what reads the reward.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that is kept; null: whatever is left.
        policy: a policy to start from instead of a checkpoint's (Python only).
    """

    policy: ConditionedPolicy

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        if not 0 <= (ask := given.get("ask", 0.9)) <= 1:
            raise InputError(f"{ask} is no quantile", where="model.ask", remedy="give a number between 0 and 1")

    def __init__(
        self,
        init_from: str | None = None,
        ask: float = 0.9,
        condition_lr: float = 1e-2,
        lr: float = 3e-5,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.ask, self.condition_lr = ask, condition_lr
        self.policy = ConditionedPolicy(self.policy)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            assert isinstance(self.data, PostTrainingData)
            self.policy.asked.fill_(float(np.nanquantile(self.data.advantages, self.ask)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = adamw(self.policy.base, self.lr, self.weight_decay)
        condition = self.policy.condition.parameters()
        optimizer.add_param_group({"params": condition, "lr": self.condition_lr, "weight_decay": 0.0})
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reward_T = self.advantages(batch)
        state = self.policy.encode_given(batch, reward_T.nan_to_num())
        loss, _ = weighted_likelihood(self.policy.log_prob(state, batch.target_T), (~reward_T.isnan()).to(state.dtype))
        self.log("train/loss", loss, batch_size=len(reward_T))
        self.log("condition/asked", self.policy.asked)
        self.log_drift(batch)
        return loss
