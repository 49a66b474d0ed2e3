"""Offline methods that learn values from the log: CQL. IQL and AWAC are in `recalign.posttrain.experimental`.

The setting is a contextual bandit: Q(s, a) is the expected reward of item a after history s, V(s) the value of the
history, and the discount factor is 0. Rewards are the batch's advantages (`recalign.posttrain.PostTrainingData`): with
``baseline: global`` the log's rewards minus their mean, in standard deviations.

Legend: T events, a the logged item, s its history, D width of a state's `hidden`, r its reward (NaN if absent: the
event does not count).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows
from recalign.errors import NonNegative, Positive
from recalign.posttrain.base import Metrics, PostTraining
from recalign.recommender.policy import Policy
from recalign.recommender.prior import training_pass


def rated_mean(value_T: Tensor, reward_T: Tensor) -> Tensor:
    """Mean over the events that have a reward, a scalar; 0 if none has."""
    known_T = ~reward_T.isnan()
    return value_T.where(known_T, 0.0).sum() / known_T.sum().clamp(min=1)


def td_loss(value_T: Tensor, reward_T: Tensor) -> Tensor:
    """mean (Q(s, a) - r)^2: the temporal-difference error with gamma = 0, a scalar."""
    return rated_mean((value_T - reward_T.nan_to_num()).square(), reward_T)


def cql_loss(q_T: Tensor, all_T: Tensor, reward_T: Tensor, alpha: float) -> tuple[Tensor, Metrics]:
    """L = 1/2 mean (Q(s, a) - r)^2 + alpha mean (logsumexp_b Q(s, b) - Q(s, a)): CQL(H), arXiv 2006.04779, eq. 4.

    The second term lowers items that were not chosen. ``all_T`` is the logsumexp over the catalogue at temperature
    tau: tau log sum_b exp(Q(s, b) / tau).

    Returns:
        The loss, and ``td``, the mean squared error, and ``gap``, the second term without alpha, at least 0.
    """
    td, gap = td_loss(q_T, reward_T), rated_mean(all_T - q_T, reward_T)
    return td / 2 + alpha * gap, {"td": td.detach(), "gap": gap.detach()}


def state_width(policy: Policy) -> int:
    """D: the width of a policy's `hidden`, found by encoding a history of one event."""
    zero, one, nothing = torch.zeros(1).long(), torch.ones(1).long(), torch.full((1,), torch.nan)
    history = (zero, one[:, None], one, zero[:, None], zero[:, None], nothing[:, None])
    batch = Batch(*history, zero, zero, one, nothing, zero.bool(), zero)
    with torch.no_grad():
        return policy.hidden(policy.encode(batch)).shape[1]


class StateValue(nn.Module):
    """V(s), linear in the state's `hidden`; 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, 1)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, state_TD: Tensor) -> Tensor:
        """Shape: (T, D) -> (T,)."""
        return self.read(state_TD)[:, 0]


def with_head(optimizer: torch.optim.Optimizer, head: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Add a head to an optimiser, with its own learning rate and no weight decay."""
    optimizer.add_param_group({"params": head.parameters(), "lr": lr, "weight_decay": 0.0})
    return optimizer


class ValueMethod(PostTraining):
    """Base class: a policy with value heads that have their own learning rate. Subclasses set ``self.critic``.

    Logs ``value/td``, the squared error of Q on logged items, in variances of the reward; ``value/values`` and
    ``value/advantages``, histograms of Q on logged items, and of Q minus its baseline.

    Args:
        value_lr: AdamW's learning rate of the heads.
        lr: AdamW's learning rate of the policy.
        **training: arguments of `PostTraining`.
    """

    LOG_PREFIX = "value"
    critic: nn.Module

    def __init__(self, value_lr: NonNegative[float] = 1e-2, lr: float = 5e-5, **training: Any) -> None:
        super().__init__(lr=lr, **training)
        self.value_lr = value_lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return with_head(super().configure_optimizers(), self.critic, self.value_lr)


class CQL(ValueMethod):
    """Conservative Q-learning in which the policy's logits are the Q-values (`cql_loss`).

    Q(s, a) = V(s) + tau log pi(a | s), so that pi = softmax(Q / tau) and V = tau log sum_a exp(Q / tau). The policy is
    the Boltzmann policy of Q and equals the start before the first step. The conservative term is -tau log pi(a | s),
    which is behaviour cloning. V is a head on the policy's detached state.

    Logs ``value/gap``, the conservative term.

    Args:
        temperature: tau, in standard deviations of the reward.
        alpha: weight of the conservative term; a large alpha gives behaviour cloning.
        lr: AdamW's learning rate of the policy.
        **values: arguments of `ValueMethod`.
    """

    critic: StateValue

    def __init__(
        self, temperature: Positive[float] = 0.1, alpha: NonNegative[float] = 0.5, lr: float = 5e-5, **values: Any
    ) -> None:
        super().__init__(lr=lr, **values)
        self.temperature, self.alpha = temperature, alpha
        self.critic = StateValue(state_width(self.policy))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":  # initialise V so that Q has mean 0, as advantages do except for `baseline: none`
            batch = self.data.first_batch()
            with torch.no_grad(), training_pass(*self.policies()):
                logp_T = self.reference_log_probs(batch, batch.target_T[:, None])
                self.critic.read.bias.fill_(-self.temperature * logp_T.mean())

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        state = self.policy.encode(batch)
        value_T = self.critic(self.policy.hidden(state).detach())
        q_T = value_T + self.temperature * self.policy.log_prob(state, batch.target_T)
        q_T, value_T = all_gather_rows(q_T), all_gather_rows(value_T)
        loss, metrics = cql_loss(q_T, value_T, all_gather_rows(self.advantages(batch)), self.alpha)
        return loss, metrics | {"values": q_T.detach(), "advantages": (q_T - value_T).detach()}
