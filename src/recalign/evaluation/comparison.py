"""Compare the methods of a table: `comparison.csv`, one row per method, seed, split and metric.

Metrics are means over events (`METRICS`) and the plain numbers of each `summary.json`. For the metrics where more is
better, methods are also compared with one reference at a time (`Roles.compared_with`), paired within seed, user and
event:

- ``diff_<reference>/<metric>``: method minus reference, with its own 95 % interval;
- ``holm_<reference>/<metric>``: the same difference, its interval widened by Holm for the number of methods;
- ``p_<reference>/<metric>``: its two-sided bootstrap p-value, adjusted by Holm.

Two kinds of difference serve the decision alone, without Holm's correction: a row's gain in value minus
`PLACEBO_FACTOR` times the gain of each of its placebos (``gain_minus_2x_<placebo>/<metric>``), and a row's ranking and
value minus those of `NON_LEARNED_BASELINES`, such as popularity.

``best_baseline`` is the baseline with the highest mean of the metric over its seeds, in that split. A row with
``seed=all`` is the mean over seeds with a 95 % interval over users and seeds (nan for a single user; for plain numbers
over seeds, or none). A metric that a method lacks has no row; a reference has none against itself; methods are paired
on the seeds that both have.

Suffixes: E events, R rows (a method's seeds, or differences), U users, S seeds, D draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import track

from recalign.bootstrap import CrossedBootstrap, Estimate, holm, holm_intervals
from recalign.evaluation.evaluated_runs import ALL_USERS, GAPS, RANKS, EvaluatedRun
from recalign.evaluation.methods import EVALUATION_SPLITS
from recalign.evaluation.roles import BEST, NON_LEARNED_BASELINES, Roles

NDCG_ALL, NDCG_HIGH, JUDGE_VALUE, SHOWN_AUC = "all/ndcg@10", "high/ndcg@10", "value/judge@10", "shown/auc"
PLACEBO_FACTOR = 2
"""A gain has to exceed a placebo's gain times this factor."""
HITS = "all_users/hits@10"
"""Number of a split's events whose item a row ranks in its top ten: the hits behind `ALL_USERS`."""
VALUES = ("judge@10", "select_judge@10", "reward_model@10", "true@10", "true")
GROUPS = {"all": None, "high": "high", "high_users": "high_user", "tail/high": "tail_high"}
# metric -> the column of its values, and the boolean column of its events (None: all events)
METRICS: dict[str, tuple[str, str | None]] = {
    **{f"{group}/{rank}": (rank, flag) for group, flag in GROUPS.items() for rank in RANKS},
    ALL_USERS: (ALL_USERS, None),
    **{f"value/{name}": (name, None) for name in VALUES},
    **{f"tail/value/{name}": (name, "tail") for name in ("judge@10", "true@10")},
    **{gap: (gap, None) for gap in GAPS},
    **{name: (name, None) for name in (SHOWN_AUC, "shown/ndcg")},
    **{f"policy/{name}": (name, None) for name in ("kl", "changed@10", "entropy", "popularity@10")},
}
OF_USERS = (HITS, "value", "policy/coverage@10", "policy/ndcg_retained", "cold_targets", "reward/user_sd", "offpolicy/")
"""Plain numbers that vary mostly between users (prefixes): they get no interval from the spread over seeds."""
MIN_DRAWS = 80
"""Fewest bootstrap draws per row. Holm multiplies the smallest p-value, 2 / (draws + 1), by the number of rows: below
40 draws per row nothing can be significant; with twice as many no interval ends at the most extreme draw."""
SCHEMA = dict.fromkeys(("method", "seed", "split", "metric"), pl.String) | dict.fromkeys(
    ("value", "ci_low", "ci_high"), pl.Float64
)

CsvRow = tuple[str, str, str, str, float, float | None, float | None]
Events = dict[int, np.ma.MaskedArray]  # seed -> (E,) value of each event, masked where it has none
Name = tuple[str, str]  # the kind of difference (``diff_start``; empty: the metric itself), and the method
Contrast = tuple[Name, Events]
Plain = dict[tuple[str, str], dict[int, float]]  # (method, metric) -> seed -> a plain number


def tabulate(
    runs: Sequence[EvaluatedRun], roles: Roles, draws: int = 2000, metrics: Iterable[str] = METRICS
) -> pl.DataFrame:
    """The rows of `comparison.csv` of runs that were measured on the same events, grouped by split and metric."""
    splits = [split for split in EVALUATION_SPLITS if any(split in run.splits for run in runs)]
    tables = [SplitTable(runs, split, roles, draws) for split in splits]
    measured = [(table, metric) for table in tables for metric in metrics]
    console = Console(stderr=True)
    shown = track(measured, "comparing", console=console, transient=True, disable=not console.is_terminal)
    rows = [row for table, metric in shown for row in table.rows(metric)]
    rows += _plain_rows(_summary_metrics(runs), "test", [(run.method, run.seed) for run in runs], draws)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


class SplitTable:
    """The rows of one split, with the bootstrap over its users."""

    def __init__(self, runs: Sequence[EvaluatedRun], split: str, roles: Roles, draws: int) -> None:
        self.split, self.roles = split, roles
        self.frames = {(run.method, run.seed): run.splits[split] for run in runs if split in run.splits}
        user = next(iter(self.frames.values()))["user"].to_numpy()
        self.first_U = np.flatnonzero(np.diff(user, prepend=-1))  # index of each user's first event
        min_draws = MIN_DRAWS * len({method for method, _ in self.frames})
        self.bootstrap = CrossedBootstrap(len(self.first_U), max(draws, min_draws))

    def rows(self, metric: str) -> Iterator[CsvRow]:
        """Rows of a metric and of its differences to each reference."""
        if metric == ALL_USERS:
            yield from self._hits()
        events = self._events(*METRICS[metric])
        measured = {("", method): by_seed for method, by_seed in events.items()} | dict(self._contrasts(metric, events))
        estimates: dict[Name, Estimate] = {}
        for name, (value_S, estimate) in zip(measured, self._estimates(list(measured.values())), strict=True):
            estimates[name] = estimate
            contrast, method = name
            column = f"{contrast}/{metric}" if contrast else metric
            for seed, value in zip(measured[name], value_S, strict=True):
                yield method, str(seed), self.split, column, value, None, None
            yield method, "all", self.split, column, estimate.value, *estimate.interval()
        for reference in self.roles.compared_with():
            family = {method: x for (contrast, method), x in estimates.items() if contrast == f"diff_{reference}"}
            yield from self._corrected(f"{reference}/{metric}", family)

    def _hits(self) -> Iterator[CsvRow]:
        """Rows of `HITS`."""
        hits: Plain = {}
        for (method, seed), frame in self.frames.items():
            hits.setdefault((method, HITS), {})[seed] = float((frame[ALL_USERS] > 0).sum())
        yield from _plain_rows(hits, self.split, self.frames, self.bootstrap.draws)

    def _corrected(self, name: str, family: dict[str, Estimate]) -> Iterator[CsvRow]:
        """Rows of a family of differences, by method, after Holm's correction."""
        estimates = list(family.values())
        p_values = holm([estimate.p_value() for estimate in estimates])
        for method, estimate, interval, p in zip(family, estimates, holm_intervals(estimates), p_values, strict=True):
            yield method, "all", self.split, f"holm_{name}", estimate.value, *interval
            yield method, "all", self.split, f"p_{name}", float(p), None, None

    def _events(self, column: str, flag: str | None) -> dict[str, Events]:
        """A metric's values by method and seed, for the runs that have events of it."""
        events: dict[str, Events] = {}
        for (method, seed), frame in self.frames.items():
            if {column, flag or column} <= set(frame.columns):
                present = frame[column].is_not_null()
                if flag:
                    present &= frame[flag].fill_null(False)
                if present.any():
                    value_E = frame[column].fill_null(0.0).to_numpy()
                    events.setdefault(method, {})[seed] = np.ma.masked_array(value_E, ~present.to_numpy())
        return events

    def _contrasts(self, metric: str, events: dict[str, Events]) -> Iterator[Contrast]:
        """All differences between methods in a metric, event by event."""
        if not metric.startswith("policy/"):  # where more is neither better nor worse, there is nothing to gain
            for reference in self.roles.compared_with():
                yield from self._differences(reference, events, events)
        if metric in (NDCG_ALL, JUDGE_VALUE):
            for reference in NON_LEARNED_BASELINES:
                yield from self._differences(reference, self.roles.candidates(events), events)
        if metric == JUDGE_VALUE:
            yield from self._beyond_placebos(events)

    def _differences(self, reference: str, methods: Iterable[str], events: dict[str, Events]) -> Iterator[Contrast]:
        """Methods minus a reference, on the seeds and events that both have."""
        subtracted = self._better_baseline(events) if reference == BEST else reference
        other = events.get(subtracted, {})
        for method in methods:
            paired = {seed: value_E - other[seed] for seed, value_E in events[method].items() if seed in other}
            paired = {seed: difference_E for seed, difference_E in paired.items() if difference_E.count()}
            if paired and method != subtracted:
                yield (f"diff_{reference}", method), paired

    def _beyond_placebos(self, events: dict[str, Events]) -> Iterator[Contrast]:
        """Candidates' gains minus `PLACEBO_FACTOR` times the gains of their placebos, on the seeds that all have."""
        base = events.get(self._better_baseline(events), {})
        for method in self.roles.candidates(events):
            for placebo in self.roles.placebos_of(method):
                value, sham = events[method], events.get(placebo, {})
                seeds = sorted(value.keys() & sham.keys() & base.keys())
                beyond = {s: value[s] - base[s] - PLACEBO_FACTOR * (sham[s] - base[s]) for s in seeds}
                if beyond and all(beyond_E.count() for beyond_E in beyond.values()):
                    yield (f"gain_minus_2x_{placebo}", method), beyond

    def _better_baseline(self, events: dict[str, Events]) -> str:
        """The baseline with the highest mean over its seeds; empty if there is none."""
        means = {method: float(np.mean([x_E.mean() for x_E in by_seed.values()])) for method, by_seed in events.items()}
        return self.roles.better_baseline(means) or ""

    def _estimates(self, measured: Sequence[Events]) -> Iterator[tuple[np.ndarray, Estimate]]:
        """The mean of each metric with each seed, (S,), and its mean over seeds."""
        if not measured:
            return
        value_RE = [value_E for by_seed in measured for value_E in by_seed.values()]
        present_RE = [~np.ma.getmaskarray(value_E) for value_E in value_RE]
        total_RU = np.stack([np.add.reduceat(value_E.filled(0.0), self.first_U) for value_E in value_RE])
        count_RU = np.stack([np.add.reduceat(present_E, self.first_U, dtype=float) for present_E in present_RE])
        value_R, drawn_DR = self.bootstrap.ratios(total_RU, count_RU)
        start = 0
        for by_seed in measured:
            seeds = slice(start, start := start + len(by_seed))
            if count_RU[seeds].any(axis=0).sum() == 1:  # a single user is in every draw: no interval
                drawn_DR[:, seeds] = np.nan
            yield value_R[seeds], self.bootstrap.over_seeds(value_R[seeds], drawn_DR[:, seeds])


def _summary_metrics(runs: Sequence[EvaluatedRun]) -> Plain:
    """The plain numbers in `summary.json`, under their own names (`coverage@10` under `policy/`)."""
    metrics: Plain = {}
    for run in runs:
        for key, value in run.summary.items():
            if isinstance(value, int | float) and key != "seed":
                metric = "policy/coverage@10" if key == "coverage@10" else key
                metrics.setdefault((run.method, metric), {})[run.seed] = float(value)
    return metrics


def _plain_rows(metrics: Plain, split: str, runs: Iterable[tuple[str, int]], draws: int) -> Iterator[CsvRow]:
    """Rows of plain numbers, by method and seed.

    A metric that a method lacks with some seed has no row ``all``: its mean would be over fewer seeds.
    """
    seeds = Counter(method for method, _ in runs)
    over_seeds = CrossedBootstrap(users=1, draws=draws).over_seeds
    for (method, metric), by_seed in metrics.items():
        for seed, value in by_seed.items():
            yield method, str(seed), split, metric, value, None, None
        if len(by_seed) == seeds[method]:
            value_S = np.array(list(by_seed.values()))
            estimate = over_seeds(value_S, np.tile(value_S, (draws, 1)))
            known = len(by_seed) > 1 and not metric.startswith(OF_USERS)
            yield method, "all", split, metric, estimate.value, *(estimate.interval() if known else (None, None))
