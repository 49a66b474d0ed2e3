"""Resample users for each member of an ensemble (bagging) by hashing, without storing weights.

Shape suffixes: K members, M members on one trunk, B users of a batch, T targets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MASK = 2**32 - 1


def bagging_weights(user_B: Tensor, members: int, seed: int) -> Tensor:
    """Bootstrap weight of each user for each member: Poisson(1), determined by (seed, user, member) alone.

    With one member all weights are 1. Shape: int64 (B,) -> float32 (K, B).
    """
    if members == 1:
        return torch.ones(1, len(user_B), device=user_B.device)
    member_K1 = torch.arange(1, members + 1, device=user_B.device)[:, None]
    mixed = (user_B * 0x9E3779B1 + member_K1 * 0x85EBCA77 + (seed * 0xC2B2AE3D & MASK)) & MASK
    for _ in range(3):  # integer hash: without it, members would be shifted copies and correlated
        mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & MASK
    uniform = (mixed ^ (mixed >> 16)).double() / 2**32
    steps = torch.tensor(np.cumsum([np.exp(-1) / np.prod(range(1, n + 1)) for n in range(6)]), device=user_B.device)
    return torch.bucketize(uniform, steps).float()


def bagged_mean(loss_MT: Tensor, weight_MT: Tensor, reward_T: Tensor) -> Tensor:
    """Mean over members of the weighted mean loss. Targets without a reward do not count."""
    weight_MT = weight_MT * ~reward_T.isnan()
    return ((weight_MT * loss_MT).sum(dim=1) / weight_MT.sum(dim=1).clamp(min=1)).mean()
