"""Embeds the rewards of earlier events."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Feedback(nn.Module):
    """A linear embedding of each event's standardised reward, to be added to the event's embedding.

    The state at event i, which predicts event i + 1, sees rewards up to event i: an event's own reward is never seen.

    Args:
        dim: D, width of the embeddings.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2, dim, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, mean: float, scale: float) -> None:
        """Set the mean and the standard deviation of the rewards."""
        self.mean.fill_(mean)
        self.scale.fill_(scale)

    def forward(self, reward_BL: Tensor) -> Tensor:
        """Shape: (B, L), NaN where there is no reward -> (B, L, D)."""
        known_BL = ~reward_BL.isnan()
        z_BL = (reward_BL - self.mean) / self.scale
        return self.project(torch.stack([z_BL.nan_to_num(), known_BL.to(reward_BL.dtype)], dim=-1))
