"""What one chain's figures say about the claim: A-SFT against the better of `start` and `bc`, its rivals and placebos.

A part holds where every comparison in it says so, does not hold where one says the opposite, and is not shown where an
interval leaves both open, a method was not run, or methods share only one seed, whose interval covers users alone.
Comparisons of several methods with one are Holm-corrected. Whether a method keeps enough is read off its mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_HIGH, PLACEBO_FACTOR
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.findings import placebo_flaw
from recalign.evaluation.roles import reranked_method
from recalign.recommender.interpolation import MIN_NDCG_RETAINED

MARGIN = 0.10  # how much better than A-SFT another method's value may be, in standard deviations of the reward


@dataclass(frozen=True)
class Verdict:
    """One part of the claim.

    Attributes:
        part: the claim in words.
        word: ``holds``, ``does not hold`` or ``not shown``.
        why: the figures behind it, a line each.
    """

    part: str
    word: str
    why: list[str]


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        sign: 1 where it speaks for the claim, -1 against, 0 neither.
        line: what it says.
        seeds: that it rests on.
    """

    sign: int
    line: str
    seeds: int = 0


def verdicts(table: ComparisonTable) -> list[Verdict]:
    """The four parts of the claim, as far as one log's test figures can tell."""
    parts = {
        "A-SFT is better than the better of start and bc, and than reward_weighted, on high/ndcg@10 and on "
        "value/judge@10, while it keeps 95 % of all_users/ndcg@10": [
            _kept(table),
            *(check for metric in (NDCG_HIGH, JUDGE_VALUE) for check in _gains(table, metric)),
        ],
        "A-SFT has more value than popularity_tilt, and no method that keeps 95 % of all_users/ndcg@10 has a value "
        f"more than {MARGIN:.2f} standard deviations of the reward above A-SFT's": [
            _against(table, "popularity_tilt", JUDGE_VALUE),
            _rival(table),
        ],
        "A-SFT beats rerank, and gains more than twice what each placebo does": [
            *(_against(table, "rerank", metric) for metric in (NDCG_HIGH, JUDGE_VALUE)),
            *(_placebo(table, placebo) for placebo in table.roles.placebos_of("asft")),
        ],
        "in worlds where it should not win, A-SFT does not pretend to": [
            Check(0, "needs simulated worlds made for it; one log cannot tell")
        ],
    }
    return [_verdict(part, checks) for part, checks in parts.items()]


def _verdict(part: str, checks: list[Check]) -> Verdict:
    why = [check.line for check in checks]
    if any(check.sign and check.seeds < 2 for check in checks):
        return Verdict(part, "not shown", [*why, "one seed: intervals cover users, not what another seed would give"])
    signs = [check.sign for check in checks]
    return Verdict(part, "does not hold" if -1 in signs else "not shown" if 0 in signs else "holds", why)


def _kept(table: ComparisonTable) -> Check:
    share = table.retained("asft")
    if share != share:
        return Check(0, f"{ALL_USERS}: asft or its baseline was not measured, or is 0")
    baseline = str(table.better_baseline(ALL_USERS))
    line = f"{ALL_USERS}: asft keeps {share:.1%} of {baseline}"
    return Check(1 if share >= MIN_NDCG_RETAINED else -1, line, table.shared_seeds("asft", baseline))


def negated(difference: Interval) -> Interval:
    """The difference of the second row and the first."""
    return Interval(-difference.value, -difference.high, -difference.low)


def in_words(table: ComparisonTable, metric: str, difference: Interval) -> str:
    """A difference with its unit, where it has one."""
    return difference.sd if table.in_sd(metric) else str(difference)


def _gains(table: ComparisonTable, metric: str) -> list[Check]:
    cell = table.get("asft", name := f"holm_best_baseline/{metric}")
    if cell is None:
        gain = Check(0, f"{metric}: asft or its baseline was not measured")
    else:
        baseline = str(table.better_baseline(metric))
        gain = Check(
            cell.sign,
            f"{metric}: {in_words(table, name, cell)} against {baseline}",
            table.shared_seeds("asft", baseline),
        )
    return [gain, _against(table, "reward_weighted", metric)]


def _against(table: ComparisonTable, other: str, metric: str) -> Check:
    cell = table.get(other, name := f"holm_asft/{metric}")
    if cell is None:
        return Check(0, f"{metric}: asft or {other} was not measured")
    return Check(
        negated(cell).sign,
        f"{metric}: {in_words(table, name, negated(cell))} against {other}",
        table.shared_seeds("asft", other),
    )


def _rival(table: ComparisonTable) -> Check:
    """All rivals that kept enough, and the line of the one that comes closest to speaking against A-SFT.

    The claim is about all of them, so it holds where each one's own 95 % interval says so, without Holm: every one must
    pass. It fails by any one of them, so that one's interval is widened by Holm for as many as could. A-SFT's own
    policy, reranked, is none of them.
    """
    rivals = [
        m
        for m in table.column(JUDGE_VALUE)
        if "asft" not in (m, reranked_method(m)) and table.retained(m) >= MIN_NDCG_RETAINED
    ]
    if not rivals or not table.get("asft", JUDGE_VALUE):
        return Check(0, f"{JUDGE_VALUE}: asft or its rivals were not measured")
    sign, _, line = min((_behind(table, rival) for rival in rivals), key=lambda each: each[:2])
    seeds = min(table.shared_seeds("asft", rival) for rival in rivals)
    return Check(sign, f"{line}, the closest of {len(rivals)} others", seeds)


def _behind(table: ComparisonTable, rival: str) -> tuple[int, float, str]:
    """The sign of one comparison, how far A-SFT's interval lies above the margin, and the line."""
    own, widened = (table.get(rival, f"{kind}_asft/{JUDGE_VALUE}") for kind in ("diff", "holm"))
    if own is None or widened is None or not table.in_sd(f"diff_asft/{JUDGE_VALUE}"):  # the margin is in sd
        return 0, float("-inf"), f"{JUDGE_VALUE}: {rival} was not compared with asft"
    own, widened = negated(own), negated(widened)
    sign = 1 if own.low > -MARGIN else -1 if widened.high < -MARGIN else 0
    line = f"{JUDGE_VALUE}: {(own if sign > 0 else widened).sd} against {rival}; the margin is {-MARGIN:+.2f} sd"
    return sign, own.low + MARGIN, line


def _placebo(table: ComparisonTable, placebo: str) -> Check:
    """By the rule of the decision: the gain is above `PLACEBO_FACTOR` times the placebo's, and the placebo is one."""
    flaw, beyond = placebo_flaw(table, placebo), table.gain_over_placebo("asft", placebo)
    if flaw or beyond is None:
        return Check(0, f"{JUDGE_VALUE}: {placebo} {flaw or 'was not measured'}")
    line = f"{JUDGE_VALUE}: asft's gain less {PLACEBO_FACTOR} times that of {placebo} is {beyond.sd}"
    return Check(beyond.sign, line, table.shared_seeds(placebo, "asft", str(table.better_baseline(JUDGE_VALUE))))
