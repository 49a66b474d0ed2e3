"""A reward model that is right: it knows the two halves of `small_log`'s catalogue and who likes which."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.nn import Rebuildable


class Taste(Rebuildable, nn.Module):
    """5 for an item of the half that a history is mostly of, 2 for another.

    Args:
        halves: 0 or 1 of each item 1..V.
    """

    def __init__(self, halves: list[int]) -> None:
        super().__init__()
        self.half_V: Tensor
        self.register_buffer("half_V", torch.tensor(halves, dtype=torch.float32))

    def states(self, batch: Batch) -> Tensor:
        """Share of each history that is of half 1. Shape: (1, T, 1)."""
        half_BL = torch.cat([self.half_V.new_full((1,), 0.5), self.half_V])[batch.item_BL]
        share_BL = half_BL.cumsum(dim=1) / torch.arange(1, half_BL.shape[1] + 1)
        return share_BL[batch.row_T, batch.column_T][None, :, None]

    def predict(self, states: Tensor, item: Tensor) -> Tensor:
        """Shape: (1, T, 1), int64 (T, C) -> (T, C)."""
        return 2 + 3 * ((states[0] > 0.5) == (self.half_V[item - 1] == 1)).float()
