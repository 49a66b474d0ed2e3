"""Output heads: each turns a score into an expected reward and defines the loss.

Heads work on standardised rewards, z = (r - mean) / scale. The input is the score of a (state, item) pair. Before
training, scores come from the initial matrix factorisation. A head for grades is in `recalign.reward.ordinal`.

Shape suffixes: N training rewards, M members that share a trunk, T targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor, nn

from recalign.nn import Rebuildable


class Head(Rebuildable, nn.Module, ABC):
    """Base class: turns scores into expected rewards."""

    def __init__(self) -> None:  # otherwise a recipe would record the *args of nn.Module
        super().__init__()

    def calibrate(self, reward_N: np.ndarray, mean: float, scale: float) -> None:
        """Initialise from the training rewards, in the unit of the log.

        Raises:
            InputError: the head cannot model these rewards.
        """

    @abstractmethod
    def expected(self, score: Tensor) -> Tensor:
        """E[z], the expected standardised reward, elementwise."""

    @abstractmethod
    def loss(self, score_MT: Tensor, z_T: Tensor) -> Tensor:
        """Loss of each prediction. Shape: (M, T)."""


class MeanHead(Head):
    """Squared error. The score is the expected reward."""

    def expected(self, score: Tensor) -> Tensor:
        return score

    def loss(self, score_MT: Tensor, z_T: Tensor) -> Tensor:
        return (score_MT - z_T).square()
