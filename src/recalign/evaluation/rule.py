"""The tests that a row has to pass before it is shipped: `TESTS`, bounds on figures of the test split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

from recalign.data.sequences.audit import MIN_GAIN_SD
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, PLACEBO_FACTOR
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.findings import MAX_USER_FACTOR, Finding, Outcome
from recalign.evaluation.roles import NON_LEARNED_BASELINES, REWARD_FREE
from recalign.recommender.interpolation import MIN_NDCG_RETAINED, RETENTION_CONFIDENCE

Status = Literal["pass", "open", "fail"]
CONFIDENCE = 0.95
"""Confidence of a one-sided lower bound, which has to exceed its limit; Holm raises it if several rows are tried."""


class Case(NamedTuple):
    """A row and the table of the test split."""

    test: ComparisonTable
    row: str


class Estimated(NamedTuple):
    """An estimate of a row against another, its 95 % interval (None: not measured), and a template for its figures."""

    other: str
    interval: Interval | None
    template: str = "{:+.3f} sd"


Estimates = Iterator[Estimated]


def gain(case: Case) -> Estimates:
    """Value over the better baseline's, in sd."""
    yield Estimated(str(case.test.better_baseline(JUDGE_VALUE)), case.test.gain(case.row))


def over_reward_free(case: Case) -> Estimates:
    """Value over that of each row that reads no reward, in sd."""
    for other in _ran(case, REWARD_FREE):
        yield Estimated(other, case.test.gain(case.row, other))


def over_placebos(case: Case) -> Estimates:
    """Gain less `PLACEBO_FACTOR` times that of each placebo, in sd."""
    for placebo in _ran(case, case.test.roles.placebos_of(case.row)):
        yield Estimated(placebo, case.test.gain_over_placebo(case.row, placebo))


def over_untrained(case: Case) -> Estimates:
    """Value (sd) or NDCG@10 over each untrained row's: the difference that is more standard errors above 0."""
    for other in _ran(case, NON_LEARNED_BASELINES):
        value, ranking = case.test.gain(case.row, other), case.test.get(case.row, f"diff_{other}/{NDCG_ALL}")
        if value is None or ranking is None or not ranking.known:
            yield Estimated(other, None)
        elif value.errors_above(0) >= ranking.errors_above(0):
            yield Estimated(other, value)
        else:
            yield Estimated(other, ranking, "{:+.4f} " + NDCG_ALL)


def retained(case: Case) -> Estimates:
    """Share of the better baseline's NDCG@10; no estimate if that is 0, which `findings.start` reports."""
    if (baseline := case.test.better_baseline(ALL_USERS)) and case.test.column(ALL_USERS)[baseline].value > 0:
        yield Estimated(baseline, case.test.retained_interval(case.row), "{:.1%}")


def _ran(case: Case, rows: tuple[str, ...] | list[str]) -> list[str]:
    """The rows that were run; `findings` names the others."""
    return [row for row in rows if row in case.test.methods]


@dataclass(frozen=True)
class Test:
    """A test of a row: the lower bound of an estimate has to lie above a limit.

    Attributes:
        name: what is estimated.
        claim: a sentence with ``{row}``, ``{value}`` and ``{other}``.
        estimate: yields the estimates, one per row that it is compared with.
        limit: the lower bound has to exceed it.
        confidence: of the lower bound, one-sided.
        min_estimate: the smallest estimate that passes.
        of_value: whether judges measure it: then Holm raises its confidence, and only judges that know more than
            averages can refute by it.
        refutes: whether a 95 % interval below limit or min_estimate is a *fail*; else it is *open*.
        remedy: what would decide it; empty: more users.
    """

    name: str
    claim: str
    estimate: Callable[[Case], Estimates]
    limit: float = 0.0
    confidence: float = CONFIDENCE
    min_estimate: float = -math.inf
    of_value: bool = True
    refutes: bool = False
    remedy: str = ""


GAIN = Test("gain", "Gain of {row} over {other}: {value}", gain, min_estimate=MIN_GAIN_SD, refutes=True)
RETAINED = Test(
    "NDCG retained",
    f"Share that {{row}} keeps of the {ALL_USERS} of {{other}}: {{value}}",
    retained,
    MIN_NDCG_RETAINED,
    RETENTION_CONFIDENCE,
    of_value=False,
    refutes=True,
    remedy="More test users narrow the interval; or raise keep.",
)
TESTS = (
    GAIN,
    Test(
        "more than without rewards",
        "Gain of {row} over {other}, which reads no reward: {value}",
        over_reward_free,
        refutes=True,
    ),
    Test(
        "more than its placebos",
        f"Gain of {{row}} less {PLACEBO_FACTOR} times that of {{other}}, its placebo: {{value}}",
        over_placebos,
    ),
    Test(
        "better than without training",
        "Gain of {row} over {other}, which takes no training: {value}",
        over_untrained,
        remedy="Train the recommender for longer, or serve that.",
    ),
    RETAINED,
)
"""All of them have to be passed."""


@dataclass(frozen=True)
class TestResult:
    """The result of a row in a test.

    Attributes:
        confidence: of the lower bound, one-sided.
        status: *pass*; *fail* speaks against the row; *open* leaves it undecided.
        several_seeds: whether the interval is over seeds too.
    """

    test: Test
    row: str
    estimated: Estimated
    confidence: float
    status: Status
    several_seeds: bool

    @property
    def bound(self) -> float:
        """The estimate's lower bound; nan where it was not measured."""
        return self.estimated.interval.lower(self.confidence) if self.estimated.interval else math.nan

    def detectable(self, power: float) -> float:
        """How far above the limit the truth has to lie to pass with probability ``power``; nan if not measured."""
        if self.estimated.interval is None:
            return math.nan
        error, quantile = self.estimated.interval.error, NormalDist().inv_cdf
        required = max(error * quantile(self.confidence), self.test.min_estimate - self.test.limit)
        return required + error * quantile(power)

    def finding(self) -> Finding:
        """The result as a sentence, with what would decide it."""
        other, interval, template = self.estimated
        if interval is None:
            text = f"{self.test.name} of {self.row} beside {other}: not measured."
            return Finding(text, "Evaluate both again, with the same seeds.")
        claim = self.test.claim.format(row=self.row, value=template.format(interval.value), other=other)
        low, high, limit = (template.format(number) for number in (self.bound, interval.high, self._limit(interval)))
        bound = f"at least {low} with a confidence of {self.confidence:.1%}"
        if self.status == "pass":
            return Finding(f"{claim}, {bound}.", outcome=Outcome.SHIP)
        if self.status == "fail":
            text = f"{claim}, {high} at most: more than {limit} is needed."
            return Finding(text, self.test.remedy, Outcome.DO_NOT_SHIP)
        return Finding(f"{claim}, {bound}: more than {limit} is needed.", self._remedy(interval))

    def _limit(self, interval: Interval) -> float:
        end = interval.high if self.status == "fail" else self.bound
        return self.test.limit if end <= self.test.limit else self.test.min_estimate

    def _remedy(self, interval: Interval) -> str:
        """The test's remedy, else how many times the users it takes, if errors shrink with their square root.

        Empty with several seeds, whose spread more users do not narrow, and for an estimate too small to ship.
        """
        above = interval.value - self.test.limit
        if self.test.remedy or self.several_seeds or above <= 0 or interval.value < MIN_GAIN_SD:
            return self.test.remedy
        times = ((interval.value - self.bound) / above) ** 2
        if times > MAX_USER_FACTOR:
            return f"It would take more than {MAX_USER_FACTOR} times as many test users to tell."
        return f"About {max(math.ceil(times * 10) / 10, 1.1):g} times as many test users would tell."


def run_tests(case: Case, confidence: float, judged: bool, ranked: bool) -> Iterator[TestResult]:
    """A row's result in each test.

    Args:
        confidence: of tests of value, by Holm.
        judged: whether judges know more than averages; else they refute nothing.
        ranked: whether the ranking is of items that lists show; else it refutes nothing.
    """
    several = case.test.shared_seeds(case.row) > 1
    for test in TESTS:
        confidence_of_test = confidence if test.of_value else test.confidence
        refutes = test.refutes and (judged if test.of_value else ranked)
        for estimated in test.estimate(case):
            status: Status = "open"
            if (interval := estimated.interval) is not None:
                passed = interval.lower(confidence_of_test) > test.limit and interval.value >= test.min_estimate
                refuted = refutes and interval.high < max(test.limit, test.min_estimate)
                status = "pass" if passed else "fail" if refuted else "open"
            yield TestResult(test, case.row, estimated, confidence_of_test, status, several)


def holm_confidences(weakest: list[float]) -> list[float]:
    """The one-sided confidence that Holm (1979) asks of each of several rows, by the normal distribution.

    Args:
        weakest: for each row, by how many standard errors the estimate of its weakest value test exceeds the limit.

    Returns:
        1 - .05 / m for the strongest of m, 1 - .05 / (m - 1) for the next, and so on until one does not pass, whose
        confidence the others share.
    """
    confidences, hypotheses, passing = [CONFIDENCE] * len(weakest), len(weakest), True
    for row in sorted(range(len(weakest)), key=lambda row: -weakest[row]):
        confidences[row] = 1 - (1 - CONFIDENCE) / hypotheses
        passing = passing and weakest[row] > NormalDist().inv_cdf(confidences[row])
        hypotheses -= passing
    return confidences


def weakest(case: Case) -> float:
    """By how many standard errors a row passes its weakest test of value that Holm corrects; -inf: it cannot pass."""
    if case.test.roles.without_placebo(case.row):
        return -math.inf
    intervals = [interval for test in TESTS if test.of_value for _, interval, _ in test.estimate(case)]
    return min(interval.errors_above(0) if interval else -math.inf for interval in intervals)
