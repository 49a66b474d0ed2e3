"""Methods that weigh the log's items by how much more they are worth than others of the policy: AWAC and SA2C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recalign.errors import require_positive
from recalign.posttrain.heads import ItemValue, state_width
from recalign.posttrain.losses import (
    actor_critic_weights,
    exponential_weights,
    mean_known,
    squared_error,
    weighted_likelihood,
)
from recalign.posttrain.values import ValueMethod
from recalign.sequences import Batch


class AWAC(ValueMethod):
    """Weights exp(beta A), at most 100, A = Q(s, a) - mean_n Q(s, b_n), items b_n drawn from the policy (2006.09359).

    Q is a head on the frozen start's states. Logs ``value/td``, Q's squared error; ``value/advantage``, the mean of A;
    ``value/{ess,max_weight}`` of the weights (`losses.weighted_likelihood`).

    Args:
        beta: of the exponent, in 1 / standard deviation of the reward (the source's 1 / lambda); 0: behaviour cloning.
        samples: items b_n drawn at each state.
        **values: what `ValueMethod` takes.
    """

    critic: ItemValue

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "samples")
        require_positive("model", given, "beta", or_zero=True)

    def __init__(self, beta: float = 3.0, samples: int = 8, **values: Any) -> None:
        super().__init__(**values)
        self.beta, self.samples = beta, samples
        self.critic = ItemValue(state_width(self.policy), self.policy.num_items)

    def loss(self, batch: Batch, reward_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fixed = self.reference.encode(batch)
        state = self.policy.encode(batch)
        drawn_TN = self.policy.sample(state, self.samples)
        q_TC = self.critic(fixed, torch.cat([batch.target_T[:, None], drawn_TN], dim=1))
        td = squared_error(q_TC[:, 0], reward_T)
        advantage_T = (q_TC[:, 0] - q_TC[:, 1:].mean(dim=1)).detach()
        weight_T = exponential_weights(advantage_T, self.beta, reward_T)
        actor, figures = weighted_likelihood(self.policy.log_prob(state, batch.target_T), weight_T)
        return actor + td, {**figures, "td": td.detach(), "advantage": mean_known(advantage_T, reward_T)}


class SA2C(ValueMethod):
    """Cloning weighted by A = Q(s, a) - mean_n Q(s, b_n), where positive; items b_n drawn from all others.

    Q is a head on the policy's own states and teaches them too. Sampled items count as chosen with a low reward
    (SNQN's negative actions). Nothing follows an event here, so there is no second Q to bootstrap from. Logs
    ``value/td``, Q's squared error on the log's items, ``value/negative``, that on the sampled ones, and
    ``value/{ess,max_weight}`` of the weights (`losses.weighted_likelihood`).

    Args:
        samples: items b_n drawn at each state.
        negative: their reward, in standard deviations from the mean.
        **values: what `ValueMethod` takes.
    """

    critic: ItemValue

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "samples")

    def __init__(self, samples: int = 10, negative: float = -1.0, **values: Any) -> None:
        super().__init__(**values)
        self.samples, self.negative = samples, negative
        self.critic = ItemValue(state_width(self.policy), self.policy.num_items)

    def loss(self, batch: Batch, reward_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        target_T1 = batch.target_T[:, None]
        other_TN = torch.randint_like(target_T1.expand(-1, self.samples), 1, self.policy.num_items)
        other_TN = other_TN + (other_TN >= target_T1)  # any item but the event's own
        state = self.policy.encode(batch)
        q_TC = self.critic(state, torch.cat([target_T1, other_TN], dim=1))
        td = squared_error(q_TC[:, 0], reward_T)
        negative = mean_known((q_TC[:, 1:] - self.negative).square().mean(dim=1), reward_T)
        weight_T = actor_critic_weights(q_TC[:, 0], q_TC[:, 1:], reward_T)
        actor, figures = weighted_likelihood(self.policy.log_prob(state, batch.target_T), weight_T)
        return actor + td + negative, {**figures, "td": td.detach(), "negative": negative.detach()}
