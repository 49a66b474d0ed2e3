"""How often `recalign monitor` raises an alarm in weeks without change, and how often it sees what breaks in a week.

    python benchmarks/monitor_worlds.py --worlds 100 --workers 2

A world has people with tastes who come back for eight weeks, some more often than others, and a policy that knows half
of their tastes (the worlds of `offpolicy_lists.py`). Lists of five are drawn from it; people take what they like, and
give it one to five stars. They also choose outside of lists, 2 % of it items that the version does not know, and a
reward model's predictions stand beside what was shown. Two weeks are the reference. Each world is watched as it is, and
once with another thing broken in each of the six weeks after: every week is compared with the reference alone. Saved
are the share of weeks without change that have any alarm, by figure too, and the share of worlds in which each break
is seen in its week; with exact intervals (Clopper and Pearson). Weeks of a world share a reference, so the interval of
false alarms is somewhat too short; beside it stands the share of worlds with any in six weeks.

Suffixes: U users, N lists, V items, K places.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parent))
from offpolicy_lists import ITEMS, K, Population, log_chances
from tables import commit, each, frame, save

from recalign.loop.monitoring import DAY, Window, watch

WEEKS, REFERENCE, UNKNOWN = 8, 2, 0.02
WEEK = pl.col("timestamp") // (7 * DAY)
SHOWN, CHOSEN = pl.col("shown"), pl.col("chosen")
BREAKS = ("halved", "flipped", "shuffled", "unknown", "another policy", "lost")
"""What breaks, in the weeks after the reference, in turn."""


def lists(people: Population, taste_UV: np.ndarray, score_UV: np.ndarray, often_U: np.ndarray) -> pl.DataFrame:
    """Eight weeks of lists that a policy draws, a row a shown item."""
    draw = people.random
    count_UW = draw.poisson(np.repeat(often_U[:, None], WEEKS, axis=1))
    user_N = np.repeat(np.repeat(np.arange(len(often_U)), WEEKS), count_UW.ravel())
    week_N = np.repeat(np.tile(np.arange(WEEKS), len(often_U)), count_UW.ravel())
    item_NK = people.drawn(score_UV[user_N])
    logp_NK = log_chances(score_UV[user_N], item_NK)
    taste_NK = np.take_along_axis(taste_UV[user_N], item_NK, axis=1)
    stars_NK = np.clip(np.round(3 + taste_NK + 0.7 * draw.normal(size=taste_NK.shape)), 1, 5)
    each_M = np.repeat(np.arange(len(user_N)), K)
    return pl.DataFrame(
        {
            "user": user_N[each_M],
            "timestamp": ((week_N + draw.random(len(week_N))) * 7 * DAY).astype(np.int64)[each_M],
            "decision": pl.Series(each_M).cast(pl.String),
            "item": item_NK.ravel(),
            "position": np.tile(np.arange(1, K + 1), len(user_N)),
            "log_prob": logp_NK.ravel(),
            "chosen": people.earned(taste_UV[user_N], item_NK).ravel() > 0,
            "stars": stars_NK.ravel(),
            "predicted": (3 + 0.6 * (taste_NK + 0.7 * draw.normal(size=taste_NK.shape))).ravel(),
        }
    ).with_columns(shown=pl.lit(True), fixed=pl.lit(0), version=pl.lit("served"), meets=pl.lit(True))


def outside(people: Population, often_U: np.ndarray) -> pl.DataFrame:
    """What is chosen outside of lists, a choice a week on average."""
    draw = people.random
    user_M = np.repeat(np.arange(len(often_U)), draw.poisson(WEEKS * often_U))
    new_M = draw.random(len(user_M)) < UNKNOWN
    return pl.DataFrame(
        {
            "user": user_M,
            "timestamp": (draw.random(len(user_M)) * WEEKS * 7 * DAY).astype(np.int64),
            "item": np.where(new_M, ITEMS, draw.integers(ITEMS, size=len(user_M))),
            "stars": 3.0,
        }
    ).with_columns(shown=pl.lit(False), chosen=pl.lit(True), meets=pl.lit(True))


def broken(table: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The table with one of `BREAKS` in each week after the reference; `other` is what another policy showed."""
    stars, tenth = pl.col("stars"), pl.int_range(pl.len()) % 10 == 0
    of_list = (SHOWN & CHOSEN).cast(pl.Int8)
    changes: dict[str, dict[str, pl.Expr]] = {
        "halved": {"stars": stars / 2},
        "flipped": {"stars": 6 - stars},
        "shuffled": {"stars": stars.shuffle(seed=0).over(of_list)},
        "unknown": {"item": pl.when(tenth & CHOSEN & ~SHOWN).then(ITEMS).otherwise("item")},
        "lost": {"chosen": CHOSEN & ~(SHOWN & tenth)},
    }
    changes["unknown"] = {"item": pl.when(CHOSEN & ~SHOWN & tenth).then(ITEMS).otherwise("item")}
    parts = [table.filter(WEEK < REFERENCE)]
    for week, name in enumerate(BREAKS, start=REFERENCE):
        part = (other if name == "another policy" else table).filter(WEEK == week)
        parts.append(part.with_columns(**changes.get(name, {})).select(table.columns))
    return pl.concat(parts)
