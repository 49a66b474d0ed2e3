"""Variants of A-SFT that `forms.py` compares with it and the package does not have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from recalign.posttrain import PostTrainingData, WeightedSFT
from recalign.posttrain.base import Figures, PostTraining
from recalign.posttrain.keep import KeepRanking
from recalign.posttrain.weighted import tapered_likelihood, weights
from recalign.recommender import Policy, RecommenderData
from recalign.sequences import Batch, Windows


class WithPrior(WeightedSFT):
    """The item prior stays in the loss."""

    def without_item_prior(self) -> AbstractContextManager[None]:
        return nullcontext()


class NoDropout(WeightedSFT):
    """The policy's dropout is off in training."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.use_dropout = False
        self.train()


class KeepPrior(KeepRanking):
    """At each point of the ray, the strength of the item prior that ranks best."""

    def measured(self, trainer: Trainer, module: PostTraining, policy: Policy) -> np.ndarray:
        if policy is module.reference:
            return super().measured(trainer, module, policy)
        found: dict[float, np.ndarray] = {}
        for step in range(-4, 9):
            if (strength := module.reference.prior_strength + step / 8) >= 0:
                policy.prior_strength = strength
                found[strength] = super().measured(trainer, module, policy)
        policy.prior_strength = max(found, key=lambda chosen: float(found[chosen].sum()))
        return found[policy.prior_strength]

    def _search(self, trainer: Trainer, module: PostTraining) -> None:
        super()._search(trainer, module)
        with isolate_rng():
            self.measured(trainer, module, module.policy)  # the strength at the reach that was found


class PriorAgain(WeightedSFT):
    """The item prior's strength is chosen again after training, at the price."""

    def configure_callbacks(self) -> list[Callback]:
        return [] if self.keep is None else [KeepPrior(self.keep)]


class Centred(NoDropout):
    """Weights less their mean, so that cloning is not continued; the policy is compared with its start."""

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        advantage_T = self.advantages(batch)
        weight_T, cut = weights(advantage_T, self.transform, self.temperature, self.clip)
        known_T = ~advantage_T.isnan()
        weight_T = (weight_T - weight_T[known_T].mean()) * known_T
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        start_T = self.reference_log_probs(batch, batch.target_T[:, None])[:, 0]
        loss, figures = tapered_likelihood(logp_T, weight_T, start_T)
        return loss, {**figures, **cut}


By = Literal["users", "newest"]


def fifths(windows: Windows, by: By) -> np.ndarray:
    """Which fifth every target belongs to: of the users, or of its window's targets, the newest first.

    Shape: int64 (targets,), 0 to 4.
    """
    counts = np.diff(windows.offset)
    if by == "users":
        return np.repeat(windows.user, counts) % 5
    newer = np.repeat(windows.offset[1:], counts) - 1 - np.arange(counts.sum())
    return 5 * newer // np.repeat(counts, counts)


class FourFifths(RecommenderData):
    """The start never trains on the first fifth. Its item prior still counts it."""

    def __init__(self, by: By = "users", **log: Any) -> None:
        super().__init__(**log)
        self.by: By = by

    def training(self) -> Windows:
        windows = super().training().in_memory()
        return windows.keep(fifths(windows, self.by) > 0)


class OneFifth(PostTrainingData):
    """Trains on one fifth: on the first, which the start never trained on, or on another one."""

    def __init__(self, by: By = "users", fifth: int = 0, **upstream: Any) -> None:
        super().__init__(**upstream)
        self.by: By = by
        self.fifth = fifth

    def training(self) -> Windows:
        windows = super().training()
        return windows.keep(fifths(windows, self.by) == self.fifth)
