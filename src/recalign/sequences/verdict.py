"""May a log be trained on: a verdict on the figures of ``recalign check``, and what makes it so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from recalign.events.audit import GAP_AUC, OUTLIERS, REWARDED, Section
from recalign.sequences.audit import HIGH, LEAKS, MISSES, SEEN

Word = Literal["usable", "with care", "do not train"]
LEAK, HINT = 0.9, 0.65
"""AUC of a high reward by the time between events: from `LEAK` on the reward is known before it is given."""
OFTEN, MOSTLY = 0.2, 0.5
"""Shares above which to warn. `OFTEN`: of test targets that their user had met before. `MOSTLY`: of test targets on
items unseen in training, and of the variance that comes from outliers."""
FEW = 100
"""Test users under which intervals are too wide for most gains."""


@dataclass(frozen=True)
class Concern:
    """What a user should know of a log before training on it; serious: training on it would mislead."""

    serious: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether a log may be trained on."""

    concerns: list[Concern]

    @property
    def word(self) -> Word:
        if not self.concerns:
            return "usable"
        return "do not train" if any(concern.serious for concern in self.concerns) else "with care"

    def __str__(self) -> str:
        """The word, then a line for each concern, serious ones first."""
        ordered = sorted(self.concerns, key=lambda concern: not concern.serious)
        return "\n".join([f"verdict: {self.word}", *(f"- {concern.text}" for concern in ordered)])


def verdict(sections: Mapping[str, Section], time_unit: str) -> Verdict:
    """Judge the figures that `audit_log` computes.

    Args:
        sections: the figures.
        time_unit: in which the log's timestamps were read.
    """
    return Verdict([*_rewards(sections), *_targets(sections), *_times(sections, time_unit), *_leaks(sections)])


def _rewards(sections: Mapping[str, Section]) -> Iterator[Concern]:
    rewards = sections.get("reward", {})
    area = float(rewards.get(GAP_AUC, 0.5))
    if area >= LEAK:
        yield Concern(
            True,
            f"the time between events tells a high reward (AUC {area:.2f}): a model that sees times reads the reward "
            "off them. Floor the times (data.log.time_resolution), or make one event of several (data.log.collapse)",
        )
    elif area >= HINT:
        yield Concern(
            False,
            f"the time between events hints at a high reward (AUC {area:.2f}): see data.log.time_resolution",
        )
    if (due := float(rewards.get(OUTLIERS, 0))) > MOSTLY:
        yield Concern(
            True,
            f"{due:.0%} of the variance of the rewards is due to one in a thousand: whatever is learned from them is "
            "learned from a few outliers. Bound the reward, as in least(reward, 10)",
        )
    if (share := sections["split"][HIGH]) in (0, 1):
        yield Concern(
            False, f"{'every' if share else 'no'} event has a high reward, so high/* means nothing: see data.high"
        )
    events = int(sections["log"]["events"])
    if rewards and (known := int(rewards[REWARDED])) < events / 2:
        yield Concern(False, f"{known / events:.0%} of the events have a reward: methods learn from these alone")


def _targets(sections: Mapping[str, Section]) -> Iterator[Concern]:
    test = sections["test"]
    if (seen := float(test[SEEN])) > OFTEN:
        yield Concern(
            False,
            f"in {seen:.0%} of the test events the user had seen the item before: they are ranked all the same, though "
            "items seen are never recommended, so ranks look better than they are; see data.log.collapse",
        )
    if (unseen := float(test[MISSES])) > MOSTLY:
        yield Concern(False, f"{unseen:.0%} of the test events are on items unseen in training: all of them are misses")
    if (users := int(test["users"])) < FEW:
        yield Concern(False, f"{users} users have test events: intervals will be wide")


def _times(sections: Mapping[str, Section], time_unit: str) -> Iterator[Concern]:
    first, last = (str(sections[part][day]) for part, day in (("train", "first day"), ("test", "last day")))
    if last.startswith("1970") and time_unit in ("ms", "us"):
        yield Concern(True, f"all events are of 1970: is data.log.time_unit {time_unit} right?")
    elif first == last and "first event" in sections["log"]:
        yield Concern(False, f"all events are of one day, {first}: is data.log.time_unit right?")


def _leaks(sections: Mapping[str, Section]) -> Iterator[Concern]:
    for name, count in sections[LEAKS].items():
        if count:
            yield Concern(True, f"{name}: {count:,}")
