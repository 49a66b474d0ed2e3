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
    def frame(self) -> pl.DataFrame:
        reward = self.permuted(self.observed)[self.logged["event"].to_numpy()]
        return self.logged.with_columns(pl.Series("reward", reward).fill_nan(None))

    def permuted(self, reward_E: np.ndarray) -> np.ndarray:
        """Permute rewards of the group's training events; other rewards stay. Shape: (events,), NaN if absent."""
        rated = self.logged.filter((pl.col("split") == TRAIN) & pl.col("reward").is_not_null())
        event, user = rated["event"].to_numpy(), rated["user"].to_numpy()
        out_E = reward_E.copy()
        out_E[event] = permuted_rewards(reward_E[event], user, self.seed)
        return out_E

    @property
    def correlation(self) -> float:
        """Correlation of the permuted and the logged rewards after user means are subtracted."""
        event, user = self.rated["event"].to_numpy(), self.rated["user"].to_numpy()
        return correlation_within_users(self.observed[event], self.rated["reward"].to_numpy(), user)

    def facts(self) -> dict[str, Any]:
        return {CORRELATION: self.correlation}

    def training(self) -> Windows:
        windows = super().training().in_memory()
        return dataclasses.replace(windows, reward=self.permuted(self.observed)[windows.event].astype(np.float32))


def as_placebo(data: RewardData) -> PermutedRewardData:
    """The same data with permuted rewards."""
    other = copy.copy(data)
    for made_of_rewards in ("frame", "rated", "means"):
        vars(other).pop(made_of_rewards, None)
    other.__class__ = PermutedRewardData
    return other  # type: ignore[return-value]
