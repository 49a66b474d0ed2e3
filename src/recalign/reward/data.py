"""Events with a reward, of the users whose rewards may be trained on."""

from __future__ import annotations

import functools

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.sequences import EventDataModule, Windows, reward_means
from recalign.sequences.splits import TRAIN
from recalign.sequences.store import Part


class RewardData(EventDataModule):
    """The training events of one group of users, with their rewards.

    Raises (before training):
        InputError: no event of the training part has a reward, or all have the same.
    """

    @functools.cached_property
    def frame(self) -> pl.DataFrame:
        """The group's events."""
        sequences = self.sequences
        chosen = pl.Series(sequences.users_in(self.users)).gather(sequences.frame["user"])
        return sequences.frame.filter(chosen)

    @functools.cached_property
    def rated(self) -> pl.DataFrame:
        """The group's training events that have a reward."""
        rated = self.frame.filter((pl.col("split") == TRAIN) & pl.col("reward").is_not_null())
        if rated["reward"].n_unique() < 2:
            found = f"all rewards are {rated['reward'][0]}" if len(rated) else "no event has a reward"
            raise InputError(
                f"{found} in the training part of users {self.users}",
                where="data.reward",
                remedy="give a reward expression that differs between events, or check data.split and data.users",
            )
        return rated

    @functools.cached_property
    def means(self) -> pl.DataFrame:
        """Expected rewards of the group's events from averages alone (`recalign.sequences.reward_means`), by event."""
        return pl.concat([self.frame.select("event", "reward"), reward_means(self.frame)], how="horizontal")

    def require_rated(self, part: Part) -> None:
        """Make sure that a reward model can be measured on a part.

        Raises:
            InputError: no event of the part has a reward and an item known from training.
        """
        windows = self.windows(part)
        if np.isnan(windows.reward[windows.target > 0]).all():
            raise InputError(
                f"no event of the {part} part of users {self.users} has a reward to measure the model on",
                where="data.split",
                remedy="choose another split, or a reward expression that is known for more events",
            )

    def moments(self) -> tuple[float, float, np.ndarray]:
        """Mean and standard deviation of the training rewards, and each item's shrunk mean. Shape of that: (V,)."""
        rated = self.rated
        mean, scale = float(rated["reward"].mean()), float(rated["reward"].std())  # type: ignore[arg-type]
        item_mean = np.full(self.num_items, mean, np.float32)
        by_item = rated.group_by("item_id").agg(((pl.col("reward").sum() + 5 * mean) / (pl.len() + 5)).alias("mean"))
        item_mean[by_item["item_id"].to_numpy() - 1] = by_item["mean"].to_numpy()
        return mean, scale, item_mean

    def expected_rewards(self, event: np.ndarray) -> pl.DataFrame:
        """Rewards and expected rewards of some events: ``reward`` and the means."""
        wanted = pl.DataFrame({"event": event}, schema={"event": pl.UInt32})
        return wanted.join(self.means, on="event", how="left", maintain_order="left")

    def training(self) -> Windows:
        self.rated  # noqa: B018 (checks before training that there is something to learn)
        return super().training()
