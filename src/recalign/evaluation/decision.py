"""Whether to ship a policy, and which: `CONDITIONS`, and for each candidate the tests of `rule.TESTS`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import polars as pl

from recalign.data.events.audit import OFTEN
from recalign.data.events.division import LEAST
from recalign.evaluation import findings
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.findings import Finding, Reports
from recalign.evaluation.roles import START, UNTRAINED_RANKINGS
from recalign.evaluation.rule import GAIN, Case, Verdict, holm_confidences, verdicts, weakest
from recalign.evaluation.selection import SELECT
from recalign.recommender.interpolation import MIN_NDCG_RETAINED

Word = Literal["ship", "do not ship", "not decided"]
SIGNS: dict[Word, int] = {"ship": 1, "not decided": 0, "do not ship": -1}
MAX_CANDIDATES, MAX_REMEDIES = 3, 3
"""The most candidates that are tried, and remedies that are named."""
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
    """A row that might be shipped, its verdicts in the tests, and findings on its conditions."""

    policy: str
    verdicts: list[Verdict]
    conditions: list[Finding]
    seeds: int = 1  # that it was run with

    @property
    def findings(self) -> list[Finding]:
        """All findings about it."""
        return [*self.conditions, *(verdict.finding() for verdict in self.verdicts)]

    @property
    def sign(self) -> int:
        """Sign of the worst finding: -1 if any is against shipping, else 0 if any leaves it open, else 1."""
        return min((finding.sign for finding in self.findings), default=0)

    @property
    def word(self) -> Word:
        """The verdict on the candidate: *ship*, *do not ship* or *not decided*."""
        return next(word for word, sign in SIGNS.items() if sign == self.sign)

    @property
    def gains(self) -> bool:
        """Whether it passes the test of its gain in value."""
        return any(verdict.test is GAIN and verdict.outcome == "pass" for verdict in self.verdicts)


@dataclass(frozen=True)
class Decision:
    """The decision for a comparison, with the findings behind it.

    Attributes:
        candidates: the rows that were tried, by value on validation, rows without a placebo last.
        general: findings about the whole comparison, none in favour of shipping; one is against it if validation shows
            that no row retains enough NDCG.
        caveats: reservations about a *ship*; stated first, whatever the verdict.
        note: a remark stated after the caveats, or None.
        untried: why rows were not tried, by row: the asked row, or validation's best ones without a placebo.
        weak_start: why a better start has to be trained first; nothing is decided before.
        baskets: why tied events (data.ties) leave the decision open, whatever else was found.
        asked: the row that the chain's YAML highlights; of rows that are equally open, the answer is about this one.
    """

    candidates: list[Candidate]
    general: list[Finding]
    caveats: list[str] = field(default_factory=list)
    note: str | None = None
    untried: dict[str, str] = field(default_factory=dict)
    weak_start: Finding | None = None
    baskets: Finding | None = None
    asked: str | None = None

    @property
    def first(self) -> str | None:
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
                *(candidate.policy, verdict.test.name, verdict.estimated.other),
                *(verdict.estimated.interval or (math.nan, math.nan, math.nan)),
                *(verdict.bound, verdict.confidence, verdict.test.limit, verdict.outcome),
            )
            for candidate in self.candidates
            for verdict in candidate.verdicts
        ]
        return pl.DataFrame(rows, schema=FRAME, orient="row")

    @property
    def about(self) -> Candidate | None:
        """The candidate that the answer is about: the first that passes, else the first that is open, else the first.

        If the answer is open, the asked row goes first. None if no row was tried.
        """
        most = 0 if self.general or self.weak_start or self.baskets else 1  # nothing is more than open then

        def order(candidate: Candidate) -> tuple[int, bool]:
            sign = min(candidate.sign, most)
            return sign, sign == 0 and candidate.policy == self.asked

        return max(self.candidates, key=order, default=None)

    @property
    def policy(self) -> str | None:
        """The row that the answer is about."""
        return self.about.policy if self.about else None

    @property
    def word(self) -> Word:
        """The candidate's verdict; *not decided* for a weak start or ties, or for a *ship* with general findings."""
        if self.weak_start or self.baskets:
            return "not decided"
        against = any(finding.sign < 0 for finding in self.general)
        own: Word = self.about.word if self.about else "do not ship" if against else "not decided"
        return "not decided" if own == "ship" and self.general else own

    @property
    def sentence(self) -> str:
        """The answer in a few words."""
        if self.weak_start:
            return "Not decided: train a better start first"
        verb = {"ship": "Ship", "do not ship": "Do not ship", "not decided": "Not decided:"}[self.word]
        said = f"{verb} {self.policy}" if self.policy else verb.removesuffix(":")
        asked = next((word for row, word, _ in self.others if row == self.asked), None)
        if asked is None or self.policy is None or self.word != "not decided":
            return said
        against = f"Do not ship {self.asked}; not decided: {self.policy}"
        return against if asked == "do not ship" else f"Not decided: {self.asked}, nor {self.policy}"

    @property
    def others(self) -> list[tuple[str, Word, str]]:
        """The other candidates: row, word, and the first reason."""
        tried = [
            (row.policy, row.word, next(finding.text for finding in row.findings if finding.sign == row.sign))
            for row in self.candidates
            if row is not self.about
        ]
        return [*tried, *((row, "not decided", why) for row, why in self.untried.items())]

    @property
    def findings(self) -> list[Finding]:
        """All findings: on a weak start, on ties, on the whole comparison, on the candidate."""
        gates = [gate for gate in (self.weak_start, self.baskets) if gate]
        return [*gates, *self.general, *(self.about.findings if self.about else ())]

    @property
    def reasons(self) -> list[str]:
        """The findings that led to the verdict; all of them for *ship*. Why the asked row is no answer comes first."""
        asked = [why for row, _, why in self.others if row == self.asked and self.word == "not decided"]
        return asked + [finding.text for finding in self.findings if finding.sign == SIGNS[self.word]]

    @property
    def next_steps(self) -> list[str]:
        """What to do next: the first few remedies; the others may not be needed then."""
        found = list(dict.fromkeys(finding.remedy for finding in self.findings if finding.remedy))[:MAX_REMEDIES]
        if self.about and self.about.seeds == 1:
            found.append("Run three seeds: intervals of one seed are over users alone, and another may differ.")
        return found


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
    weak_start = findings.weak_start(test, validation)
    ahead = candidates(validation)
    tried = sorted(ahead, key=lambda row: bool(test.roles.without_placebo(row)))[:MAX_CANDIDATES]
    if not tried:
        found = no_candidate(validation)
        general.insert(0, replace(found, sign=0) if repeated else found)
    judged = not guessing and findings.informative(judges)
    cases = [Case(test, policy) for policy in tried]
    confidences = holm_confidences([weakest(case) for case in cases])
    decided = [
        Candidate(
            case.row,
            list(verdicts(case, confidence, judged, ranked=not repeated)),
            [
                *findings.reward_model(test, case.row, trust.get("reward", {})),
                *findings.placebos(test, case.row),
                *findings.fewer_seeds(test, case.row),
            ],
            test.shared_seeds(case.row),
        )
        for case, confidence in zip(cases, confidences, strict=True)
    ]
    untried = {row: f"{row} has no placebo." for row in ahead[:MAX_CANDIDATES] if row not in tried}
    asked = test.roles.highlight
    if asked in ahead and asked not in (*tried, *untried):
        untried[asked] = f"{asked} is worth less than {len(tried)} others on validation."
    elif asked and tried and validation.retained(asked) < MIN_NDCG_RETAINED:
        untried[asked] = f"{asked} keeps less than {MIN_NDCG_RETAINED:.0%} of the ranking on validation."
    baskets = findings.baskets(check)
    caveats = [None if weak_start else findings.no_better_than_untrained(test)]
    if baskets and baskets.sign:  # data.ties is set: a caveat only
        caveats, baskets = [*caveats, baskets.text], None
    made = Decision(decided, general, [*filter(None, caveats)], None, untried, weak_start, baskets, asked)
    return replace(made, note=findings.within_requests(test, made.policy))


def candidates(validation: ComparisonTable) -> list[str]:
    """The rows that retain enough NDCG on validation, sorted by falling value under the selection judges."""
    values = {name: cell.value for name, cell in validation.column(SELECT).items() if math.isfinite(cell.value)}
    enough = [name for name in validation.roles.candidates(values) if validation.retained(name) >= MIN_NDCG_RETAINED]
    return sorted(enough, key=lambda name: -values[name])


def no_candidate(validation: ComparisonTable) -> Finding:
    """Why there is no candidate: none retains enough NDCG on validation, or figures are missing."""
    rows = validation.roles.candidates(validation.methods)
    if not rows or not all(validation.retained(row) < MIN_NDCG_RETAINED for row in rows):
        return Finding(0, "What the methods keep and are worth on validation is not known.", "Evaluate again.")
    of_baseline = f"of the ranking of {validation.better_baseline(NDCG_ALL)} ({NDCG_ALL}) on validation"
    text = f"No method keeps {MIN_NDCG_RETAINED:.0%} {of_baseline}"
    if few := next(findings.few_hits(validation), None):
        return replace(few, text=f"{text}, and {few.text}")
    ends = {row: kept.high if (kept := validation.retained_interval(row)) else math.inf for row in rows}
    best = max(ends, key=lambda row: ends[row])
    if ends[best] < MIN_NDCG_RETAINED:
        return Finding(-1, f"{text}.", "Take smaller steps (model.lr), or raise keep.")
    share = validation.retained_interval(best)
    said = f"{best} keeps {share.percent}" if share else f"what {best} keeps is not known"
    return Finding(0, f"{text}, but one may: {said}.", "Add users or validation events (data.split), or raise keep.")
