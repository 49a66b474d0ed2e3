"""What a comparison as a whole says against a decision, one finding at a time; `case` has what is about one row.

Gains are in standard deviations of the training rewards of users A, so that nothing depends on the unit of a reward or
on where its zero lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from recalign.data.events.division import LEAST
from recalign.data.sequences.audit import OFTEN, SEEN
from recalign.data.sequences.verdict import refused
from recalign.evaluation.comparison import ALL, EVALUATED, HITS, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.selection import FLOOR

Reports = Mapping[str, dict[str, Any]]
"""``trust.json`` by seed."""
KNOWING = ("moderate", "strong")
"""Verdicts on reward models that know more than averages do."""
FLAT = 0.015
"""A gain whose interval ends below so many standard deviations of the reward is no gain."""
COIN = 0.5
SURE = 0.8
"""Confidence, one-sided, with which a row has to keep `FLOOR` on the test."""
QUICK = 0.5
"""A start that ranks at less than this share of a quick reference is trained too little."""
COVERAGE, SHOWN = "policy/coverage@10", 0.5
"""A policy that shows less than this share of the items that its baseline shows may have won by it."""
DESTROYED = 0.1
"""A placebo whose rewards still correlate more with the true ones, user means taken out, is none."""
BLIND = ("no_signal", "not_measured")
"""Verdicts on judges whose values are not known to mean anything."""
SURE_WIDTH = NormalDist().inv_cdf(SURE) / NormalDist().inv_cdf(0.975)
"""Distance of that bound, in half-widths of a 95 % interval."""
NEEDED = math.ceil(math.log(1 - SURE) / math.log(FLOOR))
"""Test events that the better baseline has to rank among its first ten. A row that truly keeps `FLOOR` may lose none of
fewer (its chance is above 1 - `SURE`), and then its interval has no width."""
ENDLESS = 100
"""So many times the test users are out of reach."""


@dataclass(frozen=True)
class Finding:
    """A reason. ``sign`` is 1 for shipping, -1 against, 0 where it leaves the question open."""

    sign: int
    text: str
    remedy: str = ""  # what would decide it, where it is open


def by_losses(hits: Interval | None) -> float:
    """Distance, at least, of the bound on NDCG retained: that of a row that retains `FLOOR` and only loses hits.

    The interval is drawn from the hits that were lost, and too narrow where these are few.
    """
    return NormalDist().inv_cdf(SURE) * math.sqrt((1 - FLOOR) / hits.value) if hits and hits.value > 0 else 0.0


def knowing(reports: Reports) -> bool:
    """Whether reward models know more than averages, with every seed."""
    return bool(reports) and all(report["verdict"] in KNOWING for report in reports.values())


def judges(reports: Reports) -> Interval | None:
    """Share of pairs of one user's rewards that the judges order right: means over seeds of value and interval."""
    found = [report[report["judged_on"]]["table"]["model"]["pairwise"] for report in reports.values()]
    return Interval(*np.mean(np.array(found, dtype=float), axis=0).tolist()) if found else None


def log(test: ComparisonTable, check: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the log, or the sample of it that was evaluated, can be measured at all."""
    if concern := refused(check.get("verdict", "")):
        yield Finding(0, f"recalign check says not to train on this log: {concern}.", "Fix that first.")
    if 0 < (users := max((cell.value for cell in test.column(EVALUATED).values()), default=0)) < LEAST:
        yield Finding(
            0, f"Only {users:.0f} users were evaluated, and {LEAST} are needed at least.", "Evaluate all users."
        )


def repeated(check: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the ranking is measured on items that no list shows, as users had met them before."""
    met = check.get("test", {}).get(SEEN)
    if met is None or not math.isfinite(met):
        text = "Nothing tells how many of the test events are of an item that the user had met before."
        yield Finding(0, text, "Run the chain again, which checks the log.")
    elif met > OFTEN:
        text = f"In {met:.1%} of the test events the user had met the item before. They are ranked, but lists"
        remedy = "Set data.log.collapse: true, which makes one event of a user's events on an item."
        yield Finding(0, f"{text} leave such items out, so {ALL} says little of what is served.", remedy)


def start(test: ComparisonTable) -> Iterator[Finding]:
    """Whether the better baseline is worth beating, beside a quick reference."""
    baseline, quick, own = test.better_baseline(ALL), test.roles.knn, test.column(ALL)
    if baseline is not None and own[baseline].value == 0:
        text = f"{baseline} ranks no item of the test events among its first ten, so nothing is there to be kept."
        yield Finding(0, text, "See what recalign check says of the test events, such as items unseen in training.")
        return
    if baseline is None or quick not in own or not own[quick].value > 0:
        return  # `missing` says so
    share = own[baseline].value / own[quick].value
    if not share >= QUICK:
        remedy = "Train the recommender for longer, or look at its curves: a gain over a weak start says little."
        yield Finding(0, f"{baseline} has {share:.1%} of the {ALL} of {quick}, which takes no training.", remedy)


def few_hits(test: ComparisonTable) -> Iterator[Finding]:
    """Whether the better baseline ranks enough test events high for a loss of some to be seen."""
    baseline = test.better_baseline(ALL)
    hits = test.get(baseline, HITS) if baseline else None
    if hits is None or not math.isfinite(hits.value):
        yield Finding(0, "How many test events the baseline ranks among its first ten is not known.", "Compare again.")
    elif 0 < hits.value < NEEDED:
        text = f"{baseline} ranks {math.floor(hits.value)} of the {test.split} events among its first ten"
        remedy = "Add users, or test events of each (data.split)."
        yield Finding(0, f"{text}: too few to tell whether {FLOOR:.0%} are kept ({NEEDED} are needed).", remedy)


def weak_start(test: ComparisonTable) -> str | None:
    """What is said first of a better baseline that ranks no better than a row that takes no training."""
    baseline, own = test.better_baseline(ALL), test.column(ALL)
    ahead = [
        name for name in test.roles.untrained if baseline and name in own and own[name].value >= own[baseline].value
    ]
    if not ahead or own[str(baseline)].value == 0:  # `start` says so
        return None
    best = max(ahead, key=lambda name: own[name].value)
    figures = f"{ALL} {own[str(baseline)].value:.4f} beside {own[best].value:.4f}"
    return (
        f"{baseline} ranks no better than {best}, which takes no training ({figures}): to train it better, or longer, "
        "may gain more than alignment does."
    )


def blind_judges(reports: Reports, seeds: int) -> Iterator[Finding]:
    """Whether the judges of some seed may be guessing, or nobody knows."""
    remedy = "Give the judges more users (a smaller data.share_a), or a reward with less noise."
    seen = judges(reports)
    blind = dict.fromkeys(report["verdict"] for report in reports.values() if report["verdict"] in BLIND)
    if 0 < len(reports) < seeds:
        text = f"Nothing tells what the judges know with {seeds - len(reports)} of {seeds} seeds."
        yield Finding(0, text, "Run the chain again with all of them.")
    elif seen is None or not seen.known:
        text = "Nothing tells whether the judges can order two rewards of one user"
        yield Finding(0, f"{text}: their values are not known to mean anything.", "Keep more validation events a user.")
    elif not seen.low > COIN:
        text = f"The judges order {seen.percent} of two rewards of one user right"
        yield Finding(0, f"{text}, which may be chance: their values say nothing.", remedy)
    elif blind:
        text = f"The verdict on the judges' predictions is {' and '.join(blind).replace('_', ' ')}"
        yield Finding(0, f"{text}: their values are not known to mean anything.", remedy)


def missing(test: ComparisonTable) -> Iterator[Finding]:
    """Controls of every candidate that were not run, or not measured."""
    roles = test.roles
    wanted = dict.fromkeys([*roles.baselines, *roles.reward_free, *roles.untrained])
    if missing := [name for name in wanted if name not in test.methods]:
        text = f"Controls that were not run: {', '.join(missing)}."
        yield Finding(0, text, f"Add to methods: {', '.join(missing)}.")
    cells = {name: [test.get(name, metric) for metric in (ALL, VALUE)] for name in wanted if name in test.methods}
    if unknown := [name for name, own in cells.items() if not all(cell and cell.known for cell in own)]:
        yield Finding(0, f"Controls that were not measured: {', '.join(unknown)}.", "Evaluate again.")


def no_unit(test: ComparisonTable) -> Iterator[Finding]:
    """Whether gains have a unit."""
    if test.unit == 0:
        yield Finding(0, "The rewards do not vary, so no gain can be judged.", "Choose another data.reward.")
    elif not math.isfinite(test.unit):
        yield Finding(0, "The spread of the rewards is not known, so no gain can be judged.", "Evaluate again.")
