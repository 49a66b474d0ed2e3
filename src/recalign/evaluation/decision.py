"""Whether to ship a policy, and which: `CONDITIONS`, and for each candidate the tests of `rule.TESTS`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from recalign.data.events.audit import OFTEN
from recalign.data.events.division import LEAST
from recalign.evaluation import findings
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.findings import Finding, Outcome, Reports
from recalign.evaluation.roles import START, UNTRAINED_RANKINGS
from recalign.evaluation.rule import GAIN, Case, TestResult, holm_confidences, run_tests, weakest
from recalign.evaluation.selection import SELECT
from recalign.recommender.interpolation import MIN_NDCG_RETAINED

MAX_CANDIDATES = 3  # that are tested
MAX_REMEDIES = 3  # that are named
NUMBERS = ("value", "low", "high", "bound", "confidence", "limit")
FRAME = {name: pl.Float64 if name in NUMBERS else pl.String for name in ("row", "test", "other", *NUMBERS, "outcome")}
CONDITIONS = (
    f"On validation, {START} ranks at least as well as {' and '.join(UNTRAINED_RANKINGS)} ({NDCG_ALL}), which take no "
    "training; on the test it is not reliably below them. Else train a better start first, whatever the tests say.",
    f"A candidate keeps {MIN_NDCG_RETAINED:.0%} of the better baseline's {NDCG_ALL} on validation. Baselines and "
    "placebos are no candidates, nor are policies that use no reward or show everybody the same.",
    f"At most {MAX_CANDIDATES} candidates are tried: first those with a placebo, by their value under the selection "
    "judges. The first that passes every test is the answer.",
    "Controls and placebos were run with as many seeds as the candidate. A placebo's rewards correlate with the true "
    f"ones by {findings.MAX_PLACEBO_CORRELATION:g} at most. A reranked method has its own placebos, or those of both "
    "its parts.",
    f"Of two rewards of one user, the judges reliably tell the higher one more often than a coin "
    f"({findings.CHANCE:.0%}). Only {' or '.join(findings.INFORMATIVE)} judges refute a gain; others can miss it.",
    "If a candidate uses the reward model, that has a signal. Without one in any seed, it refutes the candidate.",
    f"The better baseline ranks at least {findings.MIN_HITS} test events among its first ten. At least {LEAST} users "
    f"were evaluated. At most {OFTEN:.0%} of the test events are of items met before. recalign check does not say *do "
    "not train*.",
    f"At most {OFTEN:.0%} of the test events happened at the time of the user's event before; if more did, data.ties "
    "in the log's YAML says what they are.",
)
"""What has to hold besides the tests, as the report states it."""


@dataclass(frozen=True)
class Candidate:
    """A row that might be shipped: its test results, and findings on its conditions."""

    policy: str
    results: list[TestResult]
    conditions: list[Finding]
    seeds: int = 1  # number of seeds that it was run with

    @property
    def findings(self) -> list[Finding]:
        """All findings about it."""
        return [*self.conditions, *(result.finding() for result in self.results)]

    @property
    def outcome(self) -> Outcome:
        """The lowest outcome among its findings."""
        return min((finding.outcome for finding in self.findings), default=Outcome.OPEN)

    @property
    def first_reason(self) -> str:
        """The first finding that led to its outcome."""
        return next(finding.text for finding in self.findings if finding.outcome is self.outcome)

    @property
    def gains(self) -> bool:
        """Whether it passes the test of its gain in value."""
        return any(result.test is GAIN and result.status == "pass" for result in self.results)


@dataclass(frozen=True)
class Decision:
    """The decision for a comparison, with the findings behind it.

    Attributes:
        candidates: the rows that were tested, by value on validation, rows without a placebo last.
        general: findings about the whole comparison, none in favour of shipping; one is against it if validation shows
            that no row retains enough NDCG.
        caveats: reservations about a *ship*; stated first, whatever the outcome.
        note: a remark stated after the caveats, or None.
        untested: why rows were not tested, by row: the highlighted row, or validation's best ones without a placebo.
        weak_start: why a better start has to be trained first; nothing is decided before.
        unresolved_ties: why tied events (data.ties) leave the decision open, whatever else was found.
        highlighted: the row that the chain's YAML highlights; among open candidates this one is selected.
    """

    candidates: list[Candidate]
    general: list[Finding]
    caveats: list[str] = field(default_factory=list)
    note: str | None = None
    untested: dict[str, str] = field(default_factory=dict)
    weak_start: Finding | None = None
    unresolved_ties: Finding | None = None
    highlighted: str | None = None

    @property
    def caveat_text(self) -> str | None:
        """The caveats and the note in one text, or None."""
        return " ".join(filter(None, [*self.caveats, self.note])) or None

    def frame(self) -> pl.DataFrame:
        """The tests of all candidates, a row each.

        Returns:
            Columns ``row, test, other, value, low, high`` (the 95 % interval), ``bound, confidence`` (one-sided),
            ``limit`` and ``outcome`` (pass, open or fail).
        """
        rows = [
            (
                *(candidate.policy, result.test.name, result.estimated.other),
                *(result.estimated.interval or (math.nan, math.nan, math.nan)),
                *(result.bound, result.confidence, result.test.limit, result.status),
            )
            for candidate in self.candidates
            for result in candidate.results
        ]
        return pl.DataFrame(rows, schema=FRAME, orient="row")

    @property
    def selected(self) -> Candidate | None:
        """The candidate that the decision is about: the first of those with the highest outcome.

        If that is *not decided*, the highlighted row goes first. None if no row was tested.
        """
        best = Outcome.OPEN if self.general or self.weak_start or self.unresolved_ties else Outcome.SHIP

        def order(candidate: Candidate) -> tuple[Outcome, bool]:
            outcome = min(candidate.outcome, best)
            return outcome, outcome is Outcome.OPEN and candidate.policy == self.highlighted

        return max(self.candidates, key=order, default=None)

    @property
    def policy(self) -> str | None:
        """The row that the decision is about."""
        return self.selected.policy if self.selected else None

    @property
    def outcome(self) -> Outcome:
        """The selected candidate's outcome; at most *not decided* for a weak start, ties or general findings."""
        if self.weak_start or self.unresolved_ties:
            return Outcome.OPEN
        if self.selected is None:
            return min((finding.outcome for finding in self.general), default=Outcome.OPEN)
        return min(self.selected.outcome, Outcome.OPEN) if self.general else self.selected.outcome

    @property
    def sentence(self) -> str:
        """The decision in a few words, with that on the highlighted row if the decision is open."""
        if self.weak_start:
            return "Not decided: train a better start first"
        text = self.outcome.text.capitalize()
        if self.policy is None:
            return text
        of_highlighted = next((outcome for row, outcome, _ in self.others if row == self.highlighted), None)
        if self.outcome is not Outcome.OPEN:
            return f"{text} {self.policy}"
        if of_highlighted is None:
            return f"{text}: {self.policy}"
        if of_highlighted is Outcome.DO_NOT_SHIP:
            return f"Do not ship {self.highlighted}; not decided: {self.policy}"
        return f"Not decided for {self.highlighted} or for {self.policy}"

    @property
    def others(self) -> list[tuple[str, Outcome, str]]:
        """The other candidates: row, outcome, and the first reason."""
        tested = [(row.policy, row.outcome, row.first_reason) for row in self.candidates if row is not self.selected]
        return [*tested, *((row, Outcome.OPEN, reason) for row, reason in self.untested.items())]

    @property
    def findings(self) -> list[Finding]:
        """All findings: on a weak start, on ties, on the whole comparison, on the candidate."""
        gates = [gate for gate in (self.weak_start, self.unresolved_ties) if gate]
        return [*gates, *self.general, *(self.selected.findings if self.selected else ())]

    @property
    def reasons(self) -> list[str]:
        """The findings that led to the outcome. Why the highlighted row is no answer comes first."""
        reasons = [finding.text for finding in self.findings if finding.outcome is self.outcome]
        if self.outcome is Outcome.OPEN:
            reasons = [reason for row, _, reason in self.others if row == self.highlighted] + reasons
        return reasons

    @property
    def next_steps(self) -> list[str]:
        """What to do next: the first few remedies; the others may not be needed then."""
        steps = list(dict.fromkeys(finding.remedy for finding in self.findings if finding.remedy))[:MAX_REMEDIES]
        if self.selected and self.selected.seeds == 1:
            steps.append("Run three seeds: intervals of one seed are over users alone, and another may differ.")
        return steps


def decide(
    test: ComparisonTable, validation: ComparisonTable, trust: Mapping[str, Reports], check: Mapping[str, Any]
) -> Decision | None:
    """Decide by `CONDITIONS` and `rule.TESTS`; None if no row is a candidate, as with baselines alone.

    Args:
        test, validation: the comparison's splits.
        trust: ``trust.json`` by stage and seed, of ``reward`` and ``judge_report``.
        check: what `recalign check` says of the log (``check.json``); empty if unknown.
    """
    if not test.roles.candidates(test.methods):
        return None
    unknown = list(findings.unmeasured(test))
    if not test.better_baseline(JUDGE_VALUE) or not 0 < test.unit < math.inf:
        return Decision([], unknown)
    judges = trust.get("judge_report", {})
    guessing, repeated = list(findings.uninformative_judges(judges, len(test.seeds))), list(findings.repeated(check))
    general = [*findings.log(test, check), *repeated, *findings.start(test), *findings.few_hits(test), *guessing]
    general += unknown
    ranked = candidates(validation)
    tested = sorted(ranked, key=lambda row: bool(test.roles.without_placebo(row)))[:MAX_CANDIDATES]
    if not tested:
        finding = no_candidate(validation)
        general.insert(0, replace(finding, outcome=Outcome.OPEN) if repeated else finding)
    cases = [Case(test, row) for row in tested]
    confidences = holm_confidences([weakest(case) for case in cases])
    informative = not guessing and findings.informative(judges)
    weak_start, caveats = findings.weak_start(test, validation), []
    if not weak_start and (caveat := findings.no_better_than_untrained(test)):
        caveats.append(caveat)
    ties = findings.tied_events(check)
    if ties and ties.outcome is Outcome.SHIP:
        caveats.append(ties.text)
        ties = None
    decided = []
    for case, confidence in zip(cases, confidences, strict=True):
        results = list(run_tests(case, confidence, judged=informative, ranked=not repeated))
        conditions = [*findings.reward_model(test, case.row, trust.get("reward", {}))]
        conditions += [*findings.placebos(test, case.row), *findings.fewer_seeds(test, case.row)]
        decided.append(Candidate(case.row, results, conditions, test.shared_seeds(case.row)))
    untested = why_untested(validation, ranked, tested)
    decision = Decision(decided, general, caveats, None, untested, weak_start, ties, test.roles.highlight)
    return replace(decision, note=findings.within_requests(test, decision.policy))


def why_untested(validation: ComparisonTable, ranked: list[str], tested: list[str]) -> dict[str, str]:
    """Why the highlighted row, or one of validation's best, is not tested, by row."""
    reasons = {row: f"{row} has no placebo." for row in ranked[:MAX_CANDIDATES] if row not in tested}
    highlighted = validation.roles.highlight
    if highlighted in ranked and highlighted not in (*tested, *reasons):
        reasons[highlighted] = f"{highlighted} is worth less than {len(tested)} others on validation."
    elif highlighted and tested and validation.retained(highlighted) < MIN_NDCG_RETAINED:
        reasons[highlighted] = f"{highlighted} keeps less than {MIN_NDCG_RETAINED:.0%} of the ranking on validation."
    return reasons


def candidates(validation: ComparisonTable) -> list[str]:
    """The rows that retain enough NDCG on validation, sorted by falling value under the selection judges."""
    values = {name: cell.value for name, cell in validation.column(SELECT).items() if math.isfinite(cell.value)}
    enough = [name for name in validation.roles.candidates(values) if validation.retained(name) >= MIN_NDCG_RETAINED]
    return sorted(enough, key=lambda name: -values[name])


def no_candidate(validation: ComparisonTable) -> Finding:
    """Why there is no candidate: none retains enough NDCG on validation, or figures are missing."""
    rows = validation.roles.candidates(validation.methods)
    if not rows or not all(validation.retained(row) < MIN_NDCG_RETAINED for row in rows):
        return Finding("What the methods keep and are worth on validation is not known.", "Evaluate again.")
    of_baseline = f"of the ranking of {validation.better_baseline(NDCG_ALL)} ({NDCG_ALL}) on validation"
    text = f"No method keeps {MIN_NDCG_RETAINED:.0%} {of_baseline}"
    if few := next(findings.few_hits(validation), None):
        return replace(few, text=f"{text}, and {few.text}")
    upper = {row: kept.high if (kept := validation.retained_interval(row)) else math.inf for row in rows}
    best = max(upper, key=lambda row: upper[row])
    if upper[best] < MIN_NDCG_RETAINED:
        return Finding(f"{text}.", "Take smaller steps (model.lr), or raise keep.", Outcome.DO_NOT_SHIP)
    share = validation.retained_interval(best)
    known = f"{best} keeps {share.percent}" if share else f"what {best} keeps is not known"
    return Finding(f"{text}, but one may: {known}.", "Add users or validation events (data.split), or raise keep.")
