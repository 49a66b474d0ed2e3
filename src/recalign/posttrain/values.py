"""Offline methods that learn Q and V from the log: CQL, IQL and AWAC.

The setting is a contextual bandit: Q(s, a) is the expected reward of item a after history s, V(s) the value of the
history, and the discount factor is 0. Rewards are the batch's advantages (`recalign.posttrain.PostTrainingData`): with
``baseline: global`` the log's rewards minus their mean, in standard deviations.

Legend: T events, a the logged item, s its history, r its reward (NaN where there is none: the event does not count).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.distributed import gathered
from recalign.errors import InputError
from recalign.posttrain.base import Figures, PostTraining, TrainingSettings
from recalign.posttrain.heads import ItemValue, StateValue, at_own_rate, state_width
from recalign.posttrain.weighted import weighted_likelihood
from recalign.typed import passes_on


def rated_mean(value_T: Tensor, reward_T: Tensor) -> Tensor:
    """Mean over the events that have a reward, 0 if none has: a scalar."""
    known_T = ~reward_T.isnan()
    return value_T.where(known_T, 0.0).sum() / known_T.sum().clamp(min=1)


def td_loss(value_T: Tensor, reward_T: Tensor) -> Tensor:
    """mean (Q(s, a) - r)^2: the temporal-difference error with gamma = 0, a scalar."""
    return rated_mean((value_T - reward_T.nan_to_num()).square(), reward_T)


def cql_loss(q_T: Tensor, all_T: Tensor, reward_T: Tensor, alpha: float) -> tuple[Tensor, Figures]:
    """L = 1/2 mean (Q(s, a) - r)^2 + alpha mean (logsumexp_b Q(s, b) - Q(s, a)): CQL(H), arXiv 2006.04779, eq. 4.

    The second term lowers items that were not chosen. ``all_T`` is the logsumexp over the catalogue at temperature
    tau: tau log sum_b exp(Q(s, b) / tau).

    Returns:
        The loss, and ``td``, the mean squared error, and ``gap``, the second term without alpha, at least 0.
    """
    td, gap = td_loss(q_T, reward_T), rated_mean(all_T - q_T, reward_T)
    return td / 2 + alpha * gap, {"td": td.detach(), "gap": gap.detach()}


def expectile_loss(error_T: Tensor, tau: float, reward_T: Tensor) -> Tensor:
    """mean |tau - 1[u < 0]| u^2 with u = Q - V, minimised by the tau-expectile of Q (IQL, arXiv 2110.06169).

    The 0.5-expectile is the mean; as tau tends to 1, the expectile tends to the maximum. Detach Q in u.
    """
    side_T = (tau - (error_T < 0).to(error_T.dtype)).abs()
    return rated_mean(side_T * error_T.square(), reward_T)


def exponential_weights(advantage_T: Tensor, beta: float, reward_T: Tensor) -> Tensor:
    """w = min(exp(beta A), 100), 0 where there is no reward (IQL and AWAC as in CORL). Detached."""
    weight_T = (beta * advantage_T.detach()).exp().clamp(max=100.0)
    return weight_T.where(~reward_T.isnan(), 0.0)


def distributions(value_T: Tensor, advantage_T: Tensor) -> Figures:
    """All values and advantages of a batch, for histograms."""
    return {"values": value_T.detach(), "advantages": advantage_T.detach()}


class ValueSettings(TrainingSettings, total=False):
    """Arguments of `ValueMethod` that its methods pass on."""

    value_lr: float


class ValueMethod(PostTraining):
    """Base class: a policy with value heads that have their own learning rate. Subclasses set ``self.critic``.

    Logs ``value/td``, the squared error of Q on logged items, in the reward's variance; all but CQL also log
    ``value/{ess,max_weight,negative}`` of the weights (`weight_figures`). ``value/values`` and ``value/advantages``
    are histograms of Q on logged items, and of Q less what it is compared with.

    Args:
        value_lr: AdamW's learning rate of the heads.
        lr: AdamW's learning rate of the policy.
        **training: arguments of `PostTraining`.
    """

    FIGURES = "value"
    NOT_NEGATIVE = ("value_lr",)
    critic: nn.Module

    @passes_on
    def __init__(self, value_lr: float = 1e-2, lr: float = 5e-5, **training: Unpack[TrainingSettings]) -> None:
        super().__init__(lr=lr, **training)
        self.value_lr = value_lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return at_own_rate(super().configure_optimizers(), self.critic, self.value_lr)

    @torch.no_grad()
    def reference_summary(self, batch: Batch) -> Tensor:
        """States of the frozen start, the input of the heads. Shape: (T, D)."""
        return self.reference.hidden(self.reference.encode(batch))


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

    POSITIVE = ("temperature",)
    NOT_NEGATIVE = ("alpha",)
    critic: StateValue

    @passes_on
    def __init__(
        self, temperature: float = 0.1, alpha: float = 0.5, lr: float = 5e-5, **values: Unpack[ValueSettings]
    ) -> None:
        super().__init__(lr=lr, **values)
        self.temperature, self.alpha = temperature, alpha
        self.critic = StateValue(state_width(self.policy))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":  # initialise V so that Q has mean 0, as advantages have but for `baseline: none`
            batch = self.data.first_batch()
            with torch.no_grad(), self.without_prior():  # as in the loss
                logp_T = self.reference_log_probs(batch, batch.target_T[:, None])
                self.critic.read.bias.fill_(-self.temperature * logp_T.mean())

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        state = self.policy.encode(batch)
        value_T = self.critic(self.policy.hidden(state).detach())
        q_T = value_T + self.temperature * self.policy.log_prob(state, batch.target_T)
        q_T, value_T = gathered(q_T), gathered(value_T)
        loss, figures = cql_loss(q_T, value_T, gathered(self.advantages(batch)), self.alpha)
        return loss, figures | distributions(q_T, q_T - value_T)


class IQL(ValueMethod):
    """Implicit Q-learning: V is an expectile of Q. Logged items are weighted by exp(beta (Q - V)), at most 100.

    Q and V are heads on the frozen start's states (Kostrikov et al., arXiv 2110.06169).

    Logs ``value/expectile``, V's loss, and ``value/v``, V's mean.

    Args:
        beta: inverse temperature, in 1 / standard deviation of the reward; 0: behaviour cloning.
        expectile: expectile of Q that V learns; 0.5: the mean.
        lr: AdamW's learning rate of the policy.
        **values: arguments of `ValueMethod`.
    """

    NOT_NEGATIVE = ("beta",)
    critic: nn.ModuleDict

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        if not 0 < given.get("expectile", 0.5) < 1:
            what = f"{given['expectile']} is not between 0 and 1"
            raise InputError(what, where="model.expectile", remedy="give one between 0 and 1")

    @passes_on
    def __init__(
        self, beta: float = 3.0, expectile: float = 0.7, lr: float = 5e-5, **values: Unpack[ValueSettings]
    ) -> None:
        super().__init__(lr=lr, **values)
        self.beta, self.expectile = beta, expectile
        width = state_width(self.policy)
        self.critic = nn.ModuleDict({"q": ItemValue(width, self.policy.num_items), "v": StateValue(width)})

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        reward_T, fixed_TD = gathered(self.advantages(batch)), self.reference_summary(batch)
        q_T = gathered(self.critic["q"](fixed_TD, batch.target_T[:, None])[:, 0])
        value_T = gathered(self.critic["v"](fixed_TD))
        td = td_loss(q_T, reward_T)
        value_loss = expectile_loss(q_T.detach() - value_T, self.expectile, reward_T)
        weight_T = exponential_weights(q_T - value_T, self.beta, reward_T)
        actor, figures = weighted_likelihood(self.policy, self.policy.encode(batch), batch.target_T, weight_T)
        figures |= {"td": td.detach(), "expectile": value_loss.detach(), "v": value_T.mean().detach()}
        return actor + td + value_loss, figures | distributions(q_T, q_T - value_T)


class AWAC(ValueMethod):
    """Weight logged items by exp(beta A), at most 100, with A = Q(s, a) - mean_n Q(s, b_n), b_n drawn from the policy.

    Q is a head on the frozen start's states (Nair et al., arXiv 2006.09359).

    Logs ``value/advantage``, the mean of A.

    Args:
        beta: inverse temperature (the paper's 1 / lambda), in 1 / standard deviation of the reward; 0: behaviour
            cloning.
        samples: items b_n drawn at each state.
        lr: AdamW's learning rate of the policy.
        **values: arguments of `ValueMethod`.
    """

    POSITIVE = ("samples",)
    NOT_NEGATIVE = ("beta",)
    critic: ItemValue

    @passes_on
    def __init__(self, beta: float = 3.0, samples: int = 8, lr: float = 5e-5, **values: Unpack[ValueSettings]) -> None:
        super().__init__(lr=lr, **values)
        self.beta, self.samples = beta, samples
        self.critic = ItemValue(state_width(self.policy), self.policy.num_items)

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        reward_T, state = gathered(self.advantages(batch)), self.policy.encode(batch)
        item_TC = torch.cat([batch.target_T[:, None], self.policy.sample(state, self.samples)], dim=1)
        q_TC = gathered(self.critic(self.reference_summary(batch), item_TC))
        td = td_loss(q_TC[:, 0], reward_T)
        advantage_T = (q_TC[:, 0] - q_TC[:, 1:].mean(dim=1)).detach()
        weight_T = exponential_weights(advantage_T, self.beta, reward_T)
        actor, figures = weighted_likelihood(self.policy, state, batch.target_T, weight_T)
        figures |= {"td": td.detach(), "advantage": rated_mean(advantage_T, reward_T)}
        return actor + td, figures | distributions(q_TC[:, 0], advantage_T)
