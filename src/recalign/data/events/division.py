"""Choose default ``data.split`` and ``data.high``, for `recalign init` and `recalign.Log.from_frame`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recalign.data.events import guess
from recalign.data.events.rows import TIED

LEARN = 3
"""Training events that a user needs: a history to learn from, and rewards to compare."""
SHORT = LEARN + 2
"""Events of a user with one to test on, one to validate on, and `LEARN` to learn from."""
LEAST, FEW = 20, 100
"""Users with test events: fewer than `LEAST` leave under three to each group of judges (15 % of the users), so that
nothing can be measured; with fewer than `FEW`, intervals are wider than most gains."""
MOST = 0.5
"""Share of the events, and of the users, above which tie groups of several items look like baskets."""
PAUSE = 3_600
"""Least median seconds between a user's baskets."""
TRAINABLE_SHARE = 0.75
"""A larger split must leave `LEARN` training events to this share of the users who have them under the smallest."""


@dataclass(frozen=True)
class SplitSuggestion:
    """The last events of each user as test, those before as validation; and which rewards are high.

    Attributes:
        test, validation: events of each user who has more than both together; others have training events only.
        high: SQL condition; None: the best quarter of the training rewards, or no reward at all.
        users, tested: number of users, and of users with test events.
        left: median number of training events of the tested users.
        cannot: why nothing can be learned or measured; None if something can.
    """

    test: int
    validation: int
    high: str | None
    users: int
    tested: int
    left: int
    cannot: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """``data.high`` and ``data.split``."""
        parts = {"test": self.test, "validation": self.validation}
        return {
            "high": {"expression": self.high, "quantile": None if self.high else 0.75},
            "split": {"class_path": "recalign.data.sequences.LeaveLast", "init_args": parts},
        }

    def __str__(self) -> str:
        text = (
            f"split: {self.tested:,} of {self.users:,} users have test events: the last {self.test} of each. The "
            f"{self.validation} before are for validation; the median user has {self.left} more to train on"
        )
        return f"{text}\n{self.cannot}" if self.cannot else text


def collapse_and_divide(
    events: pl.DataFrame, reward: str | None, collapse: bool | None = None
) -> tuple[bool, SplitSuggestion]:
    """Choose ``data.log.collapse``, then a split and high rewards on the remaining events.

    Args:
        events: the columns ``user``, ``item`` and ``reward`` of each event.
        reward: the SQL of the rewards; None: there are none.
        collapse: the setting; None: true if ``reward`` is a CASE, as over event types, and a user has events of
            several rewards on one item, such as a view and a purchase.
    """
    if collapse is None:
        kinds = events.group_by("user", "item").agg(pl.col("reward").n_unique())["reward"]
        collapse = bool(re.match(r"\s*case\s+\S", reward or "", re.IGNORECASE) and (kinds > 1).any())
    if collapse:
        events = events.group_by("user", "item").agg(pl.col("reward").max())
    return collapse, divide(events["user"], events["reward"])


def divide(user: pl.Series, reward: pl.Series) -> SplitSuggestion:
    """Choose a split and a condition for high rewards.

    The median event count of users with three events or more limits the split (`_sizes`). The split is made smaller
    until enough users keep events to train on (`TRAINABLE_SHARE`). ``reward`` is null for events without one.
    """
    count_U = user.value_counts()["count"].to_numpy()
    testable_U = count_U[count_U > 2]
    median = int(np.median(testable_U)) if len(testable_U) else 0
    enough = TRAINABLE_SHARE * (count_U >= SHORT).sum()
    sizes = (_sizes(events) for events in range(median, -1, -1))
    test, validation = next(pair for pair in sizes if (count_U >= sum(pair) + LEARN).sum() >= enough)
    is_tested_U = count_U > test + validation
    left_U = count_U[is_tested_U] - test - validation
    nothing = "nothing can be learned from this log: no user has two training events, so that one follows another"
    learns = max(left_U.max(initial=0), count_U[~is_tested_U].max(initial=0)) > 1
    high, cannot = guess.high_condition(reward) if reward.count() else None, unmeasurable(len(left_U))
    left = int(np.median(left_U)) if len(left_U) else 0
    return SplitSuggestion(test, validation, high, len(count_U), len(left_U), left, cannot if learns else nothing)


def basket_share(events: pl.DataFrame) -> float | None:
    """Share of events in tie groups of several items; None: these do not look like baskets.

    They do if the share exceeds `MOST`, more than `MOST` of the users have such events, and a median pause of `PAUSE`
    or more separates the times of a user: in a burst of ratings it is seconds.

    Args:
        events: ``user``, ``item``, ``timestamp`` and `TIED` of each event, in order.
    """
    by_group = events.group_by("user", "timestamp", tie_group=(~pl.col(TIED)).cum_sum(), maintain_order=True)
    groups = by_group.agg(pl.len(), pl.col("item").n_unique())
    baskets = groups.filter(pl.col("item") > 1)
    share = float(baskets["len"].sum() / max(events.height, 1))
    users_with_baskets = baskets["user"].n_unique()
    pause = groups.select(pl.col("timestamp").diff().over("user").median()).item() or 0
    is_most = share > MOST and users_with_baskets > MOST * events["user"].n_unique()
    return share if is_most and pause >= PAUSE else None


def unmeasurable(tested: int) -> str | None:
    """Why ``tested`` users with test events are too few to measure anything; None if they suffice."""
    if tested >= LEAST:
        return None
    return (
        f"this log cannot be measured: {tested} users have test events and a history, but judges and intervals need "
        f"at least {LEAST} ({FEW} for intervals narrow enough to be useful). Add users who come back, or more of "
        "their events"
    )


def _sizes(events: int) -> tuple[int, int]:
    """Split sizes for a user with so many events. Test: a tenth, from 1 to 10. Validation: the largest of 1, half of
    test, and a fifth of the events up to 3 (two events give one pair to order, three give three)."""
    test = min(10, max(1, events // 10))
    return test, max(1, test // 2, min(3, events // 5))
