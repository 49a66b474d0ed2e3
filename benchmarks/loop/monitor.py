"""How often `recalign monitor` raises an alarm in weeks without change, and how often it sees what breaks in a week.

    python -m benchmarks.loop.monitor --worlds 100 --workers 2

A world has people with tastes (those of `offpolicy_lists.py`) who come back for eight weeks, some more often than
others, and a served policy that knows half of their tastes. It draws lists of five; people take what they like and give
it one to five stars. They also choose outside of lists, 2 % of it items that the version does not know. A reward
model's predictions stand beside what was shown, and the start is the served policy, half as sharp. Two weeks are the
reference. Each world is watched as it is, and again with another thing broken in each of the six weeks after: a week is
compared with the reference alone, so they do not meet; and once more without predictions. Saved are the share of weeks
without change that have any alarm, by figure too, and the share of worlds in which each break is seen in its week, with
exact intervals (Clopper and Pearson). Weeks of a world share a reference, so that the interval over weeks is somewhat
too short; beside it stands the share of worlds with any alarm in six weeks.

Suffixes: U users, W weeks, N lists, M rows, V items, K places.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import polars as pl
from scipy.stats import binomtest

from benchmarks.lib import commit, each, frame, save
from benchmarks.loop.lists import ITEMS, K, Population, log_chances
from recalign.serve.loop.monitor_command import REMEDIES
from recalign.serve.loop.monitoring import DAY, compare_windows

WEEKS, REFERENCE, UNKNOWN, LOST = 8, 2, 0.02, 0.2
WEEK = pl.col("timestamp") // (7 * DAY)
SHOWN, CHOSEN, STARS = pl.col("shown"), pl.col("chosen"), pl.col("stars")
OUTSIDE = CHOSEN & ~SHOWN
BROKEN = {
    "rewards halved": STARS / 2,
    "rewards flipped": -STARS + 6,
    "rewards shuffled over the outcomes": STARS.shuffle(seed=0).over((CHOSEN & SHOWN).cast(pl.Int8)),
    "a fifth of the outcomes lost": (CHOSEN & ~(SHOWN & (pl.int_range(pl.len()) < LOST * pl.len()))).alias("chosen"),
    "a tenth of the outcomes unknown": (
        pl.when(OUTSIDE & (OUTSIDE.cum_sum() <= 0.1 * CHOSEN.sum())).then(ITEMS).otherwise("item").alias("item")
    ),
    "popular items served": STARS,
}
"""What breaks in the weeks after the reference, in turn, each in one: a column of that week's rows, in random order."""

BARE = ", no predictions"
"""Said of a week that is watched without the reward model's predictions."""


def lists(
    people: Population, taste_UV: np.ndarray, score_UV: np.ndarray, start_UV: np.ndarray, often_U: np.ndarray
) -> pl.DataFrame:
    """Eight weeks of lists that a policy draws, a row a shown item."""
    draw = people.random
    count_UW = draw.poisson(np.repeat(often_U[:, None], WEEKS, axis=1))
    user_N = np.repeat(np.repeat(np.arange(len(often_U)), WEEKS), count_UW.ravel())
    week_N = np.repeat(np.tile(np.arange(WEEKS), len(often_U)), count_UW.ravel())
    item_NK = people.drawn(score_UV[user_N])
    logp_NK = log_chances(score_UV[user_N], item_NK)
    taste_NK = np.take_along_axis(taste_UV[user_N], item_NK, axis=1)
    noise_NK, error_NK = 0.7 * draw.normal(size=(2, *taste_NK.shape))
    row_M = np.repeat(np.arange(len(user_N)), K)
    return pl.DataFrame(
        {
            "user": user_N[row_M],
            "timestamp": ((week_N + draw.random(len(week_N))) * 7 * DAY).astype(np.int64)[row_M],
            "decision": pl.Series(row_M).cast(pl.String) + f"-{draw.integers(2**32)}",
            "item": item_NK.ravel(),
            "position": np.tile(np.arange(1, K + 1), len(user_N)),
            "log_prob": logp_NK.ravel(),
            "from_start": (logp_NK - log_chances(start_UV[user_N], item_NK)).ravel(),
            "chosen": people.earned(taste_UV[user_N], item_NK).ravel() > 0,
            "stars": np.clip(np.round(3 + taste_NK + noise_NK), 1, 5).ravel(),
            "predicted": (3 + 0.6 * (taste_NK + error_NK)).ravel(),
        }
    ).with_columns(shown=pl.lit(True), fixed=pl.lit(0), version=pl.lit("served"), meets=pl.lit(True))


def outside(people: Population, often_U: np.ndarray) -> pl.DataFrame:
    """What people choose outside of lists, as often as they get one."""
    draw = people.random
    user_M = np.repeat(np.arange(len(often_U)), draw.poisson(WEEKS * often_U))
    unknown_M = draw.random(len(user_M)) < UNKNOWN
    return pl.DataFrame(
        {
            "user": user_M,
            "timestamp": (draw.random(len(user_M)) * WEEKS * 7 * DAY).astype(np.int64),
            "item": np.where(unknown_M, ITEMS, draw.integers(ITEMS, size=len(user_M))),
            "stars": 3.0,
        }
    ).with_columns(shown=pl.lit(False), chosen=pl.lit(True), meets=pl.lit(True))


def alarms(table: pl.DataFrame) -> list[list[str]]:
    """The figures that raise an alarm, by week after the reference."""
    table = table.with_columns(reward=pl.when("chosen").then("stars").otherwise(0.0))
    drift = table.filter(position=1).select("decision", value="from_start")
    [found] = compare_windows(table, {"served": range(ITEMS)}, drift=drift)[0].values()
    weeks = found.table.filter(pl.col("window") > 0).partition_by("window", maintain_order=True)
    return [week.filter("alarm")["figure"].to_list() for week in weeks]


def world(users: int, seed: int) -> pl.DataFrame:
    """Weeks of a world, a row each: what is broken in it, if anything is, and which figures raise an alarm."""
    people = Population(seed)
    taste_UV, score_UV = people.tastes(users)
    often_U = people.random.gamma(2, 0.5, users)
    popular_UV = np.repeat(people.common_V[None], users, axis=0)
    alone = outside(people, often_U)
    own, other = (
        pl.concat([lists(people, taste_UV, x_UV, score_UV / 2, often_U), alone], how="diagonal")
        for x_UV in (score_UV, popular_UV)
    )
    own, other = (one.with_columns(at=WEEK) for one in (own, other))
    parts = [own.filter(pl.col("at") < REFERENCE)]
    for week, (name, column) in enumerate(BROKEN.items(), start=REFERENCE):
        part = (other if name == "popular items served" else own).filter(at=week)
        parts.append(part.sample(fraction=1, shuffle=True, seed=seed).with_columns(column))
    table = pl.concat(parts)
    found = [("", one) for one in alarms(own)] + list(zip(BROKEN, alarms(table), strict=True))
    found += list(zip((name + BARE for name in BROKEN), alarms(table.drop("predicted")), strict=True))
    broken, seen = zip(*found, strict=True)
    return pl.DataFrame({"broken": broken, "alarms": pl.Series(seen, dtype=pl.List(pl.String))}).with_columns(seed=seed)


def shares(rows: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Successes and trials, by what is counted."""
    length = pl.col("alarms").list.len()
    quiet = rows.filter(broken="")
    worlds = quiet.group_by("seed").agg((length > 0).any())["alarms"]
    found = {
        "weeks without change, any alarm": (quiet.filter(length > 0).height, quiet.height),
        "worlds without change, any alarm in six weeks": (int(worlds.sum()), len(worlds)),
    }
    for name in REMEDIES:
        own = quiet.filter(pl.col("alarms").list.contains(name))
        found[f"weeks without change, {name}"] = own.height, quiet.height
    for name in [name + how for how in ("", BARE) for name in BROKEN]:
        own = rows.filter(broken=name)
        found[f"{name}, seen in its week"] = (own.filter(length > 0).height, own.height)
    return found


def main() -> None:
    """Measure what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    parser.add_argument("--users", type=int, nargs="+", default=[1000, 200], help="that a world has")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    lines = []
    for users in given.users:
        found = pl.concat(each(partial(world, users), range(given.seed, given.seed + given.worlds), given.workers))
        for name, (count, total) in shares(found).items():
            low, high = binomtest(count, total).proportion_ci(method="exact")
            print(
                f"{users:>6} users  {name:<72}{count:>5} of {total:<5}{count / total:6.3f}  ({low:.3f} .. {high:.3f})"
            )
            seeds = f"{given.seed} to {given.seed + given.worlds - 1}"
            row = f"{users} users, {name}"
            lines.append(("worlds", row, "share", count / total, None, low, high, seeds, commit()))
    print(save(frame(lines), "loop/monitor", "log"))


if __name__ == "__main__":
    main()
