"""`comparison.csv` by method and metric: what the tables, the plots and the report read."""

from __future__ import annotations

import math
import re
from statistics import NormalDist
from typing import NamedTuple

import polars as pl

from recalign.evaluation.comparison import JUDGE_VALUE
from recalign.evaluation.evaluated_runs import ALL_USERS
from recalign.evaluation.methods import EVALUATED, UNIT
from recalign.evaluation.networks import JUDGE_UNIT, TESTED
from recalign.evaluation.roles import BEST, Roles

DIFFERENCE = re.compile(r"(diff|holm|gain_minus_2x)_[^/]+/(value|gap|tail/value)/")
"""Names of differences in value, which are given in standard deviations of the reward."""
OF_REWARD = re.compile(r"/(reward_model|true)(@10)?$")
"""Metrics of the chain's reward, even if the judges predict another reward."""


class Interval(NamedTuple):
    """A mean over seeds and its interval; nan where a metric has no interval (one seed of a plain number)."""

    value: float
    low: float
    high: float

    def lower(self, confidence: float) -> float:
        """One-sided lower bound: a normal distribution with the standard error `error`."""
        return self.value - NormalDist().inv_cdf(confidence) * self.error

    def errors_above(self, limit: float) -> float:
        """How many standard errors the value lies above a limit; -inf if the error is 0 or nan."""
        return (self.value - limit) / self.error if self.error > 0 else -math.inf

    @property
    def error(self) -> float:
        """The standard error, from the distance between the value and the interval's lower end."""
        return (self.value - self.low) / NormalDist().inv_cdf(0.975)

    @property
    def known(self) -> bool:
        """Whether the value and both ends are numbers."""
        return all(map(math.isfinite, self))

    def __str__(self) -> str:
        """A difference: ``+0.0200 [+0.0100, +0.0300]``."""
        return f"{self.value:+z.4f} [{self.low:+z.4f}, {self.high:+z.4f}]"

    @property
    def sd(self) -> str:
        """A gain in standard deviations of the reward: ``+0.12 sd [+0.08, +0.16]``."""
        return f"{self.value:+z.3f} sd [{self.low:+z.3f}, {self.high:+z.3f}]"

    @property
    def percent(self) -> str:
        """A share: ``97.0% [94.0%, 100.0%]``."""
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


class ComparisonTable:
    """The rows over all seeds of one split, from the frame of `chain_comparison.RunsComparison`.

    Differences in value are given in standard deviations of the training rewards of users A, if these are known: then
    neither the reward's unit nor its zero matters.

    Attributes:
        unit: that standard deviation, in the reward's own unit; nan where it is unknown.
        apart: whether the judges have a reward of their own. The unit is then that of their training rewards, and
            differences in the chain's reward (`OF_REWARD`) stay in its unit.
        judged: whether the judges order rewards better than chance; else their values get no marks, since intervals
            cover the choice of users and not the judges' errors.
    """

    def __init__(self, frame: pl.DataFrame, roles: Roles, split: str = "test", judged: bool = True) -> None:
        self.split, self.judged = split, judged
        of_split = frame.filter(split=split)
        means = of_split.filter(seed="all").with_columns(pl.col("ci_low", "ci_high").fill_null(float("nan")))
        self.apart = not frame.filter(seed="all", metric=JUDGE_UNIT).is_empty()
        # The test's unit, for validation too.
        units = frame.filter(seed="all", metric=JUDGE_UNIT if self.apart else UNIT)["value"]
        self.unit = float(units.mean()) if len(units) else float("nan")  # type: ignore[arg-type]
        self._cells = {}
        for method, _, _, metric, *cell in means.iter_rows():
            unit = self.unit if self.in_sd(metric) else 1
            self._cells[method, metric] = Interval(*(end / unit for end in cell))
        self.roles, self.metrics = roles, set(of_split["metric"])
        self.methods = of_split["method"].unique(maintain_order=True).to_list()
        self._single = of_split.filter(pl.col("seed") != "all")
        self._seeds = {method: set(rows["seed"]) for (method,), rows in self._single.group_by("method")}
        self.seeds = sorted(set().union(*self._seeds.values()), key=int)

    def get(self, method: str, metric: str) -> Interval | None:
        """A metric's mean over seeds with its interval, or None."""
        return self._cells.get((method, metric))

    def of_seeds(self, method: str, metric: str) -> list[float]:
        """One figure for each seed; differences in value are in the reward's own unit."""
        return self._single.filter(method=method, metric=metric)["value"].to_list()

    def shared_seeds(self, *methods: str) -> int:
        """How many seeds these methods have in common."""
        return len(set.intersection(*(self._seeds.get(method, set()) for method in methods)))

    def column(self, metric: str) -> dict[str, Interval]:
        """The methods that have a metric, in their order."""
        return {method: cell for method in self.methods if (cell := self.get(method, metric))}

    def better_baseline(self, metric: str) -> str | None:
        """The method that ``diff_best_baseline/<metric>`` is against."""
        return self.roles.better_baseline({method: cell.value for method, cell in self.column(metric).items()})

    def retained(self, method: str) -> float:
        """NDCG retained: NDCG@10 of all users divided by the better baseline's, over the seeds that both have.

        nan if one is missing or the baseline's is 0.
        """
        if method == self.better_baseline(ALL_USERS):
            return 1.0 if self._base(method) else float("nan")
        kept = self._share(method)
        return kept.value if kept else float("nan")

    def retained_interval(self, method: str) -> Interval | None:
        """`retained` with the interval of the paired difference; None where it is unknown."""
        kept = self._share(method)
        return kept if kept and kept.known else None

    def _share(self, method: str) -> Interval | None:
        base, change = self._base(method), self.get(method, f"diff_{BEST}/{ALL_USERS}")
        return Interval(*(1 + end / base for end in change)) if change and base else None

    def _base(self, method: str) -> float:
        """NDCG@10 of the better baseline over the seeds that a method has too; 0 where there is no baseline."""
        if (baseline := self.better_baseline(ALL_USERS)) is None:
            return 0.0
        both = sorted(self._seeds.get(baseline, set()) & self._seeds.get(method, set()))
        found = self._single.filter(pl.col("seed").is_in(both), method=baseline, metric=ALL_USERS)["value"]
        return float(found.mean()) if len(found) else self.column(ALL_USERS)[baseline].value  # type: ignore[arg-type]

    def gain(self, method: str, over: str = BEST) -> Interval | None:
        """A method's value less a reference's, in standard deviations of the reward; None where it is unknown."""
        return self._known(method, f"diff_{over}/{JUDGE_VALUE}")

    def gain_over_placebo(self, method: str, placebo: str) -> Interval | None:
        """A method's gain less `PLACEBO_FACTOR` times a placebo's, in the same unit; None where it is unknown."""
        return self._known(method, f"gain_minus_2x_{placebo}/{JUDGE_VALUE}")

    def in_sd(self, metric: str) -> bool:
        """Whether a metric is read in standard deviations of the reward."""
        own = self.apart and bool(OF_REWARD.search(metric))
        return self.unit > 0 and not own and bool(DIFFERENCE.match(metric))

    def _known(self, method: str, metric: str) -> Interval | None:
        cell = self.get(method, metric)
        return cell if cell and cell.known and self.in_sd(metric) else None

    @property
    def sample(self) -> str:
        """Names the sample of users that was evaluated; empty where all were."""
        some, whole = (max((x.value for x in self.column(name).values()), default=0) for name in (EVALUATED, TESTED))
        return f"a fixed sample of {some:,.0f} of {whole:,.0f} users" if some < whole else ""

    def mark(self, method: str, metric: str) -> int:
        """1 or -1 where a method is better or worse than the better baseline, after Holm; else 0."""
        if metric.endswith("value/judge@10") and not self.judged:
            return 0
        return cell.sign if (cell := self.get(method, f"holm_best_baseline/{metric}")) else 0


def figure(metric: str, value: float) -> str:
    """A figure with as many digits as its metric deserves."""
    if metric == "cost/seconds":
        return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"
    if metric == "policy/coverage@10":
        return f"{value:.1%}"
    return f"{value:z.3f}" if metric.startswith(("value", "tail/value/", "policy/")) else f"{value:z.4f}"
