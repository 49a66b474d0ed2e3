"""Heads on a policy's states: the value of a state, and of an item in it.

Shape suffixes: T states, D width of a state's `hidden`, V items, C items of a state, H rank of the interaction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.recommender.policy import Policy


def state_width(policy: Policy) -> int:
    """D: the width of a policy's `hidden`, found by encoding a history of one event."""
    zero, one, nothing = torch.zeros(1).long(), torch.ones(1).long(), torch.full((1,), torch.nan)
    history = (zero, one[:, None], one, zero[:, None], zero[:, None], nothing[:, None])
    batch = Batch(*history, zero, zero, one, nothing, zero.bool(), zero)
    with torch.no_grad():
        return policy.hidden(policy.encode(batch)).shape[1]


def at_own_rate(optimizer: torch.optim.Optimizer, head: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Add a head to an optimiser, with a learning rate of its own and no weight decay."""
    optimizer.add_param_group({"params": head.parameters(), "lr": lr, "weight_decay": 0.0})
    return optimizer


class StateValue(nn.Module):
    """V(s), linear in the state's summary; 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, 1)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, state_TD: Tensor) -> Tensor:
        """Shape: (T, D) -> (T,)."""
        return self.read(state_TD)[:, 0]


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
