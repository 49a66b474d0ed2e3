"""What the figures of a comparison say for and against shipping a policy, one finding at a time.

Gains are in standard deviations of the training rewards of users A, so that nothing depends on the unit of a reward or
on where its zero lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from recalign.evaluation.comparison import ALL, PLACEBO_FACTOR, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.evaluation.selection import FLOOR
from recalign.sequences.audit import OFTEN
from recalign.sequences.placebo import CORRELATION

Reports = Mapping[str, dict[str, Any]]
"""``trust.json`` by seed."""
KNOWING = ("moderate", "strong")
"""Verdicts on reward models that know more than averages do."""
FLAT = 0.015
"""A gain whose interval ends below so many standard deviations of the reward is no gain."""
COIN = 0.5
SURE = 0.8
"""Confidence, one-sided, with which a row has to keep `FLOOR` on the test."""
QUICK = 0.5
"""A start that ranks at less than this share of a quick reference is trained too little."""
COVERAGE, SHOWN = "policy/coverage@10", 0.5
"""A policy that shows less than this share of the items that its baseline shows may have won by it."""
DESTROYED = 0.1
"""A placebo whose rewards still correlate more with the true ones, user means taken out, is none."""
SURE_WIDTH = NormalDist().inv_cdf(SURE) / NormalDist().inv_cdf(0.975)
"""Distance of that bound, in half-widths of a 95 % interval."""


@dataclass(frozen=True)
class Finding:
    """A reason. ``sign`` is 1 for shipping, -1 against, 0 where it leaves the question open."""

    sign: int
    text: str
    remedy: str = ""  # what would decide it, where it is open


def knowing(reports: Reports) -> bool:
    """Whether reward models know more than averages, with every seed."""
    return bool(reports) and all(report["verdict"] in KNOWING for report in reports.values())


def judges(reports: Reports) -> Interval | None:
    """Share of pairs of one user's rewards that the judges order right: means over seeds of value and interval."""
    found = [report[report["judged_on"]]["table"]["model"]["pairwise"] for report in reports.values()]
    return Interval(*np.mean(np.array(found, dtype=float), axis=0).tolist()) if found else None


def repeated(met: float | None) -> Iterator[Finding]:
    """Whether the ranking is measured on items that no list shows, as users had met them before."""
    if met is None:
        text = "Nothing tells how many of the test events are of an item that the user had met before."
        yield Finding(0, text, "Run the chain again, which checks the log.")
    elif met > OFTEN:
        text = f"In {met:.0%} of the test events the user had met the item before. They are ranked, but lists"
        remedy = "Set data.log.collapse: true, which makes one event of a user's events on an item."
        yield Finding(0, f"{text} leave such items out, so {ALL} says little of what is served.", remedy)


def start(test: ComparisonTable) -> Iterator[Finding]:
    """Whether the better baseline is worth beating, beside a quick reference."""
    baseline, quick, own = test.better_baseline(ALL), test.roles.quick, test.column(ALL)
    if baseline is not None and own[baseline].value == 0:
        text = f"{baseline} ranks no item of the test events among its first ten, so nothing is there to be kept."
        yield Finding(0, text, "See what recalign check says of the test events, such as items unseen in training.")
        return
    if baseline is None or quick not in own or not own[quick].value > 0:
        return  # `missing` says so
    share = own[baseline].value / own[quick].value
    if not share >= QUICK:
        remedy = "Train the recommender for longer, or look at its curves: a gain over a weak start says little."
        yield Finding(0, f"{baseline} has {share:.0%} of the {ALL} of {quick}, which takes no training.", remedy)


def weak_start(test: ComparisonTable) -> str | None:
    """What is said first of a better baseline that ranks no better than a row that takes no training."""
    baseline, own = test.better_baseline(ALL), test.column(ALL)
    ahead = [name for name in test.roles.free if baseline and name in own and own[name].value >= own[baseline].value]
    if not ahead or own[str(baseline)].value == 0:  # `start` says so
        return None
    best = max(ahead, key=lambda name: own[name].value)
    figures = f"{ALL} {own[str(baseline)].value:.4f} beside {own[best].value:.4f}"
    return (
        f"{baseline} ranks no better than {best}, which takes no training ({figures}): to train it better, or longer, "
        "may gain more than alignment does."
    )


def blind_judges(reports: Reports) -> Iterator[Finding]:
    """Whether the judges may be guessing, or nobody knows."""
    remedy = "Give the judges more users (a smaller data.share_a), or a reward with less noise."
    seen = judges(reports)
    if seen is None or not seen.known:
        text = "Nothing tells whether the judges can order two rewards of one user"
        yield Finding(0, f"{text}: their values are not known to mean anything.", "Keep more validation events a user.")
    elif not seen.low > COIN:
        text = f"The judges order {seen.value:.1%} [{seen.low:.1%}, {seen.high:.1%}] of two rewards of one user right"
        yield Finding(0, f"{text}, which may be chance: their values say nothing.", remedy)


def missing(test: ComparisonTable) -> Iterator[Finding]:
    """Controls of every candidate that were not run."""
    roles = test.roles
    wanted = dict.fromkeys([*roles.baselines, *roles.unrewarded, *roles.free])
    if missing := [name for name in wanted if name not in test.methods]:
        text = f"Controls that were not run: {', '.join(missing)}."
        yield Finding(0, text, f"Add to methods: {', '.join(missing)}.")
    if not math.isfinite(test.unit):
        yield Finding(0, "The spread of the rewards is not known, so no gain can be judged.", "Evaluate again.")


@dataclass(frozen=True)
class Case:
    """A candidate beside everything that it has to be better than.

    Attributes:
        test: figures on the test.
        policy: the candidate.
        reward: trust reports of the training reward model.
        judged: whether the judges can be believed and know more than averages do. If not, they may not see a gain,
            and a value that looks bad speaks against nothing.
        ranked: whether the ranking is of items that lists show. If not, it speaks against nothing.
        widening: of the intervals, for several candidates.
    """

    test: ComparisonTable
    policy: str
    reward: Reports
    judged: bool = True
    ranked: bool = True
    widening: float = 1.0

    def findings(self) -> Iterator[Finding]:
        """All that is known of it."""
        yield from self._reward_model()
        yield from self._retained()
        yield from self._gain()
        for other in self.test.roles.unrewarded:
            yield from self._over(other)
        for free in self.test.roles.free:
            yield from self._beside(free)
        yield from self._placebos()
        yield from self._seeds()
        yield from self._coverage()

    def weakest(self) -> float:
        """The smallest comparison that it has to win, in half-widths of its interval; -inf where one is unknown."""
        roles = self.test.roles
        compared = [
            self.test.gain(self.policy),
            *(self.test.gain(self.policy, other) for other in roles.unrewarded),
            *(self.test.beyond(self.policy, placebo) for placebo in roles.placebos_of(self.policy)),
        ]
        beside = [max(map(_ratio, self._over_free(free))) for free in roles.free if free in self.test.methods]
        return min([*map(_ratio, compared), *beside])

    @property
    def _seen(self) -> str:
        """Ends what speaks against a row where the judges know no more than averages do, or may be guessing."""
        return "" if self.judged else ", as far as these judges see"

    def _over_free(self, free: str) -> tuple[Interval | None, Interval | None]:
        """What it has over a row that takes no training: in ranking, and in value."""
        return self.test.get(self.policy, f"diff_{free}/{ALL}"), self.test.gain(self.policy, free)

    def _reward_model(self) -> Iterator[Finding]:
        """A row stands on the reward model only if it reads it."""
        reads = self.test.get(self.policy, READS_REWARD_MODEL)
        if reads is not None and not reads.value:
            return
        said = [report["verdict"] for report in self.reward.values()]
        if said and all(verdict == "no_signal" for verdict in said):
            yield Finding(-1, f"The reward model, which {self.policy} follows, shows no signal.")
        elif not said or "not_measured" in said:
            text = f"Nothing tells whether the reward model, which {self.policy} follows, knows what a user prefers."
            implied = (report["implication"] for report in self.reward.values() if report["verdict"] == "not_measured")
            yield Finding(0, text, next(implied, "Run `recalign test` on the reward model."))

    def _retained(self) -> Iterator[Finding]:
        kept, baseline = self.test.retained_interval(self.policy), self.test.better_baseline(ALL)
        if baseline and self.test.column(ALL)[baseline].value == 0:
            return  # `start` says so
        if kept is None:
            text = f"The {ALL} of {self.policy} or of its baseline is not known."
            yield Finding(0, text, "Evaluate start and bc as well.")
            return
        share = f"{kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}]"
        text = f"{self.policy} keeps {share} of the better baseline's {ALL} on the test"
        if kept.high < FLOOR:
            remedy = "Ask for more (keep), or give more validation events."
            yield Finding(-self.ranked, f"{text}, less than {FLOOR:.0%}.", remedy)
        elif kept.widened(SURE_WIDTH).low < FLOOR:
            remedy = "More test users narrow the interval; or ask for more (keep)."
            yield Finding(0, f"{text}, which may be less than {FLOOR:.0%}.", remedy)

    def _gain(self) -> Iterator[Finding]:
        gain, baseline = self.test.gain(self.policy), self.test.better_baseline(VALUE)
        if gain is None:
            text = f"The gain of {self.policy} could not be measured."
            yield Finding(0, text, "Evaluate start and bc as well.")
            return
        wide = gain.widened(self.widening)
        if gain.high < FLAT:
            text = f"{self.policy} gains {gain.sd} over {baseline}: nothing worth shipping"
            yield Finding(-self.judged, f"{text}{self._seen}.")
        elif not wide.low > 0:
            text = f"{self.policy} gains {wide.sd} over {baseline}: this may be chance."
            yield Finding(0, text, more_users(wide))
        else:
            yield Finding(1, f"{self.policy} gains {wide.sd} over {baseline}.")

    def _over(self, other: str) -> Iterator[Finding]:
        """Beside a row that reads no reward."""
        more = self.test.gain(self.policy, other)
        if more is None:
            yield from self._unmeasured(other)
            return
        wide = more.widened(self.widening)
        if wide.low > 0:
            yield Finding(1, f"It has {wide.sd} more than {other}, which reads no reward.")
        elif more.high < 0:
            text = f"{other}, which reads no reward, has more: {self.policy} has {more.sd}{self._seen}."
            yield Finding(-self.judged, text)
        else:
            text = f"{other}, which reads no reward, may have as much: {self.policy} has {wide.sd} more."
            yield Finding(0, text, more_users(wide) if more.value > 0 else "")

    def _beside(self, free: str) -> Iterator[Finding]:
        """Beside a row that takes no training: it has to rank better, or to have more value."""
        ranking, value = self._over_free(free)
        if ranking is None or value is None:
            yield from self._unmeasured(free)
            return
        ranking, value = ranking.widened(self.widening), value.widened(self.widening)
        if not ranking.low > 0 and not value.low > 0:
            text = f"{free}, which takes no training, may rank as well and have as much value: {self.policy} has"
            remedy = "Train the recommender for longer, or serve that."
            yield Finding(0, f"{text} {ranking} of {ALL} beside it, and {value.sd}.", remedy)

    def _unmeasured(self, other: str) -> Iterator[Finding]:
        """A row that it could not be compared with; `missing` names those that were not run."""
        if other in self.test.methods:
            yield Finding(0, f"{self.policy} could not be compared with {other}.", "Evaluate both with the same seeds.")

    def _placebos(self) -> Iterator[Finding]:
        placebos = self.test.roles.placebos_of(self.policy)
        if not placebos:
            remedy = "Name a placebo of it (placebos), such as the same method with data.placebo: permuted."
            yield Finding(0, f"{self.policy} has no placebo.", remedy)
        for placebo in placebos:
            flaw, beyond = placebo_flaw(self.test, placebo), self.test.beyond(self.policy, placebo)
            if flaw or beyond is None:
                remedy = f"Add to methods: {placebo}." if placebo not in self.test.methods else "Give it more events."
                yield Finding(0, f"The placebo {placebo} {flaw or 'was not measured'}.", remedy)
            else:
                yield self._beyond(placebo, beyond.widened(self.widening))

    def _beyond(self, placebo: str, beyond: Interval) -> Finding:
        if beyond.low > 0:
            return Finding(1, f"It gains more than {PLACEBO_FACTOR} times what {placebo} does.")
        gain = self.test.gain(placebo)
        known = f" {gain.sd}" if gain else ""
        text = f"{placebo}, which must gain nothing, gains{known}; {self.policy} is not shown to gain more than"
        gains = gain is not None and gain.low > 0
        remedy = "Calibrate the start, or clone it for longer." if gains else more_users(beyond)
        return Finding(0, f"{text} {PLACEBO_FACTOR} times that.", remedy)

    def _seeds(self) -> Iterator[Finding]:
        """Rows that it is compared with on fewer seeds than it has: the others may say otherwise."""
        roles, own = self.test.roles, self.test.shared_seeds(self.policy)
        others = [*roles.baselines, *roles.unrewarded, *roles.free, *roles.placebos_of(self.policy)]
        shared = {other: self.test.shared_seeds(self.policy, other) for other in others if other in self.test.methods}
        if fewer := [f"{other} ({count})" for other, count in shared.items() if count < own]:
            text = f"Run with fewer seeds than the {own} of {self.policy}: {', '.join(fewer)}."
            yield Finding(0, text, "Run every row with the same seeds.")

    def _coverage(self) -> Iterator[Finding]:
        baseline = str(self.test.better_baseline(VALUE))
        now, before = self.test.get(self.policy, COVERAGE), self.test.get(baseline, COVERAGE)
        if now is None or before is None:
            yield Finding(0, f"The coverage of {self.policy} or {baseline} is not known.", "Evaluate again.")
        elif now.value < SHOWN * before.value:
            text = f"{self.policy} shows {now.value:.1%} of the catalogue to anybody, {baseline} {before.value:.1%}"
            yield Finding(0, f"{text}: it may have won by showing everybody the same.", "Ask for more (keep).")


def placebo_flaw(test: ComparisonTable, placebo: str) -> str | None:
    """Why a row cannot serve as a placebo; None if it can."""
    if placebo not in test.methods:
        return "was not run"
    kept = test.get(placebo, CORRELATION)
    if kept is None or not math.isfinite(kept.value):
        return "does not say how much of the rewards it destroyed"
    if abs(kept.value) > DESTROYED:
        return f"keeps a correlation of {kept.value:.2f} with the rewards, too much for a placebo"
    return None


def more_users(gain: Interval) -> str:
    """How many times the users it takes, if the gain is as estimated and intervals shrink with their square root."""
    if gain.value <= 0 or not gain.known:
        return "More users, or three seeds, narrow the interval."
    times = ((gain.value - gain.low) / gain.value) ** 2
    return f"About {math.ceil(times * 10) / 10:g} times as many test users would put a figure like this above 0."


def _ratio(interval: Interval | None) -> float:
    width = interval.value - interval.low if interval else 0.0
    return interval.value / width if interval and width > 0 else -math.inf
