"""How the rewards of earlier events enter a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Feedback(nn.Module):
    """Adds to each event of a history what its reward was.

    The reward of event i stands at event i, from which event i + 1 is predicted: earlier feedback is seen, an event's
    own never.

    Args:
        dim: D, of the embeddings it is added to.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2, dim, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, reward_BL: Tensor) -> Tensor:
        """Shape: (B, L), NaN where there is no reward -> (B, L, D)."""
        known_BL = ~reward_BL.isnan()
        return self.project(torch.stack([reward_BL.nan_to_num(), known_BL.to(reward_BL.dtype)], dim=-1))
