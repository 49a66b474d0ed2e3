"""An output head for rewards with few levels. Shape suffixes as in `recalign.reward.heads`; J: thresholds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.reward.heads import Head

MAX_LEVELS = 20  # with more, an ordinal head is only a slow regression


class OrdinalHead(Head):
    """Cumulative logits over the levels of a reward (McCullagh 1980), for star ratings and other grades:

        P(z > z_j) = sigmoid(a score - t_j),        E[z] = z_0 + sum_j (z_{j+1} - z_j) P(z > z_j),

    trained by the mean cross-entropy of the J binary questions "above level j?". The questions share one score, so the
    thresholds end up ordered (CORAL; Cao, Mirjalili & Raschka 2020). Slope a and thresholds t are initialised so that
    P at score 0 is the share of training rewards above each level, and E[z] equals the score to first order.

    Args:
        levels: the possible rewards; None: those of the training split.
    """

    def __init__(self, levels: list[float] | None = None) -> None:
        super().__init__()
        self.given = levels is not None
        self._resize(sorted(levels) if levels else [0.0, 1.0])

    def _resize(self, levels: list[float]) -> None:
        self.level_J1: Tensor
        self.register_buffer("level_J1", torch.tensor(levels, dtype=torch.float32))
        self.threshold_J = nn.Parameter(torch.zeros(len(levels) - 1))
        self.log_slope = nn.Parameter(torch.zeros(()))

    def calibrate(self, reward_N: np.ndarray, mean: float, scale: float) -> None:
        found = np.unique(reward_N)
        levels = sorted(self.init_args["levels"]) if self.given else found.tolist()
        outside = found[~np.isin(found.astype(np.float32), np.array(levels, np.float32))]  # columns may be float32
        if len(outside):
            text = f"the training rewards contain {outside[0]:g}, which is not among the head's levels {levels}"
            remedy = "name every level that the reward can have, or leave it null to take those of the training split"
            raise InputError(text, where="model.head.levels", remedy=remedy)
        if len(levels) > MAX_LEVELS:
            raise InputError(
                f"the reward has {len(levels)} levels, from {levels[0]:g} to {levels[-1]:g}, and an ordinal head takes "
                f"at most {MAX_LEVELS}",
                where="model.head",
                remedy="use recalign.reward.MeanHead, or round the reward in data.reward",
            )
        self.init_args["levels"] = levels  # checkpoints rebuild the head from it
        self._resize([(level - mean) / scale for level in levels])
        middle_J = np.add(levels[:-1], levels[1:]) / 2  # as in the loss
        above_J = torch.tensor([(reward_N > level).mean() for level in middle_J], dtype=torch.float32)
        above_J = above_J.clamp(0.5 / len(reward_N), 1 - 0.5 / len(reward_N))
        with torch.no_grad():
            self.log_slope.copy_(-(self.level_J1.diff() * above_J * (1 - above_J)).sum().log())
            self.threshold_J.copy_(-above_J.logit())

    def expected(self, score: Tensor) -> Tensor:
        total = self.level_J1[0].expand_as(score)
        for gap, threshold in zip(self.level_J1.diff(), self.threshold_J, strict=True):
            total = total + gap * (self.log_slope.exp() * score - threshold).sigmoid()
        return total

    def loss(self, score_MT: Tensor, z_T: Tensor) -> Tensor:
        logit_MTJ = self.log_slope.exp() * score_MT[..., None] - self.threshold_J
        middle_J = self.level_J1[:-1] + self.level_J1.diff() / 2  # midpoints, so that rounding does not matter
        above_MTJ = (z_T[:, None] > middle_J).float().expand_as(logit_MTJ)
        return nn.functional.binary_cross_entropy_with_logits(logit_MTJ, above_MTJ, reduction="none").mean(dim=-1)
