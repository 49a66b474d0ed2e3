"""What a comparison says for and against one candidate, a finding at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.comparison import ALL, HITS, PLACEBO_FACTOR, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.findings import (
    COVERAGE,
    DESTROYED,
    ENDLESS,
    FLAT,
    SHOWN,
    SURE_WIDTH,
    Finding,
    Reports,
    by_losses,
)
from recalign.evaluation.rows import READS_REWARD_MODEL
from recalign.evaluation.selection import FLOOR


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
        for other in self.test.roles.reward_free:
            yield from self._over(other)
        for free in self.test.roles.untrained:
            yield from self._beside(free)
        yield from self._placebos()
        yield from self._seeds()
        yield from self._coverage()

    def weakest(self) -> float:
        """The smallest comparison that it has to win, in half-widths of its interval.

        -inf where one is unknown or a placebo is missing: then it cannot win.
        """
        roles = self.test.roles
        if roles.without_placebo(self.policy):
            return -math.inf
        compared = [
            self.test.gain(self.policy),
            *(self.test.gain(self.policy, other) for other in roles.reward_free),
            *(self.test.beyond(self.policy, placebo) for placebo in roles.placebos_of(self.policy)),
        ]
        beside = [max(map(_ratio, self._over_free(free))) for free in roles.untrained if free in self.test.methods]
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
        silent = [seed for seed, report in self.reward.items() if report["verdict"] == "no_signal"]
        if said and len(silent) == len(said):
            yield Finding(-1, f"The reward model, which {self.policy} follows, shows no signal.")
        elif silent:
            seeds = f"seed{'s' * (len(silent) > 1)} {', '.join(silent)}"
            yield Finding(0, f"The reward model, which {self.policy} follows, shows no signal with {seeds}.")
        elif len(said) < max(self.test.shared_seeds(self.policy), 1) or "not_measured" in said:
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
        text = f"{self.policy} keeps {kept.percent} of the better baseline's {ALL} on the test"
        if kept.high < FLOOR:
            remedy = "Raise keep, or give more validation events."
            yield Finding(-self.ranked, f"{text}, less than {FLOOR:.0%}.", remedy)
        elif min(kept.widened(SURE_WIDTH).low, kept.value - by_losses(self.test.get(str(baseline), HITS))) < FLOOR:
            remedy = "More test users narrow the interval; or raise keep."
            yield Finding(0, f"{text}, which may be less than {FLOOR:.0%}.", remedy)

    def _gain(self) -> Iterator[Finding]:
        gain, baseline = self.test.gain(self.policy), self.test.better_baseline(VALUE)
        if gain is None:
            text = f"The gain of {self.policy} could not be measured."
            yield Finding(0, text, "Evaluate it again, with more users.")
            return
        wide = gain.widened(self.widening)
        if gain.high < FLAT:
            text = f"{self.policy} gains {gain.sd} over {baseline}: nothing worth shipping"
            yield Finding(-self.judged, f"{text}{self._seen}.")
        elif not wide.low > 0:
            text = f"{self.policy} gains {wide.sd} over {baseline}: this may be chance."
            yield Finding(0, text, self._more_users(wide))
        elif gain.value < FLAT:
            text = f"{self.policy} gains {wide.sd} over {baseline}: {FLAT:g} sd or more are worth shipping."
            yield Finding(0, text)
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
            yield Finding(0, text, self._more_users(wide) if more.value > 0 else "")

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
        for part in self.test.roles.without_placebo(self.policy):
            remedy = "Name one (placebos), such as the same method on recalign.posttrain.PermutedPostTrainingData."
            yield Finding(0, f"{part} has no placebo.", remedy)
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
        remedy = "Calibrate the start, or clone it for longer." if gains else self._more_users(beyond)
        return Finding(0, f"{text} {PLACEBO_FACTOR} times that.", remedy)

    def _more_users(self, gain: Interval) -> str:
        """How many times the users it takes, if the gain is as estimated and intervals shrink with their square root.

        With several seeds it is not known: what comes of the seeds stays as wide with more users.
        """
        if gain.value <= 0 or not gain.known or self.test.shared_seeds(self.policy) > 1:
            return "More users, or more seeds, narrow the interval."
        times = ((gain.value - gain.low) / gain.value) ** 2
        if times > ENDLESS:
            return f"It would take more than {ENDLESS} times as many test users to tell: too small to be seen here."
        times = max(math.ceil(times * 10) / 10, 1.1)
        return f"About {times:g} times as many test users would put a figure like this above 0."

    def _seeds(self) -> Iterator[Finding]:
        """Rows that it is compared with on fewer seeds than it has: the others may say otherwise."""
        roles, own = self.test.roles, self.test.shared_seeds(self.policy)
        others = [*roles.baselines, *roles.reward_free, *roles.untrained, *roles.placebos_of(self.policy)]
        shared = {other: self.test.shared_seeds(self.policy, other) for other in others if other in self.test.methods}
        if fewer := [f"{other} ({count})" for other, count in shared.items() if count < own]:
            text = f"Run with fewer seeds than the {own} of {self.policy}: {', '.join(fewer)}."
            yield Finding(0, text, "Run every row with the same seeds.")

    def _coverage(self) -> Iterator[Finding]:
        baseline = str(self.test.better_baseline(VALUE))
        now, before = self.test.get(self.policy, COVERAGE), self.test.get(baseline, COVERAGE)
        if now is None or before is None or not all(map(math.isfinite, (now.value, before.value))):
            yield Finding(0, f"The coverage of {self.policy} or {baseline} is not known.", "Evaluate again.")
        elif not now.value >= SHOWN * before.value > 0:
            text = f"{self.policy} shows {now.value:.1%} of the catalogue to anybody, {baseline} {before.value:.1%}"
            yield Finding(0, f"{text}: it may have won by showing everybody the same.", "Raise keep.")


def placebo_flaw(test: ComparisonTable, placebo: str) -> str | None:
    """Why a row cannot serve as a placebo; None if it can."""
    if placebo not in test.methods:
        return "was not run"
    kept = test.get(placebo, CORRELATION)
    each = [abs(one) for one in (*test.of_seeds(placebo, CORRELATION), *(kept[:1] if kept else ()))]
    if kept is None or not all(map(math.isfinite, each)):
        return "does not say how much of the rewards it destroyed"
    if max(each) > DESTROYED:
        return f"keeps a correlation of {max(each):.3f} with the rewards, too much for a placebo"
    return None


def _ratio(interval: Interval | None) -> float:
    width = interval.value - interval.low if interval else 0.0
    return interval.value / width if interval and width > 0 else -math.inf
