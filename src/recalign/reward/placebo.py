"""A negative control: rewards are permuted over users, so that they hold nothing to learn."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import polars as pl

from recalign.data.sequences import Windows, correlation_within_users, permuted_rewards
from recalign.data.sequences.placebo import CORRELATION
from recalign.data.sequences.splits import TRAIN
from recalign.reward.data import RewardData


class PermutedRewardData(RewardData):
    """`RewardData` whose training rewards are permuted over all users of the group.

    Deviations from the user's mean are permuted (`recalign.data.sequences.permuted_rewards`). Targets and mean rewards
    come from the permuted rewards. Rewards in histories, validation and test stay as logged.
    """

    @functools.cached_property
    def target_events(self) -> pl.DataFrame:
        reward = self.permuted(self.logged_rewards)[self.logged_events["event"].to_numpy()]
        return self.logged_events.with_columns(pl.Series("reward", reward).fill_nan(None))

    def permuted(self, reward_E: np.ndarray) -> np.ndarray:
        """Permute rewards of the group's training events; other rewards stay. Shape: (events,), NaN if absent."""
        rated = self.logged_events.filter((pl.col("split") == TRAIN) & pl.col("reward").is_not_null())
        event, user = rated["event"].to_numpy(), rated["user"].to_numpy()
        out_E = reward_E.copy()
        out_E[event] = permuted_rewards(reward_E[event], user, self.seed)
        return out_E

    @property
    def correlation(self) -> float:
        """Correlation of the permuted and the logged rewards after user means are subtracted."""
        event, user = self.rated_events["event"].to_numpy(), self.rated_events["user"].to_numpy()
        return correlation_within_users(self.logged_rewards[event], self.rated_events["reward"].to_numpy(), user)

    def facts(self) -> dict[str, Any]:
        return {CORRELATION: self.correlation}

    def training(self) -> Windows:
        windows = super().training().in_memory()
        return dataclasses.replace(windows, reward=self.permuted(self.logged_rewards)[windows.event].astype(np.float32))


def as_placebo(data: RewardData) -> PermutedRewardData:
    """The same data with permuted rewards."""
    other = copy.copy(data)
    for cached in ("target_events", "rated_events", "means"):
        vars(other).pop(cached, None)
    other.__class__ = PermutedRewardData
    return other  # type: ignore[return-value]
