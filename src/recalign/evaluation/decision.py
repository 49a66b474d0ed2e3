"""Whether to ship a policy, and which, by `RULES`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recalign.evaluation.comparison import ALL, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.selection import KEPT, SELECT

Word = Literal["ship", "do not ship", "not decided"]
Reports = Mapping[str, dict[str, Any]]
"""``trust.json`` by seed."""
FLAT = 0.005
"""A gain whose interval ends below this share of the baseline's value is no gain."""
COIN = 0.5
RULES = (
    f"The candidate is chosen on validation. It keeps {KEPT:.0%} of the better baseline's {ALL} there, and has the "
    "highest value under the judges that select. Baselines, placebos and rows that read no reward are no candidates.",
    "All that follows is measured on the test, by the judges that report.",
    f"Do not ship if no row keeps enough, or if the candidate keeps less than {KEPT:.0%} on the test. Do not ship if "
    "the reward model shows no signal.",
    f"Do not ship if the interval of the gain in value ends below {FLAT:.1%} of the better baseline's value, or if the "
    "start tilted by popularity has more value.",
    "Not decided if the judges order two rewards of one user no better than a coin, or if the interval of the gain "
    "holds 0.",
    "Not decided if the start tilted by popularity may have as much value, or if a placebo has half of the gain.",
    "Ship otherwise. One seed is enough where the users' interval is; the page then says that it is one seed.",
)
"""How `decide` decides."""


@dataclass(frozen=True)
class Finding:
    """A reason. ``speaks`` is 1 for shipping, -1 against, 0 where it leaves the question open."""

    speaks: int
    text: str
    remedy: str = ""  # what would decide it, where it is open


@dataclass(frozen=True)
class Decision:
    """What to do with a policy, and why."""

    policy: str | None
    findings: list[Finding]
    seeds: int

    @property
    def word(self) -> Word:
        """The worst finding decides: one against is enough, one open leaves it open."""
        words: dict[int, Word] = {1: "ship", 0: "not decided", -1: "do not ship"}
        return words[self._worst]

    @property
    def because(self) -> list[str]:
        """The findings that led to the word; all of them for *ship*."""
        return [finding.text for finding in self.findings if finding.speaks == self._worst]

    @property
    def would_decide(self) -> list[str]:
        """What to do next."""
        found = [finding.remedy for finding in self.findings if finding.remedy]
        if self.seeds == 1:
            found.append("Run three seeds: intervals of one seed are over users alone, and another may differ.")
        return list(dict.fromkeys(found))

    @property
    def _worst(self) -> int:
        return min((finding.speaks for finding in self.findings), default=0)


def decide(test: ComparisonTable, validation: ComparisonTable, trust: Mapping[str, Reports]) -> Decision | None:
    """Decide by the rules above; None where only baselines were measured.

    Args:
        test, validation: the comparison's splits.
        trust: ``trust.json`` by stage and seed, of ``reward`` and ``judge_report``; a stage without any has no say.
    """
    if not test.roles.candidates(test.column(VALUE)) or not test.better_baseline(VALUE):
        return None
    policy = candidate(validation)
    if policy is None:
        text = f"No method keeps {KEPT:.0%} of the {ALL} of {validation.better_baseline(ALL)} on validation."
        return Decision(None, [Finding(-1, text, "Take smaller steps (model.lr).")], len(test.seeds))
    return Decision(policy, list(_findings(test, policy, trust)), len(test.seeds))


def candidate(validation: ComparisonTable) -> str | None:
    """The row that validation chooses; None where no row keeps enough."""
    values = {name: cell.value for name, cell in validation.column(SELECT).items() if math.isfinite(cell.value)}
    enough = [name for name in validation.roles.candidates(values) if validation.kept(name) >= KEPT]
    return max(enough, key=values.__getitem__, default=None)


def judges(reports: Reports) -> Interval | None:
    """Share of pairs of one user's rewards that the judges order right: means over seeds of value and interval."""
    found = [report[report["judged_on"]]["table"]["model"]["pairwise"] for report in reports.values()]
    return Interval(*np.mean(np.array(found, dtype=float), axis=0).tolist()) if found else None


def _findings(test: ComparisonTable, policy: str, trust: Mapping[str, Reports]) -> Iterator[Finding]:
    said = [report["verdict"] for report in trust.get("reward", {}).values()]
    if said and all(verdict == "no_signal" for verdict in said):
        yield Finding(-1, "The reward model shows no signal: what it is aligned with is noise.")
    seen = judges(trust.get("judge_report", {}))
    if seen and not seen.low > COIN:
        text = f"The judges order {seen.value:.1%} [{seen.low:.1%}, {seen.high:.1%}] of two rewards of one user right"
        remedy = "Give the judges more users (a smaller data.share_a), or a reward with less noise."
        yield Finding(0, f"{text}, which may be chance: their values say nothing.", remedy)
    if (kept := test.kept(policy)) < KEPT:
        yield Finding(-1, f"{policy} keeps {kept:.1%} of the better baseline's {ALL} on the test.")
    yield from _gain(test, policy)


def _gain(test: ComparisonTable, policy: str) -> Iterator[Finding]:
    gain, baseline = test.get(policy, f"diff_best_bc/{VALUE}"), test.better_baseline(VALUE)
    if gain is None or baseline is None:
        yield Finding(0, "The value of no baseline is known.", "Evaluate start and bc as well.")
        return
    base = abs(test.column(VALUE)[baseline].value)
    if gain.high < FLAT * base:
        yield Finding(-1, f"{policy} gains {gain} over {baseline}: nothing worth shipping.")
        return
    if gain.sign <= 0:
        yield Finding(0, f"{policy} gains {gain} over {baseline}: this may be chance.", _more_users(gain))
        return
    yield Finding(1, f"{policy} gains {gain} over {baseline}, {gain.value / base:+.1%}.")
    for other in test.roles.unrewarded:
        yield from _over(test, policy, other)
    for placebo, copied in test.roles.placebos.items():
        other_gain = test.get(placebo, f"diff_best_bc/{VALUE}")
        if copied == policy and other_gain and other_gain.sign > 0 and other_gain.value > gain.value / 2:
            text = f"{placebo}, which must gain nothing, gains {other_gain}"
            yield Finding(0, f"{text}: part of the gain is no taste.", "Calibrate the start, or clone it for longer.")


def _over(test: ComparisonTable, policy: str, other: str) -> Iterator[Finding]:
    """A policy beside a row that reads no reward."""
    more = test.get(policy, f"diff_{other}/{VALUE}")
    if more is None:
        return
    if more.sign > 0:
        yield Finding(1, f"It has {more} more than {other}, which reads no reward.")
    else:
        text = f"{other}, which reads no reward, may have as much: {policy} has {more} more."
        yield Finding(0 if more.sign == 0 else -1, text, _more_users(more) if more.value > 0 else "")


def _more_users(gain: Interval) -> str:
    """How many times the users it takes, if the gain is as estimated and intervals shrink with their square root."""
    if gain.value <= 0 or not math.isfinite(gain.low):
        return "More users, or three seeds, narrow the interval."
    times = ((gain.value - gain.low) / gain.value) ** 2
    return f"About {math.ceil(times * 10) / 10:g} times as many test users would put a gain like this above 0."
