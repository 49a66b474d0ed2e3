"""What a comparison says for and against one candidate, a check at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.comparison import ALL, HITS, PLACEBO_FACTOR, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.findings import (
    COVERAGE,
    MAX_PLACEBO_CORRELATION,
    MAX_USER_FACTOR,
    MIN_COVERAGE,
    MIN_GAIN_SD,
    RETENTION_Z,
    Finding,
    Reports,
)
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.evaluation.roles import COUNTED_ROWS, REWARD_FREE
from recalign.recommender.interpolation import MIN_NDCG_RETAINED


@dataclass(frozen=True)
class CandidateChecks:
    """Checks of one candidate against the baselines, controls and placebos that it has to beat."""

    test: ComparisonTable  # figures on the test
    policy: str  # the candidate
    reward: Reports  # of the training reward model
    judged: bool = True  # whether judges can be believed and know more than averages; else low value leaves it open
    ranked: bool = True  # whether the ranking is of items that lists show; else a low ranking leaves it open
    interval_factor: float = 1.0  # by which intervals are widened, for several candidates

    def findings(self) -> Iterator[Finding]:
        """All findings about the candidate."""
        yield from self._reward_model()
        yield from self._retained()
        yield from self._gain()
        for other in (*REWARD_FREE, *COUNTED_ROWS):
            value, ranking = self.test.gain(self.policy, other), self.test.get(self.policy, f"diff_{other}/{ALL}")
            if value is not None and other in REWARD_FREE:
                yield self._over_reward_free(other, value)
            elif value is not None and ranking is not None:
                yield from self._over_counted(other, value, ranking)
            elif other in self.test.methods:  # `findings.unmeasured` names those that were not run
                unknown = f"{self.policy} could not be compared with {other}."
                yield Finding(0, unknown, "Evaluate both with the same seeds.")
        for part in self.test.roles.without_placebo(self.policy):
            remedy = "Name one (placebos), such as the same method on recalign.posttrain.PermutedPostTrainingData."
            yield Finding(0, f"{part} has no placebo.", remedy)
        yield from map(self._over_placebo, self.test.roles.placebos_of(self.policy))
        yield from self._seeds()
        yield from self._coverage()

    def weakest(self) -> float:
        """The smallest comparison that it has to win, in half-widths of its interval.

        -inf where one is unknown or a placebo is missing: then it cannot win.
        """
        test, roles, policy = self.test, self.test.roles, self.policy
        if roles.without_placebo(policy):
            return -math.inf
        compared = [test.gain(policy), *(test.gain(policy, other) for other in REWARD_FREE)]
        compared += [test.gain_over_placebo(policy, placebo) for placebo in roles.placebos_of(policy)]
        either = [
            max(_in_half_widths(test.get(policy, f"diff_{other}/{ALL}")), _in_half_widths(test.gain(policy, other)))
            for other in COUNTED_ROWS
            if other in test.methods
        ]
        return min([*map(_in_half_widths, compared), *either])

    def _reward_model(self) -> Iterator[Finding]:
        """A row stands on the reward model only if it reads it."""
        reads = self.test.get(self.policy, READS_REWARD_MODEL)
        if reads is not None and not reads.value:
            return
        verdicts = {seed: report["verdict"] for seed, report in self.reward.items()}
        silent = [seed for seed, verdict in verdicts.items() if verdict == "no_signal"]
        subject = f"The reward model, which {self.policy} follows, shows no signal"
        if silent and len(silent) == len(verdicts):
            yield Finding(-1, f"{subject}.")
        elif silent:
            yield Finding(0, f"{subject} with seed{'s' * (len(silent) > 1)} {', '.join(silent)}.")
        elif len(verdicts) < max(self.test.shared_seeds(self.policy), 1) or "not_measured" in verdicts.values():
            text = f"Nothing tells whether the reward model, which {self.policy} follows, knows what a user prefers."
            implied = (report["implication"] for report in self.reward.values() if report["verdict"] == "not_measured")
            yield Finding(0, text, next(implied, "Run `recalign test` on the reward model."))

    def _retained(self) -> Iterator[Finding]:
        """It needs the ranking. The interval is drawn from the hits that were lost, and too narrow where these are few.

        So its bound is at least as far away as that of a row that retains `MIN_NDCG_RETAINED` and only loses hits, by
        the binomial law.
        """
        kept, baseline = self.test.retained_interval(self.policy), self.test.better_baseline(ALL)
        if baseline and self.test.column(ALL)[baseline].value == 0:
            return  # `findings.start` says so
        if kept is None:
            unknown = f"The {ALL} of {self.policy} or of its baseline is not known."
            yield Finding(0, unknown, "Evaluate start and bc as well.")
            return
        hits = self.test.get(str(baseline), HITS)
        few = RETENTION_Z * math.sqrt((1 - MIN_NDCG_RETAINED) / hits.value) if hits and hits.value > 0 else 0.0
        low = min(kept.widened(RETENTION_Z / NormalDist().inv_cdf(0.975)).low, kept.value - few)
        text = f"{self.policy} keeps {kept.percent} of the better baseline's {ALL} on the test"
        less = f"less than {MIN_NDCG_RETAINED:.0%}."
        if kept.high < MIN_NDCG_RETAINED:
            yield Finding(-self.ranked, f"{text}, {less}", "Raise keep, or give more validation events.")
        elif low < MIN_NDCG_RETAINED:
            yield Finding(0, f"{text}, which may be {less}", "More test users narrow the interval; or raise keep.")

    def _gain(self) -> Iterator[Finding]:
        gain, baseline = self.test.gain(self.policy), self.test.better_baseline(VALUE)
        if gain is None:
            yield Finding(0, f"The gain of {self.policy} could not be measured.", "Evaluate it again, with more users.")
            return
        wide = gain.widened(self.interval_factor)
        text = f"{self.policy} gains {wide.sd} over {baseline}"
        if gain.high < MIN_GAIN_SD:
            yield self._against(f"{self.policy} gains {gain.sd} over {baseline}: nothing worth shipping")
        elif not wide.low > 0:
            yield Finding(0, f"{text}: this may be chance.", self._more_users(wide))
        elif gain.value < MIN_GAIN_SD:
            yield Finding(0, f"{text}: {MIN_GAIN_SD:g} sd or more are worth shipping.")
        else:
            yield Finding(1, f"{text}.")

    def _over_reward_free(self, other: str, value: Interval) -> Finding:
        """It needs more value than a row without rewards."""
        wide, subject = value.widened(self.interval_factor), f"{other}, which reads no reward,"
        if wide.low > 0:
            return Finding(1, f"It has {wide.sd} more than {other}, which reads no reward.")
        if value.high < 0:
            return self._against(f"{subject} has more: {self.policy} has {value.sd}")
        remedy = self._more_users(wide) if value.value > 0 else ""
        return Finding(0, f"{subject} may have as much: {self.policy} has {wide.sd} more.", remedy)

    def _over_counted(self, other: str, value: Interval, ranking: Interval) -> Iterator[Finding]:
        """It needs a better ranking or more value than a row that takes no training."""
        ranking, value = ranking.widened(self.interval_factor), value.widened(self.interval_factor)
        if not ranking.low > 0 and not value.low > 0:
            text = f"{other}, which takes no training, may rank as well and have as much value: {self.policy} has"
            remedy = "Train the recommender for longer, or serve that."
            yield Finding(0, f"{text} {ranking} of {ALL} beside it, and {value.sd}.", remedy)

    def _over_placebo(self, placebo: str) -> Finding:
        """It needs more than `PLACEBO_FACTOR` times the gain of each of its placebos."""
        flaw, more = placebo_flaw(self.test, placebo), self.test.gain_over_placebo(self.policy, placebo)
        if flaw or more is None:
            remedy = f"Add to methods: {placebo}." if placebo not in self.test.methods else "Give it more events."
            return Finding(0, f"The placebo {placebo} {flaw or 'was not measured'}.", remedy)
        wide = more.widened(self.interval_factor)
        if wide.low > 0:
            return Finding(1, f"It gains more than {PLACEBO_FACTOR} times what {placebo} does.")
        gain = self.test.gain(placebo)
        text = f"{placebo}, which must gain nothing, gains{f' {gain.sd}' if gain else ''}; {self.policy} is not"
        remedy = "Calibrate the start, or clone it for longer." if gain and gain.low > 0 else self._more_users(wide)
        return Finding(0, f"{text} shown to gain more than {PLACEBO_FACTOR} times that.", remedy)

    def _against(self, text: str) -> Finding:
        """It speaks against the row, but for judges that know no more than averages do, or may be guessing."""
        return Finding(-self.judged, f"{text}{'' if self.judged else ', as far as these judges see'}.")

    def _more_users(self, gain: Interval) -> str:
        """How many times the users it takes, if the gain is as estimated and intervals shrink with their square root.

        With several seeds it is not known: what comes of the seeds stays as wide with more users.
        """
        if gain.value <= 0 or not gain.known or self.test.shared_seeds(self.policy) > 1:
            return "More users, or more seeds, narrow the interval."
        times = ((gain.value - gain.low) / gain.value) ** 2
        many = "times as many test users"
        if times > MAX_USER_FACTOR:
            return f"It would take more than {MAX_USER_FACTOR} {many} to tell: too small to be seen here."
        return f"About {max(math.ceil(times * 10) / 10, 1.1):g} {many} would put a figure like this above 0."

    def _seeds(self) -> Iterator[Finding]:
        """Rows that it is compared with on fewer seeds than it has: the others may say otherwise."""
        roles, own = self.test.roles, self.test.shared_seeds(self.policy)
        others = [*roles.baselines, *REWARD_FREE, *COUNTED_ROWS, *roles.placebos_of(self.policy)]
        shared = {other: self.test.shared_seeds(self.policy, other) for other in others if other in self.test.methods}
        if fewer := [f"{other} ({count})" for other, count in shared.items() if count < own]:
            text = f"Run with fewer seeds than the {own} of {self.policy}: {', '.join(fewer)}."
            yield Finding(0, text, "Run every row with the same seeds.")

    def _coverage(self) -> Iterator[Finding]:
        baseline = str(self.test.better_baseline(VALUE))
        now, before = self.test.get(self.policy, COVERAGE), self.test.get(baseline, COVERAGE)
        if now is None or before is None or not all(map(math.isfinite, (now.value, before.value))):
            yield Finding(0, f"The coverage of {self.policy} or {baseline} is not known.", "Evaluate again.")
        elif not now.value >= MIN_COVERAGE * before.value > 0:
            text = f"{self.policy} shows {now.value:.1%} of the catalogue to anybody, {baseline} {before.value:.1%}"
            yield Finding(0, f"{text}: it may have won by showing everybody the same.", "Raise keep.")


def placebo_flaw(test: ComparisonTable, placebo: str) -> str | None:
    """Why a row cannot serve as a placebo; None if it can."""
    if placebo not in test.methods:
        return "was not run"
    mean = test.get(placebo, CORRELATION)
    left = [abs(value) for value in (*test.of_seeds(placebo, CORRELATION), *(mean[:1] if mean else ()))]
    if mean is None or not all(map(math.isfinite, left)):
        return "does not say how much of the rewards it destroyed"
    if max(left) > MAX_PLACEBO_CORRELATION:
        return f"keeps a correlation of {max(left):.3f} with the rewards, too much for a placebo"
    return None


def _in_half_widths(interval: Interval | None) -> float:
    width = interval.value - interval.low if interval else 0.0
    return interval.value / width if interval and width > 0 else -math.inf
