"""Simulate a log with known true rewards, so that the true value of a policy can be computed exactly.

Shape legend: U users, I items, N events.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recalign.data.simulation.behaviour import CIRCUMSTANCE_SHARE, Ints, choose, draw_activity, draw_times, time_slice
from recalign.data.simulation.people import DRIFT, Floats, People, draw_people
from recalign.errors import InputError

MEAN = 3.05  # mean true reward over all pairs. Chosen items are better: the log's mean equals ML-100K's
SD = 0.72  # of the true satisfaction, in reward points: the unit of all sizes
START = 874_724_710  # timestamp of the first second: ML-100K's
TAIL = 3  # degrees of freedom of heavy-tailed noise: the fewest with finite variance

LARGEST = 2**63 - 1  # of settings without an upper limit
SIZES = ("signal", "noise", "generosity", "habit", "fashion", "circumstance", "confounding")
Noise = Literal["gaussian", "heavy", "fashion"]


@dataclass(frozen=True)
class World:
    """Settings of a simulated world. The defaults match the moments of ML-100K on a smaller scale.

    Sizes are in standard deviations of the true satisfaction; 0 switches an effect off.

    Args:
        users: number of users.
        items: number of items in the catalogue.
        events: number of events. A user has at least one and at most items / 2, on distinct items.
        signal: size of the true satisfaction in the observed reward; 0: rewards say nothing about the truth.
        noise: size of the noise in an observed reward.
        noise_kind: gaussian; heavy (Student's t with 3 degrees of freedom); or fashion (gaussian, larger for items in
            fashion).
        generosity: size of the user bias in rewards.
        habit: weight of habit in choices; satisfaction has weight 1.
        fashion: weight of fashion (popularity over time) in choices; satisfaction has weight 1.
        drift: share of the variance of fashion that comes and goes, one peak per item; the rest is constant. Near 1,
            past popularity says little about the future.
        circumstance: effect of the circumstance (a confounder) on rewards.
        confounding: effect of the circumstance on choices: some items are seen mostly under it.
        missing: share of the events without a recorded reward.
        random: share of the events whose item was drawn uniformly from those that the user had not had. Above 0 the log
            has two more columns: is_random, and propensity, the probability of that draw (null where the user chose).
        shown: items per request; the log then has a row for each, with ``chosen``. They are drawn by fashion alone,
            and the user chooses one by the other effects. At least 2, or 0: rows are choices from the catalogue.
        seed: random seed; the same seed makes the same files.
    """

    users: int = 400
    items: int = 600
    events: int = 30_000
    signal: float = 1.0
    noise: float = 1.05
    noise_kind: Noise = "gaussian"
    generosity: float = 0.55
    habit: float = 5.0
    fashion: float = 5.5
    drift: float = DRIFT
    circumstance: float = 0.4
    confounding: float = 0.5
    missing: float = 0.1
    random: float = 0.0
    shown: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"users": (10, LARGEST), "items": (20, LARGEST)}
        ranges |= {"events": (max(100, self.users), self.users * self.most), "missing": (0, 0.9)}
        ranges |= {"shown": (0, self.most)}
        ranges |= dict.fromkeys(("drift", "random"), (0, 1)) | dict.fromkeys((*SIZES, "seed"), (0, LARGEST))
        for name, (least, largest) in ranges.items():
            if not least <= (value := getattr(self, name)) <= largest:
                remedy = f"give at least {least:,}" if largest == LARGEST else f"give {least:,} to {largest:,}"
                raise InputError(f"{value} is out of range", where=name, remedy=remedy)
        if self.shown == 1:
            what, remedy = "with 1 item per request every row would be chosen", f"give 0, or 2 to {self.most:,}"
            raise InputError(what, where="shown", remedy=remedy)
        if self.shown and self.random:
            raise InputError("shown and random exclude each other", where="shown", remedy="set one of them to 0")

    @property
    def most(self) -> int:
        """Most events of a user: half the catalogue, so that enough items are left to recommend."""
        return self.items // 2


@dataclass(frozen=True)
class Simulated:
    """A simulated log and its truth.

    Attributes:
        world: the settings.
        people: the latent variables.
        users, items: raw ids, in the order of the truth's rows and columns.
        truth_UI: true reward of every pair, without user bias and noise, averaged over the circumstance.
        events: sorted by time; user, item, timestamp (seconds), reward (null: not recorded), high (the item is in the
            top quarter of the user's true rewards), circumstance (whether the event was under it), true_reward; with
            random exposure also is_random and propensity; with ``shown`` also chosen, and the reward is null for rows
            not chosen.
    """

    world: World
    people: People
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    truth_UI: Floats
    events: pl.DataFrame


def simulate(world: World) -> Simulated:
    """Simulate a log: draw users and items, what they choose, and how they rate it."""
    rng = np.random.default_rng(world.seed)
    people = draw_people(rng, world.users, world.items, world.drift)
    count_U = draw_activity(rng, world.users, world.events, world.most)
    second_N, under_N = draw_times(rng, count_U)
    slice_N, deviation = time_slice(second_N), np.sqrt(CIRCUMSTANCE_SHARE * (1 - CIRCUMSTANCE_SHARE))
    circumstance_N = ((under_N - CIRCUMSTANCE_SHARE) / deviation).astype(np.float32)  # the truth is the mean over it
    # a separate generator: other draws are the same with and without random exposure
    random_N = np.random.default_rng([world.seed, 1]).random(world.events) < world.random if world.random else None
    sizes = {name: getattr(world, name) for name in ("habit", "fashion", "confounding")}
    item_N, shown_NS = choose(
        rng, people, count_U, slice_N, circumstance_N, **sizes, random_N=random_N, shown=world.shown, seed=world.seed
    )
    user_N = np.repeat(np.arange(world.users), count_U)

    truth_UI = (MEAN + SD * people.satisfaction_UI).astype(np.float32)
    true_N = truth_UI[user_N, item_N].astype(np.float64)
    reward_N = (
        MEAN
        + world.signal * (true_N - MEAN)
        + SD * world.generosity * people.generosity_U[user_N]
        + SD * world.circumstance * circumstance_N
        + SD * world.noise * _draw_noise(rng, world.noise_kind, people.fashion_TI[slice_N, item_N])
    )
    users, items = np.arange(1, world.users + 1), np.arange(1, world.items + 1)
    events = pl.DataFrame(
        {
            "user": users[user_N],
            "item": items[item_N],
            "timestamp": START + second_N,
            "reward": pl.Series(reward_N).set(pl.Series(rng.random(world.events) < world.missing), None),
            "high": true_N >= np.quantile(truth_UI, 0.75, axis=1)[user_N],
            "circumstance": under_N,
            "true_reward": true_N,
        }
    )
    if random_N is not None:
        had_N = np.arange(world.events) - np.repeat(np.cumsum(count_U) - count_U, count_U)
        chance = pl.Series(1 / (world.items - had_N)).set(pl.Series(~random_N), None)
        events = events.with_columns(is_random=pl.Series(random_N), propensity=chance)
    if world.shown:
        events = _with_skipped(events, shown_NS, user_N, items, truth_UI)
    return Simulated(world, people, users, items, truth_UI, events.sort("timestamp", "user", "item"))


def _with_skipped(events: pl.DataFrame, shown_NS: Ints, user_N: Ints, items: Ints, truth_UI: Floats) -> pl.DataFrame:
    """Replace the row of each choice by a row for each item shown."""
    true_NS = truth_UI[user_N[:, None], shown_NS].astype(np.float64)
    high_NS = true_NS >= np.quantile(truth_UI, 0.75, axis=1)[user_N, None]
    choice = events.rename({"item": "choice"}).drop("true_reward", "high")
    rows = choice.with_columns(item=items[shown_NS], true_reward=true_NS, high=high_NS)
    rows = rows.explode("item", "true_reward", "high").with_columns(chosen=pl.col("item") == pl.col("choice"))
    return rows.with_columns(reward=pl.when("chosen").then("reward")).select(*events.columns, "chosen")


def _draw_noise(rng: np.random.Generator, kind: Noise, fashion_N: Floats) -> NDArray[np.float64]:
    if kind == "heavy":
        return rng.standard_t(TAIL, size=len(fashion_N)) / np.sqrt(TAIL / (TAIL - 2))
    noise_N = rng.standard_normal(len(fashion_N))
    if kind == "fashion":
        spread_N = np.exp(fashion_N.astype(np.float64) / 2)  # 1.6 times as large for each standard deviation of fashion
        return noise_N * spread_N / np.sqrt((spread_N**2).mean())
    return noise_N
