"""Whether to ship a policy, and which, by `RULES`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

from recalign.data.events.division import LEAST
from recalign.data.sequences.audit import OFTEN
from recalign.evaluation import findings
from recalign.evaluation.candidate_checks import CandidateChecks
from recalign.evaluation.comparison import ALL, PLACEBO_FACTOR, VALUE
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.findings import Finding, Reports
from recalign.evaluation.roles import START, UNTRAINED_RANKINGS
from recalign.evaluation.selection import SELECT
from recalign.recommender.interpolation import MIN_NDCG_RETAINED, RETENTION_CONFIDENCE

Word = Literal["ship", "do not ship", "not decided"]
SIGNS: dict[Word, int] = {"ship": 1, "not decided": 0, "do not ship": -1}
MAX_CANDIDATES, MAX_REMEDIES = 3, 3
"""So many candidates are tried, and so many remedies are named."""
RULES = (
    f"Not decided, whatever else is found, where {START} ranks below {' or '.join(UNTRAINED_RANKINGS)}, which take no "
    f"training, by its {ALL} on validation or reliably on the test (by the interval of the difference): a better "
    f"{START} is to be trained first. Below on the test by the estimate alone is a remark.",
    f"Candidates keep {MIN_NDCG_RETAINED:.0%} of the better baseline's {ALL} on validation. They are tried by their "
    f"value under the judges that select, those for which a placebo is named first, {MAX_CANDIDATES} at most. The "
    "first that passes is the answer. Baselines, placebos, rows that read no reward and rows that show everybody "
    f"the same are no candidates. If no row keeps {MIN_NDCG_RETAINED:.0%}, do not ship if each reliably keeps less; "
    "else it is not decided.",
    "All that follows is measured on the test, by the judges that report. Gains are in standard deviations (sd) of "
    "the training rewards. Intervals are 95 %; those that have to lie above 0 are widened by Holm for up to "
    f"{MAX_CANDIDATES} rows.",
    f"Do not ship a row that reliably keeps less than {MIN_NDCG_RETAINED:.0%} of the ranking, or that rests on a "
    f"reward model without signal; nor, by judges whose verdict is {' or '.join(findings.INFORMATIVE)}, one whose "
    f"gain ends below {findings.MIN_GAIN_SD:g} sd or that has less value than a row that reads no reward. Other "
    "judges can miss a gain: these two then leave it open.",
    f"Not decided where the gain is below {findings.MIN_GAIN_SD:g} sd, or where the interval of the gain, or of the "
    "gain over a row that reads no reward, holds 0.",
    f"Not decided where a row does not keep {MIN_NDCG_RETAINED:.0%} with a confidence of {RETENTION_CONFIDENCE:.0%} "
    "(one-sided).",
    f"Not decided unless the gain is above {PLACEBO_FACTOR} times that of each of its placebos, by the interval of "
    f"the difference. A placebo whose rewards keep a correlation above {findings.MAX_PLACEBO_CORRELATION:g} with "
    "the true ones, with any seed, counts as missing. A reranked row needs one for its method and one for "
    "reranking, or one of its own.",
    "Not decided where a control is missing or has fewer seeds than the row, or a figure could not be measured.",
    "Not decided where the judges order two rewards of one user no better than a coin, or predict rewards no "
    "better than one mean for all.",
    "Not decided where the reward model that a row rests on was not measured, or has no signal with one of the seeds.",
    f"Not decided where recalign check says not to train on the log, or fewer than {LEAST} users were evaluated.",
    f"Not decided where more than {OFTEN:.0%} of the test events are of an item that the user had met before. They "
    "are ranked all the same, but lists leave such items out: the ranking then speaks neither for a row nor "
    "against it.",
    f"Not decided where the better baseline ranks fewer than {findings.MIN_HITS} of the test events' items among "
    "its first ten.",
    "Not decided where a row that takes no training (popularity, item co-occurrence) may rank as well and have as "
    f"much value, or where a row shows less than {findings.MIN_COVERAGE:.0%} of the items that the baseline shows.",
    "Ship otherwise. One seed is enough where the users' interval is; the page then says that it is one seed.",
)
"""How `decide` decides."""


@dataclass(frozen=True)
class Candidate:
    """A row that might be shipped, and what was found of it."""

    policy: str
    findings: list[Finding]
    seeds: int = 1  # that it was run with
    interval_factor: float = 1.0  # by which its intervals are widened, for as many rows as were tried

    @property
    def sign(self) -> int:
        """Sign of the worst finding: -1 if any is against shipping, else 0 if any leaves it open, else 1."""
        return min((finding.sign for finding in self.findings), default=0)

    @property
    def word(self) -> Word:
        """The verdict on the candidate: *ship*, *do not ship* or *not decided*."""
        return next(word for word, sign in SIGNS.items() if sign == self.sign)


@dataclass(frozen=True)
class Decision:
    """The decision for a comparison, with the findings behind it.

    Attributes:
        candidates: those that were tried, by validation's order, rows without a placebo last.
        general: findings about the comparison as a whole, none of them for shipping; one is against where validation
            shows that no row can keep enough.
        first: what is said first, whatever the word; None: nothing is.
        untried: rows among validation's first few that were not tried, as they have no placebo.
        weak_start: whether a better start is to be trained first, whatever else was found.
    """

    candidates: list[Candidate]
    general: list[Finding]
    first: str | None = None
    untried: list[str] = field(default_factory=list)
    weak_start: bool = False

    @property
    def about(self) -> Candidate | None:
        """The candidate that the answer is about: the first that passes, else the first that is open, else the first.

        None where no row keeps enough of the ranking.
        """
        return max(self.candidates, key=lambda candidate: candidate.sign, default=None)

    @property
    def policy(self) -> str | None:
        """The row that the answer is about."""
        return self.about.policy if self.about else None

    @property
    def word(self) -> Word:
        """The candidate's verdict; *not decided* for a weak start, and for *ship* if any finding is about all."""
        if self.weak_start:
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
        return f"{verb} {self.policy}" if self.policy else verb.removesuffix(":")

    @property
    def others(self) -> list[tuple[str, Word, str]]:
        """The other candidates: row, word, and the first reason."""
        tried = [
            (row.policy, row.word, next(finding.text for finding in row.findings if finding.sign == row.sign))
            for row in self.candidates
            if row is not self.about
        ]
        return [*tried, *((row, "not decided", f"{row} has no placebo.") for row in self.untried)]

    @property
    def findings(self) -> list[Finding]:
        """All findings: those about the whole comparison first, then the candidate's."""
        return [*self.general, *(self.about.findings if self.about else ())]

    @property
    def reasons(self) -> list[str]:
        """The findings that led to the word; all of them for *ship*."""
        return [finding.text for finding in self.findings if finding.sign == SIGNS[self.word]]

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
    """Decide by the rules above; None where only baselines were measured.

    Args:
        test, validation: the comparison's splits.
        trust: ``trust.json`` by stage and seed, of ``reward`` and ``judge_report``.
        check: what `recalign check` says of the log (``check.json``); empty: nobody knows.
    """
    if not test.roles.candidates(test.methods):
        return None
    unknown = list(findings.unmeasured(test))
    if not test.better_baseline(VALUE) or not 0 < test.unit < math.inf:
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
    checks = [CandidateChecks(test, policy, trust.get("reward", {}), judged, not repeated) for policy in tried]
    factors = holm_factors([of_row.weakest() for of_row in checks])
    decided = [
        Candidate(row, [*replace(of_row, interval_factor=factor).findings()], test.shared_seeds(row), factor)
        for row, of_row, factor in zip(tried, checks, factors, strict=True)
    ]
    untried = [row for row in ahead[:MAX_CANDIDATES] if row not in tried]
    if weak_start:
        return Decision(decided, [weak_start, *general], None, untried, weak_start=True)
    return Decision(decided, general, findings.no_better_than_untrained(test), untried)


def candidates(validation: ComparisonTable) -> list[str]:
    """The rows that keep enough on validation, the most valuable under the judges that select first."""
    values = {name: cell.value for name, cell in validation.column(SELECT).items() if math.isfinite(cell.value)}
    enough = [name for name in validation.roles.candidates(values) if validation.retained(name) >= MIN_NDCG_RETAINED]
    return sorted(enough, key=lambda name: -values[name])


def no_candidate(validation: ComparisonTable) -> Finding:
    """Why there is no candidate: none keeps enough on validation, or figures are missing."""
    rows = validation.roles.candidates(validation.methods)
    if not rows or not all(validation.retained(row) < MIN_NDCG_RETAINED for row in rows):
        return Finding(0, "What the methods keep and are worth on validation is not known.", "Evaluate again.")
    of_baseline = f"of the ranking of {validation.better_baseline(ALL)} ({ALL}) on validation"
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


def holm_factors(ratios: list[float]) -> list[float]:
    """By how much to widen the 95 % intervals of several candidates, by Holm (1979) and the normal distribution.

    Args:
        ratios: of each candidate's weakest comparison, its value in half-widths of the interval: 1 or less is no
            rejection.

    Returns:
        z of the level that Holm gives the candidate over z of 95 %: the strongest of m gets 1 - .05 / m, the next one
        1 - .05 / (m - 1), and so on until one is not rejected, whose level the others share.
    """
    z = NormalDist().inv_cdf
    factors, left, rejecting = [1.0] * len(ratios), len(ratios), True
    for place in sorted(range(len(ratios)), key=lambda place: -ratios[place]):
        factors[place] = z(1 - 0.025 / left) / z(0.975)
        rejecting = rejecting and ratios[place] > factors[place]
        left -= rejecting
    return factors
