"""The cards of the report's first screen: what a policy gains and costs, and how far to believe it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, Interval, figure
from recalign.evaluation.decision import COIN, Decision, Reports, judges
from recalign.evaluation.selection import KEPT
from recalign.evaluation.trusted import verdicts

COVERAGE = "policy/coverage@10"


@dataclass(frozen=True)
class Card:
    """One answer: a question, a few large words, and a sentence or two; sign is 1 for good news, -1 for bad, else 0."""

    question: str
    words: str
    text: str
    sign: int = 0


def cards(decision: Decision, test: ComparisonTable, trust: Mapping[str, Reports]) -> Iterator[Card]:
    """The cards of a decision, from what `decide` was given."""
    seen = judges(trust.get("judge_report", {}))
    if decision.policy:
        yield from _of_policy(test, decision.policy, seen)
    for seeds, verdict, implication in verdicts(trust.get("reward", {})):
        sign = {"no signal": -1, "weak": 0}.get(verdict, 1)
        yield Card("May the reward be believed?", verdict, f"{implication} (seed {', '.join(seeds)})", sign)
    if seen:
        text = (
            f"of two rewards of one user are put in the right order by the judges that report "
            f"[{seen.low:.1%}, {seen.high:.1%}]; a coin has 50 %."
        )
        yield Card("May the judges be believed?", f"{seen.value:.1%}", text, 1 if seen.low > COIN else 0)
    if decision.policy:
        yield from _better(test, decision.policy)


def _of_policy(test: ComparisonTable, policy: str, seen: Interval | None) -> Iterator[Card]:
    gain, baseline = test.get(policy, f"diff_best_bc/{VALUE}"), test.better_baseline(VALUE)
    assert baseline is not None
    if gain is not None:
        sign = gain.sign if seen is None or seen.low > COIN else 0  # grey where judges may be guessing
        text = f"{gain} over {baseline} in the mean reward that independent judges expect of the ten items shown."
        if high := test.get(policy, f"diff_best_bc/{HIGH}"):
            text += f" {HIGH}: {high}."
        yield Card("What does it gain?", f"{gain.value:+.3f}", text, sign)
    text = f"of the {ALL} of {test.better_baseline(ALL)} is kept"
    if change := test.get(policy, f"diff_best_bc/{ALL}"):
        text += f" ({change})"
    now, before = (test.get(name, COVERAGE) for name in (policy, baseline))
    if now and before:
        text += f"; {now.value:.1%} of the catalogue is shown to anybody, before {before.value:.1%}"
    if seconds := test.get(policy, "cost/seconds"):
        text += f"; training takes {figure('cost/seconds', seconds.value)}"
    yield Card("What does it cost?", f"{test.kept(policy):.1%}", f"{text}.")


def _better(test: ComparisonTable, policy: str) -> Iterator[Card]:
    """Rows that have more value on the test than the policy that validation chose, with what they keep."""
    value = test.column(VALUE)
    if policy not in value:
        return
    better = [name for name in test.roles.candidates(value) if value[name].value > value[policy].value]
    better.sort(key=lambda name: (test.kept(name) < KEPT, -value[name].value))
    if better:
        named = "; ".join(f"{name} {value[name].value:.3f}, keeps {test.kept(name):.1%}" for name in better)
        words = better[0] if test.kept(better[0]) >= KEPT else f"none that keeps {KEPT:.0%}"
        yield Card("What has more value?", words, f"{policy} has {value[policy].value:.3f}. More have: {named}.")
