"""Weights averaged over the last part of a run, however long the run is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class PolynomialAveraging(WeightAveraging):
    """Validates, and hands over, an average of the weights instead of the last ones.

    After step t the average is a_t = (1 - c_t) a_{t-1} + c_t w_t with c_t = (power + 1) / (t + power), so that the
    weights after step s count about as s^power: on average they are t / (power + 2) steps old. Shamir and Zhang
    (https://arxiv.org/abs/1212.1824), who call it polynomial-decay averaging.

    It does what a learning rate that falls towards the end of training does, without having to know where the end is.
    Unlike an exponential average it reaches back over the same share of a short run and of a long one, and soon holds
    nothing of the first weights. Training is left as it is: no step starts from the average.

    Args:
        power: the larger, the shorter; 0 averages over all steps alike.

    Raises:
        ValueError: power is negative.
    """

    def __init__(self, power: float = 8.0) -> None:
        if power < 0:
            raise ValueError(f"power must not be negative, not {power}")
        self.power = power
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor) -> None:
        """Moves the average over so many steps towards the weights after the next."""
        share = (self.power + 1) / (steps + 1 + self.power)  # stays on its device: nothing waits for it
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, share.to(average.dtype))
