"""The cards of the report's first screen: what a policy gains and costs, and how far to trust these figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

from recalign.data.sequences.audit import MIN_GAIN_SD
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_HIGH
from recalign.evaluation.comparison_table import ComparisonTable, Interval, figure
from recalign.evaluation.decision import Candidate, Decision
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.findings import (
    CHANCE,
    COVERAGE,
    INFORMATIVE,
    Outcome,
    Reports,
    better_than_chance,
    informative,
    pairwise,
    seeds_by_verdict,
)
from recalign.evaluation.methods import USER_SPREAD
from recalign.evaluation.roles import NON_LEARNED_BASELINES
from recalign.evaluation.rule import GAIN, RETAINED
from recalign.recommender.interpolation import MIN_NDCG_RETAINED

REASONS = 3  # that the terminal prints, and the page does not fold away
POWER = 0.8
"""Statistical power: the chance with which a test should detect a true gain."""
SMALLEST, LARGEST = 50, 10_000_000
"""Users per arm: below the first the normal distribution does not hold, above the second a test is out of reach."""


@dataclass(frozen=True)
class Card:
    """A question, its answer in a few words, and a sentence or two; sign is 1 for good news, -1 for bad, else 0."""

    question: str
    words: str
    text: str
    sign: int = 0


def cards(
    decision: Decision, test: ComparisonTable, trust: Mapping[str, Reports], unit: str = "the reward"
) -> Iterator[Card]:
    """The cards of a decision, from the arguments of `decide`; ``unit``: the name of the reward that judges predict."""
    judges = trust.get("judge_report", {})
    order, of_judges = pairwise(judges), _words(judges)
    known = better_than_chance(judges) and informative(judges)
    if decision.selected:
        yield from _of_candidate(test, decision.selected, known, unit)
    if order is not None:
        text = "Nothing tells whether they can order two rewards of one user."
        if order.known:
            text = (
                f"Judges are reward models of other users. Of two rewards of one user they put {order.percent} in the "
            )
            text += f"right order; a coin has {CHANCE:.0%}."
        yield Card("May the judges be believed?", of_judges if order.known else "not measured", text, int(known))
    if said := seeds_by_verdict(trust.get("reward", {})):
        text = " ".join(f"{implication} (seed {', '.join(seeds)})" for seeds, _, implication in said)
        sign = min(1 if verdict in INFORMATIVE else -1 if verdict == "no signal" else 0 for _, verdict, _ in said)
        yield Card("Does the reward model know tastes?", _words(trust["reward"]), text, sign)


def headline(decision: Decision, test: ComparisonTable, trust: Mapping[str, Reports], unit: str = "the reward") -> str:
    """Gain in the reward's own unit, loss of NDCG, and the judges' verdict; empty without a row whose gain is known."""
    selected, baseline = decision.selected, test.better_baseline(JUDGE_VALUE)
    if selected is None or baseline is None or (gain := test.gain(selected.policy)) is None:
        return ""
    own, (base, now) = in_unit(test, gain), (test.column(JUDGE_VALUE)[row].value for row in (baseline, selected.policy))
    digits = len(own.partition(".")[2])
    said = [f"{own} in {unit} ({base:.{digits}f} to {now:.{digits}f})"]
    if math.isfinite(kept := test.retained(selected.policy)):
        said.append(f"{_loss(kept)} of its ranking")
    return ", ".join([*said, f"judges {_words(judges)}" if (judges := trust.get("judge_report")) else "no judges"])


def heading(decision: Decision, trust: Mapping[str, Reports]) -> str:
    """The decision's sentence; a *ship* that has caveats ends in *with care*."""
    ships_with_caveats = decision.outcome is Outcome.SHIP and caveats(decision, trust)
    return f"{decision.sentence}, with care" if ships_with_caveats else decision.sentence


def caveats(decision: Decision, trust: Mapping[str, Reports]) -> list[str]:
    """The caveats of a decision, the one about the judges last."""
    return [*decision.caveats, *filter(None, [limits(trust)])]


def in_unit(test: ComparisonTable, gain: Interval) -> str:
    """A gain in the reward's own unit: at least two significant digits, at most five decimals."""
    value = gain.value * test.unit
    return f"{value:+.{min(max(1 - math.floor(math.log10(abs(value))), 0), 5) if value else 2}f}"


def _loss(kept: float) -> str:
    return f"loses {1 - kept:.1%}" if kept < 1 else "loses nothing"


def _words(reports: Reports) -> str:
    return " / ".join(dict.fromkeys(verdict for _, verdict, _ in seeds_by_verdict(reports)))


def more_value(decision: Decision, test: ComparisonTable) -> str | None:
    """Why non-learned baselines with more value than the selected row are no answer; None if there are none."""
    values = {row: cell.value for row, cell in test.column(JUDGE_VALUE).items()}
    if decision.policy is None or decision.policy not in values:
        return None
    ahead = [row for row in NON_LEARNED_BASELINES if row in values and values[row] > values[decision.policy]]
    kept = {row: share for row in ahead if math.isfinite(share := test.retained(row))}
    if not kept:
        return None
    return (
        f"{', '.join(kept)} {'have' if len(kept) > 1 else 'has'} more value and keep{'s' * (len(kept) == 1)} "
        f"{max(kept.values()):.0%} of the ranking at most: good items, shown to people who did not want them."
    )


def ab_test(decision: Decision, test: ComparisonTable) -> str | None:
    """How many users an A/B test needs for a gain of this size; None without a gain that can be trusted.

    Per arm n = 2 (z_.975 + z_power)^2 (s / d)^2, d the gain and s the standard deviation of users' mean rewards
    (Kohavi, Tang & Xu 2020, section 17).
    """
    selected = decision.selected
    if selected is None or decision.outcome is Outcome.DO_NOT_SHIP or decision.general or decision.unresolved_ties:
        return None
    gain, spread = test.gain(selected.policy), test.get(selected.policy, USER_SPREAD)
    if gain is None or spread is None or not 0 < spread.value < math.inf:
        return None
    if not selected.gains:
        return None
    z = NormalDist().inv_cdf
    users = 2 * (z(0.975) + z(POWER)) ** 2 * (spread.value / test.unit / gain.value) ** 2
    digits = 10 ** max(math.floor(math.log10(users)) - 1, 0)
    number = f"about {math.ceil(users / digits) * digits:,}" if users > SMALLEST else f"{SMALLEST}"
    return (
        f"An A/B test sees a gain of this size in users' mean reward with a chance of {POWER:.0%} if each arm has "
        f"{number if users <= LARGEST else f'more than {LARGEST:,}'} users."
    )


def detectable_gain(decision: Decision) -> str | None:
    """The smallest gain and NDCG retained that the test detects with a power of `POWER`; None if not measured."""
    if (selected := decision.selected) is None:
        return None
    above = {result.test: result.detectable(POWER) for result in selected.results if result.test in (GAIN, RETAINED)}
    if len(above) < 2 or not all(map(math.isfinite, above.values())):
        return None
    return (
        f"This test sees a gain with a chance of {POWER:.0%} if it truly is {above[GAIN]:.3f} sd, and that "
        f"{MIN_NDCG_RETAINED:.0%} of NDCG@10 is kept if {MIN_NDCG_RETAINED + above[RETAINED]:.1%} truly is. Four times "
        f"the users halve what users add to these distances; no estimate below {MIN_GAIN_SD} sd is shipped."
    )


def limits(trust: Mapping[str, Reports]) -> str | None:
    """A caveat for judges that know little more than averages; None if they know more, or may be guessing."""
    reports = trust.get("judge_report", {})
    if not better_than_chance(reports) or informative(reports):  # guessing judges are a finding
        return None
    return (
        "The judges know little more than averages do: they see whether better items are shown, but hardly whether "
        "they reach the users who like them."
    )


def _of_candidate(test: ComparisonTable, candidate: Candidate, believed: bool, unit: str) -> Iterator[Card]:
    policy, gain, baseline = candidate.policy, test.gain(candidate.policy), test.better_baseline(JUDGE_VALUE)
    assert baseline is not None
    if gain is not None:
        sign = int(candidate.gains) - int(gain.high < 0) if believed else 0  # grey where judges may be guessing
        text = (
            f"in {unit}, over {baseline}: what independent judges expect of the ten items shown. That is {gain.sd} "
            "(sd: standard deviation of the reward)."
        )
        if (high := test.get(policy, f"diff_best_baseline/{NDCG_HIGH}")) and high.known:
            text += f" {NDCG_HIGH}, the ranking of what got a high reward: {high}."
        yield Card("What does it gain?", in_unit(test, gain), text, sign)
    text = f"of the ranking ({ALL_USERS}) of {test.better_baseline(ALL_USERS)}"
    if (change := test.get(policy, f"diff_best_baseline/{ALL_USERS}")) and change.known:
        text += f": {change}"
    now, before = (test.get(name, COVERAGE) for name in (policy, baseline))
    if now and before and math.isfinite(now.value) and math.isfinite(before.value):
        text += f"; {now.value:.1%} of the catalogue is shown to anybody, by {baseline} {before.value:.1%}"
    if seconds := test.get(policy, "cost/seconds"):
        text += f"; training takes {figure('cost/seconds', seconds.value)}"
    kept = test.retained(policy)
    words = _loss(kept) if math.isfinite(kept) else "not known"
    yield Card("What does it cost?", words, f"{text}.", -1 if kept < MIN_NDCG_RETAINED else 0)
