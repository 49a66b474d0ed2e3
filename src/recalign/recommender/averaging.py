"""Weights averaged over the last part of a run, however long the run is."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer

from recalign.recommender.swapped_weights import SwappedWeights

STEADY = 2**22
"""Weights that are averaged after every step; of n times as many, the average takes every n-th step."""


class PolynomialAveraging(SwappedWeights):
    """Validates, and hands over, an average of the weights instead of the last ones.

    After step t the average is a_t = (1 - c_t) a_{t-1} + c_t w_t with c_t = (power + 1) / (t + power), so that the
    weights after step s count about as s^power: on average they are t / (power + 2) steps old. Shamir and Zhang
    (https://arxiv.org/abs/1212.1824), who call it polynomial-decay averaging.

    It does what a learning rate that falls towards the end of training does, without having to know where the end is.
    Unlike an exponential average it reaches back over the same share of a short run and of a long one, and soon holds
    nothing of the first weights.

    Cost: once more the memory of the weights, on their device, and a pass over them a step, which waits for nothing.
    Of more than `STEADY` weights the average takes fewer steps, each for all since the one before, so that a table of
    a million items does not pay for it what it pays for its optimiser (`docs/scale.md`). Steps are never further apart
    than 1 + t / 32, so that a short run is averaged all the same.

    Args:
        power: the larger, the shorter; 0 averages over all steps alike.

    Raises:
        ValueError: power is negative.
    """

    def __init__(self, power: float = 8.0) -> None:
        if power < 0:
            raise ValueError(f"power must not be negative, not {power}")
        super().__init__()
        self.power = power
        self._step = 0  # when they were last moved

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not before: only now are the weights on their device, and buffers as large as the data makes them."""
        continued = self._others or pl_module.parameters()
        weights = list(pl_module.parameters())
        self._others = [a.detach().to(w.device, copy=True) for a, w in zip(continued, weights, strict=True)]
        self._every = math.ceil(sum(w.numel() for w in weights) / STEADY)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step  # stays the same while gradients are added up
        if step > self._step and step % min(self._every, 1 + step // 32) == 0:
            with torch.no_grad():
                torch._foreach_lerp_(self._others, list(pl_module.parameters()), self._share(step))
            self._step = step

    def _share(self, step: int) -> float:
        """What the weights after this step count for, which stand for every step since the average was last moved."""
        share = 0.0
        for s in range(self._step + 1, step + 1):
            share += (self.power + 1) / (s + self.power) * (1 - share)
        return share

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["latest_update_step"]
