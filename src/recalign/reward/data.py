"""Data of reward models and judges: one group of users' events with rewards."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl

from recalign.data.sequences import AnyWindows, EventDataModule, reward_means
from recalign.data.sequences.means import SHRINKAGE
from recalign.data.sequences.splits import TRAIN
from recalign.data.sequences.store import Group, SplitName
from recalign.errors import InputError

RATED = (pl.col("split") == TRAIN) & pl.col("reward").is_not_null()


class RewardMoments(NamedTuple):
    """Mean and standard deviation of training rewards; item means, shrunk to the global mean: f32 (V,)."""

    mean: float
    sd: float
    item_mean_V: np.ndarray


class RewardData(EventDataModule):
    """One group of users' training events with rewards, including skipped rows (shown, not chosen) if the log has any.

    Args:
        users: the group to train on: A for reward models, B1 or B2 for judges.
        **data: arguments of `recalign.data.sequences.EventDataModule`.

    Raises (before training):
        InputError: no event of the training split has a reward, or all rewards are equal.
    """

    reads_skipped: ClassVar[bool] = True
    """Whether skipped rows (shown but not chosen) are events too."""

    def __init__(self, users: Group = "A", **data: Any) -> None:
        super().__init__(users=users, **data)

    @property
    def all_events(self) -> pl.DataFrame:
        """The rows that count as events, of all users, in the order of their ``event`` numbers."""
        return self.sequences.impressions if self.reads_skipped else self.sequences.frame

    @functools.cached_property
    def logged_rewards(self) -> np.ndarray:
        """The logged reward of every event, NaN if absent. Shape: float64 (events,)."""
        return self.all_events["reward"].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    @functools.cached_property
    def logged_events(self) -> pl.DataFrame:
        """The group's events as logged, in order."""
        return self._of_group(self.all_events)

    def _of_group(self, events: pl.DataFrame) -> pl.DataFrame:
        group = events.filter(pl.Series(self.sequences.users_in(self.users)).gather(events["user"]))
        return (
            group if events is self.sequences.frame else group.sort("user", "split", "timestamp", maintain_order=True)
        )

    @functools.cached_property
    def target_events(self) -> pl.DataFrame:
        """The group's events with the rewards to learn: the logged ones, unless a subclass changes them."""
        return self.logged_events

    @functools.cached_property
    def rated_events(self) -> pl.DataFrame:
        """The group's training events that have a reward; an InputError as in `require_rewards`."""
        self.require_rewards()
        return self.target_events.filter(RATED)

    def require_rewards(self) -> None:
        """Refuse, with an InputError, a group without users, or whose training rewards are missing or all equal."""
        rated = self.target_events.filter(RATED)
        if self.target_events.is_empty():
            remedy = "raise or lower data.share_a, the share of users in group A (B1 and B2 get half of the rest each)"
            remedy += ", or give a log of more users"
            raise InputError(f"there are no users {self.users} in this log", where="data.share_a", remedy=remedy)
        if rated["reward"].n_unique() < 2:
            what = f"all rewards are {rated['reward'][0]}" if len(rated) else "no event has a reward"
            remedy = "give a reward expression that differs between events, or check data.split and data.users"
            if not self.reads_skipped and self.sequences.skipped is not None:
                what = f"weights would not differ: {what} among the chosen events"
                remedy = "give a reward that differs between choices (the share watched), or learn from rows shown but "
                remedy += "not chosen: wbc, or dpo"
            raise InputError(f"{what} in the training split of users {self.users}", where="data.reward", remedy=remedy)

    @functools.cached_property
    def means(self) -> pl.DataFrame:
        """The group's events, their reward, and the mean rewards of `recalign.data.sequences.reward_means`."""
        events = self.target_events
        return pl.concat([events.select("event", "reward"), reward_means(events)], how="horizontal")

    def expected_rewards(self, event: np.ndarray) -> pl.DataFrame:
        """Look up the rows of `means` for events, in the given order."""
        wanted = pl.DataFrame({"event": event}, schema={"event": pl.UInt32})
        return wanted.join(self.means, on="event", how="left", maintain_order="left")

    def is_rated(self, split: SplitName) -> bool:
        """Whether any event of a split has a reward and an item of the catalogue."""
        windows = self.windows(split)
        return not np.isnan(windows.reward[windows.target > 0]).all()

    def require_rated(self, split: SplitName) -> None:
        """Check that a reward model can be measured on a split.

        Raises:
            InputError: no event of the split has a reward and an item of the catalogue.
        """
        if not self.is_rated(split):
            text = f"no event of the {split} split of users {self.users} has a reward and an item of the catalogue"
            remedy = "choose another split, or a reward expression that is known for more events"
            raise InputError(text, where="data.split", remedy=remedy)

    def reward_moments(self) -> RewardMoments:
        """Moments of the training rewards. Skipped rows always count, even in subclasses that do not train on them."""
        trains_without_skipped = self.sequences.skipped is not None and not self.reads_skipped
        rated = (
            self._of_group(self.sequences.impressions).filter(RATED) if trains_without_skipped else self.rated_events
        )
        reward_N, item_N = rated["reward"].to_numpy(), rated["item_id"].to_numpy() - 1
        total_V = np.bincount(item_N, reward_N, self.num_items) + SHRINKAGE * reward_N.mean()
        means_V = (total_V / (np.bincount(item_N, minlength=self.num_items) + SHRINKAGE)).astype(np.float32)
        return RewardMoments(float(reward_N.mean()), float(reward_N.std(ddof=1)), means_V)

    def training(self) -> AnyWindows:
        self.require_rewards()
        return super().training()
