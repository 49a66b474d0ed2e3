"""Methods that learn what items are worth from the log alone: CQL, IQL and AWAC.

A contextual bandit: Q(s, a) is the expected reward of item a after history s, V(s) that of the history. Rewards are the
batch's advantages (`recalign.posttrain.PostTrainingData`): with ``baseline: global`` the log's own rewards, less their
mean, in standard deviations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recalign.errors import InputError, require_positive
from recalign.posttrain.base import PostTraining
from recalign.posttrain.heads import Critic, StateValue, state_width
from recalign.posttrain.losses import conservative, expectile, exponential_weights, squared_error, weighted_likelihood
from recalign.recommender.policy import Policy
from recalign.sequences import Batch


class ValueMethod(PostTraining):
    """A policy with heads that learn values at a rate of their own. Subclasses set ``self.critic`` and write `loss`.

    Logs ``train/loss``, ``policy/kl`` and what the subclass says.

    Args:
        init_from: checkpoint whose policy is the start; null: the newest of this log.
        value_lr: AdamW's learning rate of the heads.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that is kept; null: whatever is left.
        policy: a policy to start from instead of a checkpoint's (Python only).
    """

    critic: nn.Module

    def __init__(
        self,
        init_from: str | None = None,
        value_lr: float = 1e-2,
        lr: float = 3e-5,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.value_lr = value_lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        optimizer.add_param_group({"params": self.critic.parameters(), "lr": self.value_lr, "weight_decay": 0.0})
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, figures = self.loss(batch, self.advantages(batch))
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        self.log_dict({f"value/{k}": v for k, v in figures.items()})
        self.log_drift(batch)
        return loss

    def loss(self, batch: Batch, reward_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its figures. ``reward_T`` is NaN where there is no reward."""
        raise NotImplementedError


class CQL(ValueMethod):
    """Conservative Q-learning in which the policy's own logits are the Q-values (`losses.conservative`).

    Q(s, a) = V(s) + tau log pi(a | s), so that pi = softmax(Q / tau) and V = tau log sum_a exp(Q / tau): the served
    policy is the Boltzmann policy of Q, it is the start before the first step, and the conservative term is
    -tau log pi(a | s), behaviour cloning. V is a head on the state, which it does not move.

    Logs ``value/td``, the squared error of Q, in the reward's variance, and ``value/gap``, the conservative term.

    Args:
        temperature: tau, in standard deviations of the reward.
        alpha: of the conservative term; large: behaviour cloning.
        **values: what `ValueMethod` takes.
    """

    critic: StateValue

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "temperature")

    def __init__(self, temperature: float = 0.1, alpha: float = 0.5, **values: Any) -> None:
        super().__init__(**values)
        self.temperature, self.alpha = temperature, alpha
        self.critic = StateValue(state_width(self.policy))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":  # V starts where Q is right on average
            batch = next(iter(self.data.train_dataloader()))
            with torch.no_grad():
                logp_T = self.reference.log_prob(self.reference.encode(batch), batch.target_T)
                self.critic.read.bias.fill_(-self.temperature * logp_T.mean())

    def loss(self, batch: Batch, reward_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        state = self.policy.encode(batch)
        value_T = self.critic(state.detach())
        q_T = value_T + self.temperature * self.policy.log_prob(state, batch.target_T)
        return conservative(q_T, value_T, reward_T, self.alpha)


class IQL(ValueMethod):
    """Implicit Q-learning: V is an expectile of Q, and the log's items are weighted by exp(beta (Q - V)), at most 100.

    Q and V are heads on the frozen start's states. Logs ``value/td``; ``value/expectile``, V's loss; ``value/v``, V's
    mean; ``value/{ess,max_weight}`` of the weights (`losses.weighted_likelihood`).

    Args:
        beta: of the exponent, in 1 / standard deviation of the reward; 0: behaviour cloning.
        expectile: which; 0.5: the mean.
        **values: what `ValueMethod` takes.
    """

    critic: Critic

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "beta", or_zero=True)
        if not 0 < given.get("expectile", 0.5) < 1:
            what = f"{given['expectile']} is no expectile"
            raise InputError(what, where="model.expectile", remedy="give one between 0 and 1")

    def __init__(self, beta: float = 3.0, expectile: float = 0.7, **values: Any) -> None:
        super().__init__(**values)
        self.beta, self.expectile = beta, expectile
        self.critic = Critic(state_width(self.policy), self.policy.num_items)

    def loss(self, batch: Batch, reward_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fixed = self.reference.encode(batch)
        q_T, value_T = self.critic.q(fixed, batch.target_T[:, None])[:, 0], self.critic.v(fixed)
        td = squared_error(q_T, reward_T)
        lag = expectile(q_T.detach() - value_T, self.expectile, reward_T)
        weight_T = exponential_weights(q_T - value_T, self.beta, reward_T)
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        actor, figures = weighted_likelihood(logp_T, weight_T)
        return actor + td + lag, {**figures, "td": td.detach(), "expectile": lag.detach(), "v": value_T.mean().detach()}
