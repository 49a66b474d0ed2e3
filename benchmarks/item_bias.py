"""A policy with a learned bias an item, without weight decay: can training find the prior by itself (`prior.py`)?"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.recommender import Recommender, SequencePolicy


class BiasPolicy(SequencePolicy):
    """log pi(v | h) = log softmax_v(cos(h, e_v) / temperature + b_v), beside the prior."""

    def __init__(self, encoder: Any, num_items: int, temperature: float = 0.05, feedback: bool = False) -> None:
        super().__init__(encoder, num_items, temperature, feedback)
        self.bias = nn.Parameter(torch.zeros(num_items, 1))  # one column: `adamw` does not let it decay

    def _vectors(self, state: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        query_TX, item_NX = super()._vectors(state, items)
        bias_N1 = self.bias if items is None else self.bias[items - 1]
        return F.pad(query_TX, (0, 1), value=1.0), torch.cat([item_NX, self.temperature * bias_N1], dim=1)

    def _bound(self) -> float:
        return math.inf


class BiasRecommender(Recommender):
    """Behaviour cloning of a `BiasPolicy`."""

    def __init__(self, num_items: int, **settings: Any) -> None:
        super().__init__(num_items, **settings)
        own = self.policy
        self.policy = BiasPolicy(own.encoder, num_items, own.temperature, own.past_rewards is not None)
