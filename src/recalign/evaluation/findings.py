"""The conditions of a decision, as findings: on the whole comparison, then on a row. `rule` has the tests.

Gains are in standard deviations of the training rewards of users A, so that nothing depends on the unit of a reward or
on where its zero lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from recalign.data.events.audit import OFTEN
from recalign.data.events.division import LEAST
from recalign.data.sequences.audit import BASKETS, FOLLOWS, READING, SEEN, refused
from recalign.data.sequences.placebo import CORRELATION
from recalign.evaluation.comparison import HITS, JUDGE_VALUE, NDCG_ALL, SHOWN_AUC
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.methods import EVALUATED
from recalign.evaluation.reranking import READS_REWARD_MODEL
from recalign.evaluation.roles import NON_LEARNED_BASELINES, REWARD_FREE, START, UNTRAINED_RANKINGS
from recalign.recommender.interpolation import MIN_NDCG_RETAINED, RETENTION_CONFIDENCE

Reports = Mapping[str, dict[str, Any]]
"""``trust.json`` by seed."""
INFORMATIVE = ("moderate", "strong")
"""Verdicts on reward models that know more than averages do."""
CHANCE = 0.5
"""Share of pairs of rewards that a coin puts in the right order."""
COVERAGE = "policy/coverage@10"
MAX_PLACEBO_CORRELATION = 0.1
"""A placebo is invalid if its rewards correlate more than this with the true ones, user means removed."""
MIN_HITS = math.ceil(math.log(1 - RETENTION_CONFIDENCE) / math.log(MIN_NDCG_RETAINED))
"""Test events that the better baseline has to rank among its first ten. With fewer, a row that truly retains
`MIN_NDCG_RETAINED` may lose none of them by chance, and its interval then has no width."""
MAX_USER_FACTOR = 10
"""More than this many times the test users are out of reach."""


class Outcome(IntEnum):
    """What a finding speaks for, and what is decided. Of several findings the lowest decides."""

    DO_NOT_SHIP = -1
    OPEN = 0
    SHIP = 1

    @property
    def text(self) -> str:
        """*do not ship*, *not decided* or *ship*."""
        return "not decided" if self is Outcome.OPEN else self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Finding:
    """A reason for an outcome; by default it leaves the decision open."""

    text: str
    remedy: str = ""  # what would decide it, where it is open
    outcome: Outcome = Outcome.OPEN


def informative(reports: Reports) -> bool:
    """Whether reward models know more than averages, with every seed."""
    return bool(reports) and all(report["verdict"] in INFORMATIVE for report in reports.values())


def seeds_by_verdict(reports: Reports) -> list[tuple[list[str], str, str]]:
    """Seeds with the same verdict on their reward model, that verdict, and what it implies."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for seed, report in reports.items():
        seeds.setdefault((report["verdict"].replace("_", " "), report["implication"]), []).append(seed)
    return [(same, verdict, implication) for (verdict, implication), same in seeds.items()]


def pairwise(reports: Reports) -> Interval | None:
    """Share of pairs of one user's rewards that the judges order right: means over seeds of value and interval."""
    found = [report[report["judged_on"]]["table"]["model"]["pairwise"] for report in reports.values()]
    return Interval(*np.mean(np.array(found, dtype=float), axis=0).tolist()) if found else None


def better_than_chance(reports: Reports) -> bool:
    """Whether judges order pairs of one user's rewards reliably better than a coin: else their values say nothing."""
    order = pairwise(reports)
    return order is not None and order.known and order.low > CHANCE


def log(test: ComparisonTable, check: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the log, or the sample of it that was evaluated, can be measured at all."""
    if concern := refused(check.get("verdict", "")):
        yield Finding(f"recalign check says not to train on this log: {concern}.", "Fix that first.")
    if 0 < (users := max((cell.value for cell in test.column(EVALUATED).values()), default=0)) < LEAST:
        text = f"Only {users:.0f} users were evaluated, and {LEAST} are needed at least."
        yield Finding(text, "Evaluate all users.")


def repeated(check: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the ranking is measured on items that are never recommended, because users had seen them before."""
    met = check.get("test", {}).get(SEEN)
    if met is None or not math.isfinite(met):
        text = "Nothing tells how many of the test events are of an item that the user had met before."
        yield Finding(text, "Run the chain again, which checks the log.")
    elif met > OFTEN:
        text = f"In {met:.1%} of the test events the user had met the item before. They are ranked, but lists"
        remedy = "Set data.log.collapse: true, which makes one event of a user's events on an item."
        yield Finding(f"{text} leave such items out, so {NDCG_ALL} says little of what is served.", remedy)


def tied_events(check: Mapping[str, Any]) -> Finding | None:
    """Whether many test events share their time with the one before: open if data.ties is unset, a caveat if order."""
    follow, reading = check.get("test", {}).get(FOLLOWS), check.get("split", {}).get(READING)
    if follow is None or not math.isfinite(follow):
        text = "Nothing tells how many of the test events follow one of the same user and time."
        return Finding(text, "Run the chain again, which checks the log.")
    if follow <= OFTEN or reading == "together":
        return None
    if reading == "order":
        return Finding(f"{BASKETS.format(follow)} (data.ties: order).", outcome=Outcome.SHIP)
    remedy = "Set data.ties: together, or order where the file has the order in which they happened."
    return Finding(f"{BASKETS.format(follow)}.", remedy)


def weak_start(test: ComparisonTable, validation: ComparisonTable) -> Finding | None:
    """The gate: whether `START` ranks below one of `UNTRAINED_RANKINGS` on validation, or reliably on the test.

    Validation counts by its point estimate. Training a better start would then gain more than alignment.
    """
    own, below = validation.column(NDCG_ALL), []
    for row in UNTRAINED_RANKINGS:
        more = test.get(row, f"diff_{START}/{NDCG_ALL}")
        if START in own and row in own and own[START].value < own[row].value:
            below.append(f"{row} on validation ({NDCG_ALL} {own[START].value:.4f} beside {own[row].value:.4f})")
        if more is not None and more.low > 0:
            below.append(f"{row} on the test ({row} has {more} more)")
    remedy = (
        f"Train a better {START}: for longer, wider or narrower, with another encoder; recalign tune recommender "
        "searches. Align it once it ranks above both."
    )
    text = f"{START} ranks below {' and below '.join(below)}, which takes no training."
    return Finding(text, remedy) if below else None


def start(test: ComparisonTable) -> Iterator[Finding]:
    """Whether the better baseline ranks anything, so that there is something to keep."""
    baseline = test.better_baseline(ALL_USERS)
    if baseline is not None and test.column(ALL_USERS)[baseline].value == 0:
        text = f"{baseline} ranks no item of the test events among its first ten, so nothing is there to be kept."
        yield Finding(text, "See what recalign check says of the test events, such as items unseen in training.")


def few_hits(test: ComparisonTable) -> Iterator[Finding]:
    """Whether the better baseline has enough top-10 hits for a loss of ranking to be detectable."""
    baseline = test.better_baseline(ALL_USERS)
    hits = test.get(baseline, HITS) if baseline else None
    if hits is None or not math.isfinite(hits.value):
        yield Finding("How many test events the baseline ranks among its first ten is not known.", "Compare again.")
    elif 0 < hits.value < MIN_HITS:
        text = f"{baseline} ranks {math.floor(hits.value)} of the {test.split} events among its first ten: too few to"
        text += f" tell whether {MIN_NDCG_RETAINED:.0%} are kept ({MIN_HITS} are needed)."
        yield Finding(text, "Add users, or test events of each (data.split).")


def no_better_than_untrained(test: ComparisonTable) -> str | None:
    """A caveat if `START` ranks no better, by point estimate, than an untrained row; None if it ranks better."""
    own = test.column(NDCG_ALL)
    if START not in own or own[START].value == 0:  # `unmeasured` and `start` say so
        return None
    ahead = [row for row in NON_LEARNED_BASELINES if row in own and own[row].value >= own[START].value]
    if not ahead:
        return None
    best = max(ahead, key=lambda name: own[name].value)
    return (
        f"{START} ranks no better than {best}, which takes no training ({NDCG_ALL} {own[START].value:.4f} beside "
        f"{own[best].value:.4f}): to train it better, or longer, may gain more than alignment does."
    )


def within_requests(test: ComparisonTable, policy: str | None) -> str | None:
    """How a row and `START` rank a request's items; decides nothing. None if the log does not say what was shown."""
    own, start = test.get(policy or START, SHOWN_AUC), test.get(START, SHOWN_AUC)
    if own is None or start is None:
        return None
    more = test.get(str(policy), f"diff_{START}/{SHOWN_AUC}")
    text = f"Of what a request showed, {START} ranks the choice above what was not chosen in {start.value:.0%} of pairs"
    return f"{text}{f', {policy} in {own.value:.0%} ({more})' if more else ''}: a coin has 50%."


def uninformative_judges(reports: Reports, seeds: int) -> Iterator[Finding]:
    """Whether the judges of some seed may be guessing, or whether that is unknown."""
    remedy = "Give the judges more users (a smaller data.share_a), or a reward with less noise."
    unknown = "their values are not known to mean anything."
    seen = pairwise(reports)
    if 0 < len(reports) < seeds:
        text = f"Nothing tells what the judges know with {seeds - len(reports)} of {seeds} seeds."
        yield Finding(text, "Run the chain again with all of them.")
    elif seen is None or not seen.known:
        text = f"Nothing tells whether the judges can order two rewards of one user: {unknown}"
        yield Finding(text, "Keep more validation events a user.")
    elif not seen.low > CHANCE:
        text = f"The judges order {seen.percent} of two rewards of one user right, which may be chance"
        yield Finding(f"{text}: their values say nothing.", remedy)


def unmeasured(test: ComparisonTable) -> Iterator[Finding]:
    """Whether gains have no unit, or controls of every candidate were not run or not measured."""
    if test.unit == 0:
        yield Finding("The rewards do not vary, so no gain can be judged.", "Choose another data.reward.")
    elif not math.isfinite(test.unit):
        yield Finding("The spread of the rewards is not known, so no gain can be judged.", "Evaluate again.")
    wanted = dict.fromkeys([*test.roles.baselines, *REWARD_FREE, *NON_LEARNED_BASELINES])
    if missing := ", ".join(name for name in wanted if name not in test.methods):
        yield Finding(f"Controls that were not run: {missing}.", f"Add to methods: {missing}.")
    cells = {row: (test.get(row, NDCG_ALL), test.get(row, JUDGE_VALUE)) for row in wanted if row in test.methods}
    if unknown := [row for row, pair in cells.items() if not all(cell and cell.known for cell in pair)]:
        yield Finding(f"Controls that were not measured: {', '.join(unknown)}.", "Evaluate again.")


def reward_model(test: ComparisonTable, row: str, reports: Reports) -> Iterator[Finding]:
    """Whether the reward model has a signal, if the row reads it."""
    reads = test.get(row, READS_REWARD_MODEL)
    if reads is not None and not reads.value:
        return
    verdicts = {seed: report["verdict"] for seed, report in reports.items()}
    silent = [seed for seed, verdict in verdicts.items() if verdict == "no_signal"]
    subject = f"The reward model, which {row} follows, shows no signal"
    if silent and len(silent) == len(verdicts) >= test.shared_seeds(row):
        yield Finding(f"{subject}.", outcome=Outcome.DO_NOT_SHIP)
    elif silent:
        yield Finding(f"{subject} with seed{'s' * (len(silent) > 1)} {', '.join(silent)}.")
    elif len(verdicts) < max(test.shared_seeds(row), 1) or "not_measured" in verdicts.values():
        text = f"Nothing tells whether the reward model, which {row} follows, knows what a user prefers."
        implied = (report["implication"] for report in reports.values() if report["verdict"] == "not_measured")
        yield Finding(text, next(implied, "Run `recalign test --config RUN/config.yaml` of the reward model."))


def placebos(test: ComparisonTable, row: str) -> Iterator[Finding]:
    """Whether a row has placebos, and each destroyed the rewards' signal."""
    for part in test.roles.without_placebo(row):
        remedy = "Name one (placebos), such as the same method on recalign.posttrain.PermutedPostTrainingData."
        yield Finding(f"{part} has no placebo.", remedy)
    for placebo in test.roles.placebos_of(row):
        if flaw := placebo_flaw(test, placebo):
            remedy = f"Add to methods: {placebo}." if placebo not in test.methods else "Give it more events."
            yield Finding(f"The placebo {placebo} {flaw}.", remedy)


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


def fewer_seeds(test: ComparisonTable, row: str) -> Iterator[Finding]:
    """Rows that share only some of a row's seeds: the missing seeds could change the comparison."""
    roles, own = test.roles, test.shared_seeds(row)
    others = [*roles.baselines, *REWARD_FREE, *NON_LEARNED_BASELINES, *roles.placebos_of(row)]
    shared = {other: test.shared_seeds(row, other) for other in others if other in test.methods}
    if fewer := [f"{other} ({count})" for other, count in shared.items() if count < own]:
        text = f"Run with fewer seeds than the {own} of {row}: {', '.join(fewer)}."
        yield Finding(text, "Run every row with the same seeds.")
