"""`comparison.csv` by method and metric: what the tables, the plots and the report read."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from recalign.evaluation.comparison import ALL, EVALUATED, TESTED
from recalign.evaluation.roles import Roles


class Interval(NamedTuple):
    """A mean over seeds and its interval; nan where a metric has no interval (one seed of a plain number)."""

    value: float
    low: float
    high: float

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)

    def __str__(self) -> str:
        """A difference: ``+0.0200 [+0.0100, +0.0300]``."""
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


class ComparisonTable:
    """The rows over all seeds of one split, from the frame that `comparison.compare` returns."""

    def __init__(self, frame: pl.DataFrame, roles: Roles, split: str = "test") -> None:
        of_split = frame.filter(split=split)
        means = of_split.filter(seed="all").with_columns(pl.col("ci_low", "ci_high").fill_null(float("nan")))
        self._cells = {(row[0], row[3]): Interval(*row[4:]) for row in means.iter_rows()}
        self.roles = roles
        self.methods = of_split["method"].unique(maintain_order=True).to_list()
        single = of_split.filter(pl.col("seed") != "all")
        self.seeds = sorted(single["seed"].unique(), key=int)
        self._seeds = {method: set(rows["seed"]) for (method,), rows in single.group_by("method")}
        self.metrics = set(of_split["metric"])

    def get(self, method: str, metric: str) -> Interval | None:
        """One figure, or None."""
        return self._cells.get((method, metric))

    def shared_seeds(self, *methods: str) -> int:
        """How many seeds all of some methods have."""
        return len(set.intersection(*(self._seeds.get(method, set()) for method in methods)))

    def column(self, metric: str) -> dict[str, Interval]:
        """The methods that have a metric, in their order."""
        return {method: cell for method in self.methods if (cell := self.get(method, metric))}

    def better_baseline(self, metric: str) -> str | None:
        """The method that ``diff_best_bc/<metric>`` is against."""
        return self.roles.better_baseline({method: cell.value for method, cell in self.column(metric).items()})

    def kept(self, method: str) -> float:
        """`all/ndcg@10` over that of the better baseline; nan where one is missing or the latter is 0."""
        baseline, cell = self.better_baseline(ALL), self.get(method, ALL)
        base = self.column(ALL)[baseline].value if baseline else 0.0
        return cell.value / base if cell and base else float("nan")

    @property
    def sample(self) -> str:
        """Names the sample of users that was evaluated; empty where all were."""
        some, whole = (max((x.value for x in self.column(name).values()), default=0) for name in (EVALUATED, TESTED))
        return f"a fixed sample of {some:,.0f} of {whole:,.0f} users" if some < whole else ""

    def mark(self, method: str, metric: str) -> int:
        """1 or -1 where a method is better or worse than the better baseline, after Holm; else 0."""
        cell = self.get(method, f"holm_best_bc/{metric}")
        return cell.sign if cell else 0


def figure(metric: str, value: float) -> str:
    """A figure with as many digits as its metric deserves."""
    if metric == "cost/seconds":
        return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"
    if metric == "policy/coverage@10":
        return f"{value:.1%}"
    return f"{value:.3f}" if metric.startswith(("value", "tail/value/", "policy/")) else f"{value:.4f}"
