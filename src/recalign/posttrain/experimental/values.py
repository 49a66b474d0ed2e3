"""IQL and AWAC: cloning weighted by learned values. Legend as in `recalign.posttrain.values`.

Further suffixes: C items of a state, H rank of the interaction of state and item.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows
from recalign.errors import NonNegative, OpenUnit, Positive
from recalign.posttrain.base import Metrics
from recalign.posttrain.values import StateValue, ValueMethod, rated_mean, state_width, td_loss
from recalign.posttrain.weighted import weighted_likelihood


def expectile_loss(error_T: Tensor, tau: float, reward_T: Tensor) -> Tensor:
    """mean |tau - 1[u < 0]| u^2 with u = Q - V, minimised by the tau-expectile of Q (IQL, arXiv 2110.06169).

    The 0.5-expectile is the mean; as tau tends to 1, the expectile tends to the maximum. Detach Q in u.
    """
    side_T = (tau - (error_T < 0).to(error_T.dtype)).abs()
    return rated_mean(side_T * error_T.square(), reward_T)


def exponential_weights(advantage_T: Tensor, beta: float, reward_T: Tensor) -> Tensor:
    """w = min(exp(beta A), 100), 0 without a reward (IQL and AWAC as in CORL). Detached."""
    return (beta * advantage_T.detach()).exp().clamp(max=100.0).where(~reward_T.isnan(), 0.0)


class ItemValue(nn.Module):
    """Q(s, a) = g(s) + b_a + q(s) . c_a: value of the state, of the item, and their interaction; 0 at first."""

    def __init__(self, width: int, num_items: int, rank: int = 32) -> None:
        super().__init__()
        self.general = StateValue(width)
        self.quality = nn.Embedding(num_items + 1, 1)
        self.taste, self.trait = nn.Linear(width, rank, bias=False), nn.Embedding(num_items + 1, rank)
        nn.init.zeros_(self.quality.weight)
        nn.init.zeros_(self.taste.weight)
        nn.init.normal_(self.trait.weight, std=rank**-0.5)

    def forward(self, state_TD: Tensor, item_TC: Tensor) -> Tensor:
        """Shape: (T, D), int64 (T, C) -> (T, C)."""
        taste_T1H = self.taste(state_TD)[:, None]
        fit_TC = (taste_T1H * self.trait(item_TC)).sum(dim=-1)
        return self.general(state_TD)[:, None] + self.quality(item_TC)[..., 0] + fit_TC


class WeightedByValues(ValueMethod):
    """Base class: heads on the frozen start's states; logged items are weighted by `exponential_weights`.

    Logs ``value/{ess,max_weight,negative}`` of the weights (`recalign.posttrain.weighted.weight_metrics`).

    Args:
        beta: inverse temperature, in 1 / standard deviation of the reward; 0: behaviour cloning.
        lr: AdamW's learning rate of the policy.
        **values: arguments of `ValueMethod`.
    """

    def __init__(self, beta: NonNegative[float] = 3.0, lr: float = 5e-5, **values: Any) -> None:
        super().__init__(lr=lr, **values)
        self.beta = beta

    @torch.no_grad()
    def start_hidden(self, batch: Batch) -> Tensor:
        """States of the frozen start, the input of the heads. Shape: (T, D)."""
        return self.reference.hidden(self.reference.encode(batch))


class IQL(WeightedByValues):
    """Implicit Q-learning: V is an expectile of Q. Logged items are weighted by exp(beta (Q - V)), at most 100.

    Q and V are heads on the frozen start's states (Kostrikov et al., arXiv 2110.06169).

    Logs ``value/expectile``, V's loss, and ``value/v``, V's mean.

    Args:
        expectile: expectile of Q that V learns; 0.5: the mean.
        **weighted: arguments of `WeightedByValues`.
    """

    critic: nn.ModuleDict

    def __init__(self, expectile: OpenUnit = 0.7, **weighted: Any) -> None:
        super().__init__(**weighted)
        self.expectile, width = expectile, state_width(self.policy)
        self.critic = nn.ModuleDict({"q": ItemValue(width, self.policy.num_items), "v": StateValue(width)})

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        reward_T, fixed_TD = all_gather_rows(self.advantages(batch)), self.start_hidden(batch)
        q_T = all_gather_rows(self.critic["q"](fixed_TD, batch.target_T[:, None])[:, 0])
        value_T = all_gather_rows(self.critic["v"](fixed_TD))
        td = td_loss(q_T, reward_T)
        value_loss = expectile_loss(q_T.detach() - value_T, self.expectile, reward_T)
        weight_T = exponential_weights(q_T - value_T, self.beta, reward_T)
        actor, metrics = weighted_likelihood(self.policy, self.policy.encode(batch), batch.target_T, weight_T)
        metrics |= {"td": td.detach(), "expectile": value_loss.detach(), "v": value_T.mean().detach()}
        metrics |= {"values": q_T.detach(), "advantages": (q_T - value_T).detach()}
        return actor + td + value_loss, metrics


class AWAC(WeightedByValues):
    """Weight logged items by exp(beta A), at most 100, with A = Q(s, a) - mean_n Q(s, b_n), b_n drawn from the policy.

    Q is a head on the frozen start's states (Nair et al., arXiv 2006.09359); beta is the paper's 1 / lambda.

    Logs ``value/advantage``, the mean of A.

    Args:
        samples: items b_n drawn at each state.
        **weighted: arguments of `WeightedByValues`.
    """

    critic: ItemValue

    def __init__(self, samples: Positive[int] = 8, **weighted: Any) -> None:
        super().__init__(**weighted)
        self.samples = samples
        self.critic = ItemValue(state_width(self.policy), self.policy.num_items)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        reward_T, state = all_gather_rows(self.advantages(batch)), self.policy.encode(batch)
        item_TC = torch.cat([batch.target_T[:, None], self.policy.sample(state, self.samples)], dim=1)
        q_TC = all_gather_rows(self.critic(self.start_hidden(batch), item_TC))
        td = td_loss(q_TC[:, 0], reward_T)
        advantage_T = (q_TC[:, 0] - q_TC[:, 1:].mean(dim=1)).detach()
        weight_T = exponential_weights(advantage_T, self.beta, reward_T)
        actor, metrics = weighted_likelihood(self.policy, state, batch.target_T, weight_T)
        metrics |= {"td": td.detach(), "advantage": rated_mean(advantage_T, reward_T)}
        return actor + td, metrics | {"values": q_TC[:, 0].detach(), "advantages": advantage_T}
