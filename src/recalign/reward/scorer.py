"""Scorer of states and items: what a reward network learns of one kind of reward.

A shallow head on a sequence encoder: an item's quality, how it matches a state's taste, and the state's generosity.

Shape suffixes: M members on one trunk, S what a state holds, N training rewards; T, C, V, D as everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.reward.heads import Head


class Scorer(nn.Module):
    """M readings of states and items: expected values of one kind of reward.

    Args:
        dim: D, width of the states and of the items' embeddings.
        num_items: V.
        members: M.
        head: what the score means.
    """

    def __init__(self, dim: int, num_items: int, members: int, head: Head) -> None:
        super().__init__()
        self.dim, self.num_items, self.members, self.head = dim, num_items, members, head
        self.quality = nn.Parameter(torch.zeros(num_items + 1, members, 1))  # one column: does not decay
        self.generosity = nn.Linear(dim, members, bias=False)
        self.taste, self.trait = nn.Linear(dim, members * dim, bias=False), nn.Linear(dim, dim, bias=False)
        if head.wide:
            self.width = nn.Linear(dim, members, bias=False)
            self.item_width = nn.Parameter(torch.zeros(num_items + 1, members, 1))
        for layer in (self.generosity, self.taste, *([self.width] if head.wide else [])):
            nn.init.zeros_(layer.weight)  # a new head says nothing, so training starts from the means
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def calibrate(self, reward_N: np.ndarray, item_mean_V: np.ndarray) -> None:
        """Start from averages of the training rewards.

        Args:
            reward_N: the training rewards.
            item_mean_V: each item's shrunk mean reward.

        Raises:
            InputError: the head cannot stand for these rewards.
        """
        mean, scale = float(reward_N.mean()), float(reward_N.std(ddof=1))
        self.head.start(reward_N, mean, scale)
        with torch.no_grad():
            self.mean.fill_(mean)
            self.scale.fill_(scale)
            self.quality[1:] = torch.from_numpy((item_mean_V - mean) / scale).float()[:, None, None]

    def read(self, h_TD: Tensor) -> Tensor:
        """What a state says, without an item: taste, generosity and, for a wide head, a width. Shape: (M, T, S)."""
        parts = [self.taste(h_TD).unflatten(1, (self.members, self.dim)), self.generosity(h_TD)[..., None]]
        if self.head.wide:
            parts.append(self.width(h_TD)[..., None])
        return torch.cat(parts, dim=2).transpose(0, 1)

    def scores(self, state_MTS: Tensor, table_VD: Tensor, item: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Score and, for a wide head, log-width of items.

        Shape: item int64 (T,) or (T, C) of 1..V -> (M, T) or (M, T, C); None -> (M, T, V) over the catalogue.
        """
        level_MT = state_MTS[..., self.dim]
        score = self._match(state_MTS[..., : self.dim], table_VD, item)
        score = score + _beside(level_MT, score) + self._of_item(self.quality, item)
        if not self.head.wide:
            return score, None
        return score, _beside(state_MTS[..., self.dim + 1], score) + self._of_item(self.item_width, item)

    def predictions(
        self, state_MTS: Tensor, table_VD: Tensor, item: Tensor | None, less: Tensor | float = 0.0
    ) -> Tensor:
        """Expected rewards in the log's own unit, under the score less something. Shape: as `scores`."""
        score, width = self.scores(state_MTS, table_VD, item)
        return self.mean + self.scale * self.head.expected(score - less, width)

    def losses(
        self, state_MTS: Tensor, table_VD: Tensor, item_T: Tensor, reward_T: Tensor, less_MT: Tensor | float = 0.0
    ) -> Tensor:
        """The head's loss of each member and target, under its score less something; 0 where there is no reward.

        Shape: (M, T).
        """
        z_T = (reward_T - self.mean) / self.scale
        score_MT, width_MT = self.scores(state_MTS, table_VD, item_T)
        return self.head.loss(score_MT - less_MT, width_MT, z_T.nan_to_num()).masked_fill(z_T.isnan(), 0.0)

    def _match(self, taste_MTD: Tensor, table_VD: Tensor, item: Tensor | None) -> Tensor:
        if item is None:
            return taste_MTD @ self.trait(table_VD).T
        if item.numel() < len(table_VD):  # whichever is fewer products
            trait = self.trait(F.embedding(item - 1, table_VD))
        else:
            trait = F.embedding(item - 1, self.trait(table_VD))
        if item.ndim == 1:
            return (taste_MTD * trait).sum(dim=-1)
        return (trait @ taste_MTD.permute(1, 2, 0)).permute(2, 0, 1)

    def _of_item(self, column: Tensor, item: Tensor | None) -> Tensor:
        """A figure of each item, before the members: (M, 1, V), (M, T) or (M, T, C)."""
        if item is None:
            return column[1:, :, 0].T[:, None]
        return F.embedding(item, column[..., 0], padding_idx=0).movedim(-1, 0)


def _beside(value_MT: Tensor, score: Tensor) -> Tensor:
    return value_MT.view(*value_MT.shape, *[1] * (score.ndim - 2))
