"""Small networks on the states of a policy: what a state is worth, and an item in it.

Shape suffixes: T states, D numbers of a state, V items, H numbers that tell items apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recalign.recommender.policy import Policy
from recalign.sequences import Batch


def state_width(policy: Policy) -> int:
    """D: how many numbers a state of a policy holds. It is asked for the state after a history of one event."""
    zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    nothing = torch.full((1,), torch.nan)
    batch = Batch(
        user_B=zero,
        item_BL=one[:, None],
        length_B=one,
        time_BL=zero[:, None],
        request_time_BL=zero[:, None],
        reward_BL=nothing[:, None],
        row_T=zero,
        column_T=zero,
        target_T=one,
        reward_T=nothing,
        high_T=zero.bool(),
        event_T=zero,
    )
    with torch.no_grad():
        return policy.encode(batch).numel()


class StateValue(nn.Module):
    """V(s), a linear reading of the state; 0 at first.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, 1)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, state: Tensor) -> Tensor:
        """Shape: (T, ...) -> (T,)."""
        return self.read(state.flatten(1))[:, 0]


class ItemValue(nn.Module):
    """Q(s, a) = g(s) + b_a + q(s) . c_a: what is expected of anything here, of the item, of both together; 0 at first.

    Args:
        width: D.
        num_items: V.
        rank: H.
    """

    def __init__(self, width: int, num_items: int, rank: int = 32) -> None:
        super().__init__()
        self.general = StateValue(width)
        self.quality = nn.Embedding(num_items + 1, 1)
        self.taste, self.trait = nn.Linear(width, rank, bias=False), nn.Embedding(num_items + 1, rank)
        nn.init.zeros_(self.quality.weight)
        nn.init.zeros_(self.taste.weight)
        nn.init.normal_(self.trait.weight, std=rank**-0.5)

    def forward(self, state: Tensor, item: Tensor) -> Tensor:
        """Shape: (T, ...), int64 (T, C) -> (T, C)."""
        taste_T1H = self.taste(state.flatten(1))[:, None]
        fit_TC = (taste_T1H * self.trait(item)).sum(dim=-1)
        return self.general(state)[:, None] + self.quality(item)[..., 0] + fit_TC


class Critic(nn.Module):
    """Q(s, a) and V(s).

    Args:
        width: D.
        num_items: V.
    """

    def __init__(self, width: int, num_items: int) -> None:
        super().__init__()
        self.q, self.v = ItemValue(width, num_items), StateValue(width)
