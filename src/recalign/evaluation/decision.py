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
from recalign.evaluation.case import Case
from recalign.evaluation.comparison import ALL, PLACEBO_FACTOR, VALUE
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.findings import DESTROYED, FLAT, KNOWING, NEEDED, QUICK, SHOWN, SURE, Finding, Reports
from recalign.evaluation.selection import FLOOR, SELECT

Word = Literal["ship", "do not ship", "not decided"]
SIGNS: dict[Word, int] = {"ship": 1, "not decided": 0, "do not ship": -1}
TRIED = 3
"""So many candidates are tried."""
REMEDIES = 3
RULES = (
    f"Candidates keep {FLOOR:.0%} of the better baseline's {ALL} on validation. They are tried by their value under "
    f"the judges that select, those for which a placebo is named first, {TRIED} at most. The first that passes is the "
    "answer. Baselines, placebos, rows that read no reward and rows that show everybody the same are no candidates. "
    f"If no row keeps {FLOOR:.0%}, do not ship if each reliably keeps less; else it is not decided.",
    "All that follows is measured on the test, by the judges that report. Gains are in standard deviations (sd) of the "
    f"training rewards. Intervals are 95 %; those that have to lie above 0 are widened by Holm for up to {TRIED} rows.",
    f"Do not ship a row that reliably keeps less than {FLOOR:.0%} of the ranking, or that rests on a reward model "
    f"without signal; nor, by judges whose verdict is {' or '.join(KNOWING)}, one whose gain ends below {FLAT:g} sd or "
    "that has less value than a row that reads no reward. Other judges can miss a gain: these two then leave it open.",
    f"Not decided where the gain is below {FLAT:g} sd, or where the interval of the gain, or of the gain over a row "
    "that reads no reward, holds 0.",
    f"Not decided where a row does not keep {FLOOR:.0%} with a confidence of {SURE:.0%} (one-sided).",
    f"Not decided unless the gain is above {PLACEBO_FACTOR} times that of each of its placebos, by the interval of the "
    f"difference. A placebo whose rewards keep a correlation above {DESTROYED:g} with the true ones, with any seed, "
    "counts as missing. A reranked row needs one for its method and one for reranking, or one of its own.",
    "Not decided where a control is missing or has fewer seeds than the row, or a figure could not be measured.",
    "Not decided where the judges order two rewards of one user no better than a coin, or predict rewards no better "
    "than one mean for all.",
    "Not decided where the reward model that a row rests on was not measured, or has no signal with one of the seeds.",
    f"Not decided where recalign check says not to train on the log, or fewer than {LEAST} users were evaluated.",
    f"Not decided where more than {OFTEN:.0%} of the test events are of an item that the user had met before. They are "
    "ranked all the same, but lists leave such items out: the ranking then speaks neither for a row nor against it.",
    f"Not decided where the better baseline ranks fewer than {NEEDED} of the test events' items among its first ten.",
    "Not decided where a row that takes no training (popularity, item co-occurrence) may rank as well and have as much "
    f"value, where the better baseline ranks at less than {QUICK:.0%} of item co-occurrence, or where a row shows less "
    f"than {SHOWN:.0%} of the items that the baseline shows.",
    "Ship otherwise. One seed is enough where the users' interval is; the page then says that it is one seed.",
)
"""How `decide` decides."""


@dataclass(frozen=True)
class Candidate:
    """A row that might be shipped, and what was found of it.

    Attributes:
        seeds: that it was run with.
        widening: of its intervals, for as many rows as were tried.
    """

    policy: str
    findings: list[Finding]
    seeds: int = 1
    widening: float = 1.0

    @property
    def word(self) -> Word:
        """The worst finding decides: one against is enough, one open leaves it open."""
        return next(word for word, sign in SIGNS.items() if sign == self._worst)

    @property
    def because(self) -> list[str]:
        """The findings that led to the word."""
        return [finding.text for finding in self.findings if finding.sign == self._worst]

    @property
    def _worst(self) -> int:
        return min((finding.sign for finding in self.findings), default=0)


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        candidates: those that were tried, by validation's order, rows without a placebo last.
        general: findings about the comparison as a whole, none of them for shipping; one is against where validation
            shows that no row can keep enough.
        first: what is said first, whatever the word; None: nothing is.
        untried: rows among validation's first few that were not tried, as they have no placebo.
    """

    candidates: list[Candidate]
    general: list[Finding]
    first: str | None = None
    untried: list[str] = field(default_factory=list)

    @property
    def about(self) -> Candidate | None:
        """The candidate that the answer is about: the first that passes, else the first that is open, else the first.

        None where no row keeps enough of the ranking.
        """
        words: tuple[Word, ...] = ("ship", "not decided")
        first = (one for word in words for one in self.candidates if one.word == word)
        return next(first, self.candidates[0] if self.candidates else None)

    @property
    def policy(self) -> str | None:
        """The row that the answer is about."""
        return self.about.policy if self.about else None

    @property
    def word(self) -> Word:
        """That of the candidate, unless something about the comparison as a whole leaves it open."""
        against = any(finding.sign < 0 for finding in self.general)
        own: Word = self.about.word if self.about else "do not ship" if against else "not decided"
        return "not decided" if own == "ship" and self.general else own

    @property
    def sentence(self) -> str:
        """The answer in a few words."""
        verb = {"ship": "Ship", "do not ship": "Do not ship", "not decided": "Not decided:"}[self.word]
        return f"{verb} {self.policy}" if self.policy else verb.removesuffix(":")

    @property
    def others(self) -> list[tuple[str, Word, str]]:
        """The other candidates: row, word, and the first reason."""
        rest = [one for one in self.candidates if one is not self.about]
        tried = [(one.policy, one.word, one.because[0]) for one in rest]
        if self.general:
            passes = "It would pass if the comparison as a whole could be trusted."
            tried = [(row, "not decided", passes) if word == "ship" else (row, word, why) for row, word, why in tried]
        return [*tried, *((row, "not decided", f"{row} has no placebo.") for row in self.untried)]

    @property
    def findings(self) -> list[Finding]:
        """What is about the whole comparison first."""
        return [*self.general, *(self.about.findings if self.about else ())]

    @property
    def because(self) -> list[str]:
        """The findings that led to the word; all of them for *ship*."""
        sign = SIGNS[self.word]
        return [finding.text for finding in self.findings if finding.sign == sign]

    @property
    def would_decide(self) -> list[str]:
        """What to do next: the first few remedies; the others may not be needed then."""
        found = list(dict.fromkeys(finding.remedy for finding in self.findings if finding.remedy))[:REMEDIES]
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
    unknown = [*findings.no_unit(test), *findings.missing(test)]
    if not test.better_baseline(VALUE) or not 0 < test.unit < math.inf:
        return Decision([], unknown)
    blind = list(findings.blind_judges(trust.get("judge_report", {}), len(test.seeds)))
    back = list(findings.repeated(check))
    general = [*findings.log(test, check), *back, *findings.start(test), *findings.few_hits(test), *blind, *unknown]
    ahead = candidates(validation)
    tried = sorted(ahead, key=lambda row: bool(test.roles.without_placebo(row)))[:TRIED]
    if not tried:
        found = nobody(validation)
        general.insert(0, replace(found, sign=0) if back else found)
    judged = not blind and findings.knowing(trust["judge_report"])
    cases = [Case(test, policy, trust.get("reward", {}), judged, not back) for policy in tried]
    factors = holm_factors([case.weakest() for case in cases])
    widened = [replace(case, widening=factor) for case, factor in zip(cases, factors, strict=True)]
    decided = [
        Candidate(case.policy, list(case.findings()), test.shared_seeds(case.policy), case.widening) for case in widened
    ]
    untried = [row for row in ahead[:TRIED] if row not in tried]
    return Decision(decided, general, findings.weak_start(test), untried)


def candidates(validation: ComparisonTable) -> list[str]:
    """The rows that keep enough on validation, the most valuable under the judges that select first."""
    values = {name: cell.value for name, cell in validation.column(SELECT).items() if math.isfinite(cell.value)}
    enough = [name for name in validation.roles.candidates(values) if validation.retained(name) >= FLOOR]
    return sorted(enough, key=lambda name: -values[name])


def nobody(validation: ComparisonTable) -> Finding:
    """Why there is no candidate: none keeps enough on validation, or figures are missing."""
    rows = validation.roles.candidates(validation.methods)
    if not rows or not all(validation.retained(row) < FLOOR for row in rows):
        return Finding(0, "What the methods keep and are worth on validation is not known.", "Evaluate again.")
    text = f"No method keeps {FLOOR:.0%} of the ranking of {validation.better_baseline(ALL)} ({ALL}) on validation"
    if few := next(findings.few_hits(validation), None):
        return replace(few, text=f"{text}, and {few.text}")
    ends = {row: kept.high if (kept := validation.retained_interval(row)) else math.inf for row in rows}
    best = max(ends, key=lambda row: ends[row])
    if ends[best] < FLOOR:
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
