"""Negative controls of weighted post-training, which must show no gain: permuted rewards, shuffled advantages."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from recalign.data.sequences import Windows, correlation_within_users
from recalign.data.sequences.placebo import CORRELATION
from recalign.posttrain.data import PostTrainingData
from recalign.reward.placebo import PermutedRewardData


class PermutedPostTrainingData(PermutedRewardData, PostTrainingData):
    """`PostTrainingData` whose rewards r are permuted over all users, each about its user's mean.

    Logged rewards are permuted in the same way before means are computed. With means of the true rewards, the advantage
    would fall with an item's quality.
    """

    def rewards(self, windows: Windows) -> np.ndarray:
        return self.permuted(super().rewards(windows))

    @functools.cached_property
    def correlation(self) -> float:
        """Correlation of the permuted and the true rewards r after user means are subtracted."""
        windows = self.training_windows()
        logged, user = PostTrainingData.rewards(self, windows), self.sequences.frame["user"].to_numpy()
        event = windows.event
        return correlation_within_users(logged[event], self.permuted(logged)[event], user[event])


class ShuffledPostTrainingData(PostTrainingData):
    """`PostTrainingData` whose advantages are shuffled over all events, keeping weights and effective sample size."""

    def unscaled_advantages(self, windows: Windows) -> np.ndarray:
        advantage_T = super().unscaled_advantages(windows)
        known_T, shuffled_T = ~np.isnan(advantage_T), advantage_T.copy()
        shuffled_T[known_T] = np.random.default_rng(self.seed).permutation(advantage_T[known_T])
        user = self.sequences.frame["user"].to_numpy()[windows.event]
        self._correlation = correlation_within_users(advantage_T, shuffled_T, user)
        return shuffled_T

    @property
    def correlation(self) -> float:
        """Correlation of the shuffled and the true advantages after user means are subtracted."""
        self.advantages  # noqa: B018 (computes it)
        return self._correlation

    def facts(self) -> dict[str, Any]:
        return {CORRELATION: self.correlation}
