"""``recalign check``: figures of a split (sizes, unseen items, users left out, leaks), and a verdict on the log."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import polars as pl

from recalign.data.events import audit, data_root, read_features, read_titles
from recalign.data.events.audit import (
    ALIKE,
    BESIDE,
    CHOSEN_MEAN,
    GAP_AUC,
    HINT,
    LEAK,
    MOSTLY,
    OFTEN,
    OLD,
    OUTLIERS,
    REPEATS,
    RESOLUTION,
    REWARDED,
    SKIPPED_MEAN,
    TIES,
    Section,
    alike_concerns,
    how_to_bound,
)
from recalign.data.events.division import FEW, LEARN, SHORT, unmeasurable
from recalign.data.events.guess import MOST_HIGH
from recalign.data.events.items import feature_figures
from recalign.data.events.rows import TIED
from recalign.data.sequences.cache import FIGURES
from recalign.data.sequences.data import EventDataModule
from recalign.data.sequences.store import SPLITS, Sequences, SplitName
from recalign.data.sequences.user_sample import with_events
from recalign.data.sequences.windows import evaluation_windows, training_windows
from recalign.files import read_json, write_json

CATALOGUE, COLD = "items in training (the catalogue)", "further items, which are in the catalogue by their features"
COLD_TARGETS = "share of targets on items without training events that are known by their features"
SEEN = "share of targets that the user had seen before (they are ranked all the same)"
FOLLOWS = "share of targets that follow one of the same user and time"
READING = "what a user's events at one time are (data.ties)"
HIGH = "share of events with a high reward"
MISSES = "share of targets on them (misses)"
LEFT_OUT = "users left out of the test: no history before it"
LONGER = f"users with {SHORT} events or more"
JUDGED = "training events with a reward of the judges' users (B1 or B2, whichever has fewer)"
LEAKS = "leaks (all must be 0)"
DRAWN, CHANCES = "events shown at random", "of these, with a known propensity"
BASKETS = (
    "{:.0%} of the test events follow one of the same user and time, so these figures tell how a basket goes on, not "
    "what a user who has just come in wants"
)
Word = Literal["usable", "with care", "do not train"]
REFUSED: Word = "do not train"
REPEATED = 0.001
"""Share of repeated events above which to warn."""
JUDGES_NEED = 800
"""With fewer training rewards, many judges are not reliably better than chance on other users. In simulated worlds as
noisy as ML-100K this holds for 5 % of the judges with 1,050 rewards and 45 % of those with 460; with twice the noise,
for 85 and 90 % (benchmarks/archive/trust_worlds.csv)."""

GAIN_TOLD = "smallest gain in value that the test tells, about, in standard deviations of the reward"
USERS_FOR_HALF = "users of A with test events that tell half of that gain"
LOSS_TOLD = "smallest loss of NDCG@10 that it tells, about, if the start hits a tenth of the test events"
EVENTS_FOR_HALF = "test events that tell half of that loss"
MIN_GAIN_SD = 0.015
"""Least gain, in standard deviations of the reward: a smaller estimate fails, an interval below it refutes a gain."""
Z_95, Z_80 = 1.645, 0.842
GAIN_ERROR, NDCG_ERROR, HIT = 0.096, 0.33, 0.1
"""From 400 simulated worlds (benchmarks/decision/worlds.parquet): standard error of a gain times sqrt(users), the 90th
percentile; that of NDCG retained times sqrt(hits), the median. HIT: hits of the start per test event, an assumption."""


def audit_log(data: EventDataModule) -> dict[str, Section]:
    """Compute all figures of ``recalign check``, by section, such as the log, its split and its leaks."""
    sections = log_figures(data)  # first, while the log is in memory
    sequences, max_length = data.sequences, data.max_length
    sections |= {split: span_figures(sequences, split) for split in SPLITS}
    sections["split"] = split_figures(sequences, max_length) | {READING: data.ties or "not said"}
    if data.log_.is_random is not None:
        drawn = sequences.impressions.filter("is_random")
        known = 0 if data.log_.propensity is None else drawn["propensity"].count()
        sections["exposure"] = {DRAWN: drawn.height, CHANCES: known}
    return {**sections, LEAKS: leaks(sequences, max_length, data.log_.timestamp is not None)}


def log_figures(data: EventDataModule) -> dict[str, Section]:
    """The figures of the log that need no split (`recalign.data.events.audit`), saved with the prepared log."""
    entry, root = data.preparation.entry, data_root(data.root)
    kept = entry.path / FIGURES if entry else None
    sections = read_json(kept) if kept else {}
    if not sections:
        table, made, ranked = data.table, data.sequences, None  # caching the second may drop the first
        if data.relative_to:
            ranks = made.frame.select("row", "reward")
            ranked = table.frame.drop("reward").join(ranks, on="row", how="left", maintain_order="left")
        sections = audit(table, ranked)
        sections["item features"] = feature_figures(read_features(data.log_, root, table.items), table.items)
        if kept and kept.parent.is_dir():
            with suppress(OSError):  # a shared cache may be read-only here
                write_json(kept, sections)
    return {**sections, "titles": read_titles(data.log_, root, data.sequences.items)[1]}


def span_figures(sequences: Sequences, split: SplitName) -> Section:
    """Size and time span of a split; shares of its targets unseen in training, or seen by their user before."""
    chosen = sequences.frame.filter(pl.col("split") == SPLITS[split])
    first, last = (str(pl.from_epoch(chosen["timestamp"]).dt.date().sort()[end]) for end in (0, -1))
    rows: Section = {"events": len(chosen), "users": chosen["user"].n_unique(), "first day": first, "last day": last}
    if split != "train":
        unseen = chosen.filter(pl.col("item_id") == 0)
        rows["items unseen in training"] = unseen["item"].n_unique()
        rows[MISSES] = len(unseen) / len(chosen)
        if sequences.features:
            rows[COLD_TARGETS] = float((chosen["item_id"] > sequences.num_warm).mean())  # type: ignore[arg-type]
        pair = pl.col("user").cast(pl.Int64) * (sequences.num_items + 1) + pl.col("item_id")
        again = pair.is_first_distinct().not_() & (pl.col("split") == SPLITS[split])
        rows[FOLLOWS] = float(chosen[TIED].mean())  # type: ignore[arg-type]
        rows[SEEN] = sequences.frame.filter(pl.col("item_id") > 0).select(again.sum()).item() / len(chosen)
    return rows


def split_figures(sequences: Sequences, max_length: int) -> Section:
    """What the split leaves to train and test on."""
    frame, trained = sequences.frame, pl.col("split") == SPLITS["train"]
    windows = training_windows(sequences, sequences.users_in("all"), max_length)
    tested, in_a = np.zeros(sequences.num_users, bool), sequences.users_in("A")
    tested[frame["user"].filter(frame["split"] == SPLITS["test"]).to_numpy()] = True
    rated_N = frame.filter(trained & pl.col("reward").is_not_null())["user"].to_numpy()
    judged = min(int(sequences.users_in(group)[rated_N].sum()) for group in ("B1", "B2"))
    groups = pl.Series(sequences.group).value_counts().sort("").iter_rows()
    users, events = max(int((in_a & tested).sum()), 1), max(int((frame["split"] == SPLITS["test"]).sum()), 1)
    gain = detectable_gain(users)
    return {
        CATALOGUE: sequences.num_warm,
        **({COLD: sequences.num_items - sequences.num_warm} if sequences.features else {}),
        HIGH: float(frame["high"].mean()),  # type: ignore[arg-type]
        LEFT_OUT: int(tested.sum() - with_events(sequences).sum()),
        LONGER: int((np.bincount(frame["user"].to_numpy()) >= SHORT).sum()),
        "users of A with test events": int((in_a & tested).sum()),
        GAIN_TOLD: gain,
        USERS_FOR_HALF: users_needed(gain / 2) or f"none: least is {MIN_GAIN_SD}",
        LOSS_TOLD: 2 * Z_80 * NDCG_ERROR / (HIT * events) ** 0.5,
        EVENTS_FOR_HALF: 4 * events,  # the error falls with the square root of their number
        **({JUDGED: judged} if frame["reward"].count() and not in_a.all() else {}),
        "events of the longest history": int(np.diff(sequences.offset).max()),
        "newest events of a history that a model sees": max_length,
        "training targets (the newest events of each user)": int(windows.offset[-1]),
        **{f"users in group {group}": count for group, count in groups},
    }


def detectable_gain(users: int) -> float:
    """The gain, in standard deviations of the reward, that passes its test in four of five logs with so many users.

    To pass, its lower bound (one-sided, 95 %) lies above 0, and the estimate is at least `MIN_GAIN_SD`.
    """
    error = GAIN_ERROR / users**0.5
    return max(Z_95 * error, MIN_GAIN_SD) + Z_80 * error


def users_needed(gain: float) -> int | None:
    """How many users `detectable_gain` needs for a gain; None if no number is enough."""
    if gain <= MIN_GAIN_SD:
        return None
    error = min(gain / (Z_95 + Z_80), (gain - MIN_GAIN_SD) / Z_80)
    return math.ceil((GAIN_ERROR / error) ** 2)


def leaks(sequences: Sequences, max_length: int, timed: bool = True) -> Section:
    """Count leaks of the future into a model, of four kinds, or three if the log has no times; all must be 0."""
    everybody = sequences.users_in("all")
    train = training_windows(sequences, everybody, max_length).in_memory()
    test = evaluation_windows(sequences, everybody, "test", max_length)
    begun = pl.col("event").filter(pl.col("split") == SPLITS["test"]).min()
    ended = pl.col("event").filter(pl.col("split") == SPLITS["train"]).max()
    early = sequences.frame.group_by("user").agg(early=begun < ended)["early"]
    future = sum(int((sequences.time[w.state] > w.time).sum()) for w in (train, test))
    return {
        **({"future events in a history": future} if timed else {}),
        "targets in their own history": sum(int((sequences.event[w.state] >= w.event).sum()) for w in (train, test)),
        "users whose test begins before their training ends": int(early.sum()),
        "test events seen in training": int(np.isin(test.event, train.event).sum()),
    }


@dataclass(frozen=True)
class Concern:
    """What to know about a log before training on it; serious: training on it would mislead."""

    serious: bool
    text: str


care, stop = partial(Concern, False), partial(Concern, True)


@dataclass(frozen=True)
class Verdict:
    """Whether a log may be trained on."""

    concerns: list[Concern]

    @property
    def word(self) -> Word:
        if not self.concerns:
            return "usable"
        return REFUSED if any(concern.serious for concern in self.concerns) else "with care"

    def __str__(self) -> str:
        """The word, then a line for each concern, serious ones first."""
        ordered = sorted(self.concerns, key=lambda concern: not concern.serious)
        return "\n".join([f"verdict: {self.word}", *(f"- {concern.text}" for concern in ordered)])


def refused(said: str) -> str | None:
    """The first serious concern in a printed verdict; None if the verdict allows training."""
    word, *concerns = said.split("\n")
    return concerns[0].removeprefix("- ") if word == f"verdict: {REFUSED}" else None


def verdict(sections: Mapping[str, Section], time_unit: str) -> Verdict:
    """Judge a log by the figures of `audit_log`; ``time_unit`` is the unit in which its timestamps were read."""
    found = (*_rewards(sections), *_shown(sections), *_events(sections, time_unit), *_measured(sections))
    return Verdict([*found, *(stop(f"leak: {count:,} {name}") for name, count in sections[LEAKS].items() if count)])


def _rewards(sections: Mapping[str, Section]) -> Iterator[Concern]:
    rewards, exposure = sections.get("reward", {}), sections.get("exposure", {})
    if not rewards.get(REWARDED):
        yield care("no event has a reward: a recommender can be trained, but there is nothing to align it to")
        return
    area, seconds = float(rewards.get(GAP_AUC, 0.5)), rewards.get(RESOLUTION)
    floored = f"floor the times (data.log.time_resolution{f': {seconds}' if seconds else ', a day or more'})"
    if area >= LEAK:
        yield stop(
            f"the time between events reveals a high reward (AUC {area:.2f}), and a model that sees times reads it off "
            f"them: {floored}, or make one event of several (data.log.collapse)"
        )
    elif area >= HINT:
        yield care(f"the time between events hints at a high reward (AUC {area:.2f}): {floored}")
    if (due := float(rewards.get(OUTLIERS, 0))) > MOSTLY:
        yield stop(
            f"{due:.0%} of the variance of the rewards is due to one event in a thousand, so a few outliers decide "
            f"what is learned: {how_to_bound(rewards)}"
        )
    if (share := float(sections["split"][HIGH])) == 0 or share > 1 - MOST_HIGH:  # few are not high
        yield care(f"{share:.0%} of the events have a high reward, so high/* says little: see data.high")
    if (known := int(rewards[REWARDED]) / int(sections["log"]["events"])) < 0.5:
        yield care(f"{known:.0%} of the events have a reward: methods learn from these alone")
    if exposure.get(DRAWN) and not exposure[CHANCES]:
        yield care(
            f"{exposure[DRAWN]:,} events were shown at random with unknown probabilities, so no policy is "
            "valued by them: name a column with the probability of each (data.log.propensity)"
        )


def _shown(sections: Mapping[str, Section]) -> Iterator[Concern]:
    shown = sections.get("shown")
    if shown is None:
        return
    if not shown[BESIDE]:
        yield care(
            "no request has both a chosen row and one shown but not chosen, so shown/auc and shown/ndcg are not "
            "measured: name the column that says which rows were shown together (data.log.request)"
        )
    chosen, skipped = (float(shown.get(name, 0)) for name in (CHOSEN_MEAN, SKIPPED_MEAN))
    if SKIPPED_MEAN in shown and skipped >= chosen:
        yield care(
            f"rows shown but not chosen have a mean reward of {skipped:.3g}, chosen rows of {chosen:.3g}: is "
            "data.log.chosen the right way round, and does data.reward say what a choice was worth?"
        )


def _events(sections: Mapping[str, Section], time_unit: str) -> Iterator[Concern]:
    log, repetition = sections["log"], sections["repeated items and times"]
    repeats, events = int(repetition.get(REPEATS, 0)), int(log["events"])
    if repeats > REPEATED * events:
        yield care(
            f"{repeats:,} events ({repeats / events:.1%}) repeat another in every column: if they were logged twice, "
            "set data.log.drop_repeats: true"
        )
    yield from map(care, alike_concerns(sections.get(ALIKE, {})))
    yield from _tied(sections)
    if old := int(log.get(OLD, 0)):
        yield care(f"{old:,} events are before 1990, unlike most: are they in another unit, or is 0 a missing time?")
    first, last = (str(sections[split][day]) for split, day in (("train", "first day"), ("test", "last day")))
    if last.startswith("1970") and time_unit in ("ms", "us"):
        yield stop(f"all events are of 1970: is data.log.time_unit {time_unit} right?")
    elif first == last and "first event" in log:
        yield care(f"all events are of one day, {first}: is data.log.time_unit right?")


def _tied(sections: Mapping[str, Section]) -> Iterator[Concern]:
    follow, reading = float(sections["test"].get(FOLLOWS, 0)), sections["split"].get(READING)
    tied = float(sections["repeated items and times"].get(TIES, 0))
    noise = f"at least {tied / 2:.0%} of the next events are noise"
    if reading == "together":
        return
    if follow > OFTEN and reading == "order":
        meant = f"By data.ties: order they happened in the order of the file; if they did not, {noise}"
        yield care(f"{BASKETS.format(follow)}. {meant}")
    elif follow > OFTEN:
        yield care(
            f"{BASKETS.format(follow)}. Say what such events are: data.ties: together (a set, none in another's "
            "history), or order (they happened in the order of the file). Until then a chain decides nothing"
        )
    elif tied > OFTEN:
        yield care(
            f"{tied:.0%} of the events share their time with another of the same user. If the file's order is not that "
            f"in which they happened, {noise}: name a column of finer times in data.log.timestamp, or say that they "
            "came together (data.ties)"
        )


def _measured(sections: Mapping[str, Section]) -> Iterator[Concern]:
    test, split = sections["test"], sections["split"]
    tested = int(test["users"]) - int(split[LEFT_OUT])
    if (seen := float(test[SEEN])) > OFTEN:
        yield care(
            f"in {seen:.0%} of the test events the user had met the item before. Lists leave such items out, so ranks "
            "of them say little, and a chain decides nothing. data.log.collapse: true makes one event of all that a "
            "user has on an item"
        )
    if (unseen := float(test[MISSES])) > OFTEN:
        yield care(
            f"{unseen:.0%} of the test events are on items unseen in training: all of them are misses, so that no "
            f"method's ndcg is above {1 - unseen:.2f}. Try another data.split (LeaveLast misses fewer than cuts in "
            "time), name items more coarsely (a product, not its variants), or leave rare ones out of the table"
        )
    if (median := int(sections["events per user"]["median"])) < SHORT:
        longer = int(split[LONGER])
        yield care(
            f"the median user has {median} event{'s' * (median != 1)}, but needs {SHORT} (one to test on, one to "
            f"validate on and {LEARN} to learn from): gains will be small. {longer:,} users have {SHORT} or more"
            + (": leave the others out of the table" if longer >= FEW else "")
        )
    if tested < FEW:
        why = unmeasurable(tested)
        yield Concern(bool(why), why or f"{tested} users have test events: intervals will be wide (see data.split)")
    known = int(split.get(JUDGED, JUDGES_NEED))
    if known < JUDGES_NEED and any(f"users in group {group}" in split for group in ("B1", "B2")):
        yield care(
            f"judges learn from {known:,} rewards, and with fewer than {JUDGES_NEED:,} many are no better than chance: "
            "a chain may decide nothing then. Lower data.share_a (to 0.4), or add users, or events with a reward"
        )
