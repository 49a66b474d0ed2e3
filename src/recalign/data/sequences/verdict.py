"""May a log be trained on: a verdict on the figures of ``recalign check``, and what makes it so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from recalign.data.events.audit import GAP_AUC, HINT, LEAK, OLD, OUTLIERS, REPEATS, RESOLUTION, REWARDED, TIES, Section
from recalign.data.events.division import FEW, LEARN, SHORT, unmeasurable
from recalign.data.events.guess import MOST_HIGH
from recalign.data.events.items import SECOND_ID
from recalign.data.sequences.audit import (
    CHANCES,
    DRAWN,
    HIGH,
    JUDGED,
    LEAKS,
    LEFT,
    LONGER,
    MISSES,
    OFTEN,
    OTHER_MISSES,
    OTHER_USERS,
    PAIRS,
    SEEN,
    UNREWARDED,
    users_tested,
)

Word = Literal["usable", "with care", "do not train"]
REFUSED: Word = "do not train"
REPEATED = 0.001
"""Share of repeated events above which to say so."""
REPORTED = 0.01
"""Share of what was shown at random without a reward, above which to say so."""
MOSTLY = 0.5
"""Share of the variance that comes from outliers, above which to warn."""
FEWER = 0.75
"""What another split has to leave of the misses, at most, to be proposed."""
JUDGES_NEED = 800
"""Training rewards of a group of judges below which many know nothing of another user's rewards. In simulated worlds as
noisy as ML-100K 5 % of the judges with 1,050 know nothing, and 45 % of those with 460; with twice the noise 85 and 90 %
(benchmarks/trust_worlds.py judges)."""
SMALLEST_A, WORTH = 0.4, 1.2
"""The least share of users A to propose (reward model and post-training learn from them, and tables are theirs), and
how many times as many rewards it has to give the judges to be proposed."""


@dataclass(frozen=True)
class Concern:
    """What a user should know of a log before training on it; serious: training on it would mislead."""

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
    """The first serious concern of a verdict as it is printed; None where it lets the log be trained on."""
    word, *concerns = said.split("\n")
    return concerns[0].removeprefix("- ") if word == f"verdict: {REFUSED}" else None


def verdict(sections: Mapping[str, Section], time_unit: str) -> Verdict:
    """Judge the figures that `audit_log` computes.

    Args:
        sections: the figures.
        time_unit: in which the log's timestamps were read.
    """
    found = (*_rewards(sections), *_events(sections, time_unit), *_measured(sections))
    return Verdict([*found, *(stop(f"{name}: {count:,}") for name, count in sections[LEAKS].items() if count)])


def _rewards(sections: Mapping[str, Section]) -> Iterator[Concern]:
    """What rewards, and events shown at random, can be learned from."""
    rewards, exposure = sections.get("reward", {}), sections.get("exposure", {})
    if not rewards.get(REWARDED):
        yield care("no event has a reward: a recommender can be trained, but there is nothing to align it to")
        return
    area, seconds = float(rewards.get(GAP_AUC, 0.5)), rewards.get(RESOLUTION)
    floored = f"floor the times (data.log.time_resolution{f': {seconds}' if seconds else ', a day or more'})"
    if area >= LEAK:
        yield stop(
            f"the time between events tells a high reward (AUC {area:.2f}), and a model that sees times reads it off "
            f"them: {floored}, or make one event of several (data.log.collapse)"
        )
    elif area >= HINT:
        yield care(f"the time between events hints at a high reward (AUC {area:.2f}): {floored}")
    if (due := float(rewards.get(OUTLIERS, 0))) > MOSTLY:
        yield stop(
            f"{due:.0%} of the variance of the rewards is due to one in a thousand, and all is learned from a few "
            "outliers: bound the reward, as in least(reward, 10)"
        )
    if (share := float(sections["split"][HIGH])) in (0, 1):
        yield care(f"{'every' if share else 'no'} event has a high reward, so high/* means nothing: see data.high")
    elif share > 1 - MOST_HIGH:  # fewer are left to tell them from
        yield care(f"{share:.0%} of the events have a high reward, so high/* says little: see data.high")
    if (known := int(rewards[REWARDED]) / int(sections["log"]["events"])) < 0.5:
        yield care(f"{known:.0%} of the events have a reward: methods learn from these alone")
    chances, unrewarded = int(exposure.get(CHANCES, 0)), int(exposure.get(UNREWARDED, 0))
    if exposure.get(DRAWN) and not chances:
        yield care(
            f"{exposure[DRAWN]:,} events were shown at random, and nothing tells how probably, so no policy is valued "
            "by them: name a column with the chance of each draw (data.log.propensity)"
        )
    elif unrewarded > REPORTED * chances:
        yield care(
            f"{unrewarded / chances:.0%} of the events that were shown at random have no reward, and off-policy values "
            "leave them out: say in data.reward what such an event is worth, as in coalesce(reward, 3)"
        )


def _events(sections: Mapping[str, Section], time_unit: str) -> Iterator[Concern]:
    """Repeats, features and times."""
    log, repetition, users_of = sections["log"], sections["repeated items and times"], sections.get(OTHER_USERS, {})
    repeats, events = int(repetition.get(REPEATS, 0)), int(log["events"])
    if repeats > REPEATED * events:
        yield care(
            f"{repeats:,} events ({repeats / events:.1%}) repeat another in every column: if they were logged twice, "
            "set data.log.drop_repeats: true"
        )
    for name, count in sections.get("item features", {}).items():
        feature, _, kind = name.rpartition(": ")
        if kind == SECOND_ID:
            yield care(
                f"the feature {feature} has {count:,} categories, and most items have none that another item has too: "
                "it names items rather than describing them"
            )
    if (tied := float(repetition.get(TIES, 0))) > OFTEN:
        line = next((one for one, users in users_of.items() if "TimeSplit" in one and int(users) >= FEW), None)
        yield care(
            f"{tied:.0%} of the events share their time with another of the same user. If the file's order is not that "
            f"in which they happened, at least {tied / 2:.0%} of the next events are noise: name a column of finer "
            "times in data.log.timestamp" + (f", or keep them in one part with data.{line}" if line else "")
        )
    if old := int(log.get(OLD, 0)):
        yield care(f"{old:,} events are before 1990, and most are later: other units, or 0 for no time?")
    first, last = (str(sections[part][day]) for part, day in (("train", "first day"), ("test", "last day")))
    if last.startswith("1970") and time_unit in ("ms", "us"):
        yield stop(f"all events are of 1970: is data.log.time_unit {time_unit} right?")
    elif first == last and "first event" in log:
        yield care(f"all events are of one day, {first}: is data.log.time_unit right?")


def _measured(sections: Mapping[str, Section]) -> Iterator[Concern]:
    """What can be measured: on which targets, of how many users, by which judges."""
    test, split, tested = sections["test"], sections["split"], users_tested(sections)
    if (seen := float(test[SEEN])) > OFTEN:
        yield care(
            f"in {seen:.0%} of the test events the user had seen the item before. They are ranked, though items seen "
            "are never recommended, and a chain ships nothing by them: data.log.collapse: true makes one event of a "
            "user's events on an item"
        )
    users_of, misses_of = sections.get(OTHER_USERS, {}), sections.get(OTHER_MISSES, {})
    if (unseen := float(test[MISSES])) > OFTEN:
        others = {one: float(share) for one, share in misses_of.items() if int(users_of[one]) >= min(FEW, tested)}
        best = min(others, key=lambda one: others[one], default=None)
        remedy = "Name items more coarsely (a product, not its variants), or leave rare ones out of the table"
        if best is not None and others[best] <= FEWER * unseen:
            remedy = f"They are {others[best]:.0%} with data.{best}"
        yield care(
            f"{unseen:.0%} of the test events are on items unseen in training: all of them are misses, so that no "
            f"method's ndcg is above {1 - unseen:.2f}. {remedy}"
        )
    if (median := int(sections["events per user"]["median"])) < SHORT:
        longer = int(split[LONGER])
        yield care(
            f"the median user has {median} event{'s' * (median != 1)}, and {SHORT} are one to test on, one to validate "
            f"on and {LEARN} to learn a taste from: gains will be small. {longer:,} users have {SHORT} or more"
            + (": leave the others out of the table" if longer >= FEW else "")
        )
    if not split[PAIRS] and int(split[LEFT]) < LEARN:
        yield care(
            f"no user of A has two validation events, and the median one {split[LEFT]} in training: nothing tells "
            "whether a user's rewards are put in the right order"
        )
    if tested < FEW:
        line, most = max(users_of.items(), key=lambda one: int(one[1]), default=("", 0))
        why = unmeasurable(tested)
        text = why or f"{tested} users have test events: intervals will be wide"
        yield Concern(bool(why), text + (f". {most:,} have with data.{line}" if int(most) > tested else ""))
    of_a, *of_judges = (int(split.get(f"users in group {group}", 0)) for group in ("A", "B1", "B2"))
    known, judges = int(split.get(JUDGED, JUDGES_NEED)), sum(of_judges)
    if judges and known < JUDGES_NEED:
        more, remedy = known * (1 - SMALLEST_A) * (of_a + judges) / judges, "add users, or events with a reward"
        if more > WORTH * known:
            enough = "" if more >= JUDGES_NEED else f"; that is still too few: {remedy}"
            remedy = f"data.share_a: {SMALLEST_A} gives them about {more:,.0f}, and measures fewer users{enough}"
        yield care(
            f"judges learn from {known:,} rewards, and with fewer than {JUDGES_NEED:,} many know nothing, so that a "
            f"chain ships nothing: {remedy}"
        )
