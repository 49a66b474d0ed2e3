"""Predict one kind of reward for a state and an item.

    score(s, v) = user_bias(s) + item_bias_v + (W s) . (P e_v)

a bilinear form of the encoder's state s and the item's features e_v, with biases. One matrix product scores the whole
catalogue. M ensemble members share one trunk and P (`item_projection`); each has its own biases and W
(`user_projection`).

Shape suffixes: M members on one trunk, S numbers of the user side of a score, N training rewards; T, C, V, D as
everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.reward.heads import Head


class Scorer(nn.Module):
    """M bilinear scorers of (state, item) pairs.

    Args:
        dim: D, width of the states and of the items' features.
        num_items: V.
        members: M.
        head: turns a score into an expected reward.
    """

    def __init__(self, dim: int, num_items: int, members: int, head: Head) -> None:
        super().__init__()
        self.dim, self.num_items, self.members, self.head = dim, num_items, members, head
        self.item_bias = nn.Parameter(torch.zeros(num_items + 1, members, 1))  # a trailing 1: no weight decay
        self.user_bias = nn.Linear(dim, members, bias=False)
        self.user_projection = nn.Linear(dim, members * dim, bias=False)
        self.item_projection = nn.Linear(dim, dim, bias=False)
        if head.wide:
            self.user_width = nn.Linear(dim, members, bias=False)
            self.item_width = nn.Parameter(torch.zeros(num_items + 1, members, 1))
        for layer in (self.user_bias, self.user_projection, *([self.user_width] if head.wide else [])):
            nn.init.zeros_(layer.weight)  # training starts from the averages
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def calibrate(self, reward_N: np.ndarray, item_mean_V: np.ndarray) -> None:
        """Initialise from averages of the training rewards.

        Args:
            reward_N: the training rewards.
            item_mean_V: each item's shrunk mean reward.

        Raises:
            InputError: the head cannot model these rewards.
        """
        mean, scale = float(reward_N.mean()), float(reward_N.std(ddof=1))
        self.head.calibrate(reward_N, mean, scale)
        with torch.no_grad():
            self.mean.fill_(mean)
            self.scale.fill_(scale)
            self.item_bias[1:] = torch.from_numpy((item_mean_V - mean) / scale).float()[:, None, None]

    def project(self, h_TD: Tensor) -> Tensor:
        """User side of a score: W s, the user bias and, for a wide head, a log-width. Shape: (M, T, S)."""
        parts = [self.user_projection(h_TD).unflatten(1, (self.members, self.dim)), self.user_bias(h_TD)[..., None]]
        if self.head.wide:
            parts.append(self.user_width(h_TD)[..., None])
        return torch.cat(parts, dim=2).transpose(0, 1)

    def scores(self, user_MTS: Tensor, table_VD: Tensor, item: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Scores and, for a wide head, log-widths.

        Shape: item int64 (T,) or (T, C) of 1..V -> (M, T) or (M, T, C); None -> (M, T, V) over the catalogue.
        """
        score = self._match(user_MTS[..., : self.dim], table_VD, item)
        score = score + _expand(user_MTS[..., self.dim], score) + _of_item(self.item_bias, item)
        if not self.head.wide:
            return score, None
        return score, _expand(user_MTS[..., self.dim + 1], score) + _of_item(self.item_width, item)

    def predictions(
        self, user_MTS: Tensor, table_VD: Tensor, item: Tensor | None, influence: Tensor | float = 0.0
    ) -> Tensor:
        """Expected rewards in the unit of the log. ``influence`` is subtracted from the scores. Shape: as `scores`."""
        score, width = self.scores(user_MTS, table_VD, item)
        return self.mean + self.scale * self.head.expected(score - influence, width)

    def losses(
        self, user_MTS: Tensor, table_VD: Tensor, item_T: Tensor, reward_T: Tensor, influence: Tensor | float = 0.0
    ) -> Tensor:
        """Loss of each member and target, 0 where there is no reward. Shape: (M, T).

        ``influence`` is subtracted from the scores.
        """
        z_T = (reward_T - self.mean) / self.scale
        score_MT, width_MT = self.scores(user_MTS, table_VD, item_T)
        return self.head.loss(score_MT - influence, width_MT, z_T.nan_to_num()).masked_fill(z_T.isnan(), 0.0)

    def _match(self, query_MTD: Tensor, table_VD: Tensor, item: Tensor | None) -> Tensor:
        if item is None:
            return query_MTD @ self.item_projection(table_VD).T
        if item.numel() < len(table_VD):  # project the smaller set
            key = self.item_projection(F.embedding(item - 1, table_VD))
        else:
            key = F.embedding(item - 1, self.item_projection(table_VD))
        if item.ndim == 1:
            return (query_MTD * key).sum(dim=-1)
        return (key @ query_MTD.permute(1, 2, 0)).permute(2, 0, 1)


def _of_item(column: Tensor, item: Tensor | None) -> Tensor:
    """Look up a per-item parameter, members first. Shape: (M, 1, V), (M, T) or (M, T, C)."""
    if item is None:
        return column[1:, :, 0].T[:, None]
    return F.embedding(item, column[..., 0], padding_idx=0).movedim(-1, 0)


def _expand(value_MT: Tensor, score: Tensor) -> Tensor:
    return value_MT.view(*value_MT.shape, *[1] * (score.ndim - 2))
