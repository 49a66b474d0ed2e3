"""Compare all methods of a chain: `comparison.csv`, one row a method, seed, split and metric.

Metrics are those of the events (`METRICS`) and the plain numbers of each `summary.json`. For the metrics where more is
better, methods are also compared with one reference at a time (`Roles.compared_with`), paired within seed, user and
event:

- ``diff_<reference>/<metric>``: method minus reference, with its own 95 % interval;
- ``holm_<reference>/<metric>``: the same difference, the interval widened by Holm for as many methods as there are;
- ``p_<reference>/<metric>``: its two-sided bootstrap p, adjusted by Holm.

Two kinds of difference serve the decision alone, and have no Holm's correction here: a row's gain in value less
`PLACEBO_FACTOR` times that of each of its placebos (``gain_minus_2x_<placebo>/<metric>``), and a row's ranking and
value less those of rows that take no training (`Roles.untrained`: popularity, say).

``best_baseline`` is the one with the higher mean of that metric over its seeds, in that split. A row with ``seed=all``
is the mean over seeds with a 95 % interval over users and seeds (plain numbers: seeds, or none). What a method does not
have has no row; a reference has none against itself; methods are paired on the seeds that both have.

Suffixes: E events, R rows (a method's seeds, or differences), U users, S seeds, D draws.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.progress import track

from recalign import artifacts
from recalign.bootstrap import CrossedBootstrap, Estimate, holm, holm_intervals
from recalign.code import code_digest
from recalign.errors import InputError
from recalign.evaluation.evaluated_runs import GAPS, RANKS, SPLITS, Run, evaluated, load_runs
from recalign.evaluation.evaluated_runs import UNIT as UNIT
from recalign.evaluation.roles import BEST, Roles
from recalign.files import sha256, write_text

ALL, HIGH, VALUE = "all/ndcg@10", "high/ndcg@10", "value/judge@10"
USER_SPREAD = "reward/user_sd"
"""Standard deviation, over users A, of each user's mean reward in the test; `UNIT` is that of the training rewards."""
JUDGE_UNIT = "judge/sd"
"""Of judges with a reward of their own: the standard deviation of their training rewards. `USER_SPREAD` is unknown."""
PLACEBO_FACTOR = 2
"""A gain has to exceed so many times what a placebo gains."""
HITS = "all/hits@10"
"""Number of a split's events whose item a row ranks among its first ten: what `ALL` rests on."""
EVALUATED = "users/evaluated"
TESTED = "users/tested"  # all users with test events; where a sample was evaluated
VALUES = ("judge@10", "select_judge@10", "reward_model@10", "true@10", "true")
GROUPS = {"all": None, "high": "high", "high_users": "high_user", "tail/high": "tail_high"}
# metric -> the column of its values and that of the events it is about (None: all of them)
METRICS: dict[str, tuple[str, str | None]] = {
    **{f"{group}/{rank}": (rank, flag) for group, flag in GROUPS.items() for rank in RANKS},
    **{f"value/{name}": (name, None) for name in VALUES},
    **{f"tail/value/{name}": (name, "tail") for name in ("judge@10", "true@10")},
    **{gap: (gap, None) for gap in GAPS},
    **{f"policy/{name}": (name, None) for name in ("kl", "entropy", "popularity@10")},
}
SCHEMA = {"method": pl.String, "seed": pl.String, "split": pl.String, "metric": pl.String} | dict.fromkeys(
    ("value", "ci_low", "ci_high"), pl.Float64
)
FILE = "comparison.csv"
RECORD = "chain.json"
"""What a chain leaves in its folder: its settings."""

Row = tuple[str, str, str, str, float, float | None, float | None]
Events = dict[int, np.ma.MaskedArray]  # seed -> (E,) value of each event, masked where it has none


@dataclass(frozen=True)
class RunsComparison:
    """The comparison of a chain's evaluations, `comparison.csv` (`recalign.artifacts.Kept`).

    Evaluations of checkpoints that are gone, or are others by now, are left out, with a line that says so.

    Attributes:
        folder: `runs/<chain>`.
        draws: of the bootstrap.
        methods, seeds: those to compare, methods in the order of the rows; None: all, also what an earlier chain left.
        roles: of the methods, kept in `roles.json`; None: read from there, with the order of the rows.
    """

    folder: Path
    draws: int = 2000
    methods: Sequence[str] | None = None
    seeds: Collection[int] | None = None
    roles: Roles | None = None

    @property
    def name(self) -> str:
        return str(self.folder / FILE)

    def state(self) -> artifacts.State:
        """Whether it is there, of the evaluations that lie there, and whether they are of the checkpoints there."""
        return artifacts.check(self.folder, self._key(*self._roles()))

    def load(self) -> pl.DataFrame:
        """The table that is there; its roles are written again, for whoever altered them."""
        if self.roles is not None:
            self.roles.save(self.folder, self.methods or ())
        return read(self.folder)

    def make(self) -> pl.DataFrame:
        """Compare the evaluations, and write the table.

        Raises:
            InputError: there is no such folder, no fresh evaluation in it, one was altered, or methods were measured on
                different events.
        """
        runs = load_runs(self.folder, self.methods, self.seeds)
        roles, order = self._roles()
        if order and (left := sorted({run.method for run in runs}.difference(order))):
            what = "rows that an earlier chain left here, with settings of its own"
            print(f"also compared, {what}: {', '.join(left)}", file=sys.stderr)
        frame = tabulate(runs, roles, self.draws)
        places = pl.Enum(list(dict.fromkeys([*order, *sorted(frame["method"].unique())])))
        frame = frame.sort(pl.col("method").cast(places), maintain_order=True)
        if self.roles is not None:
            roles.save(self.folder, order)
        write_text(self.folder / FILE, frame.write_csv())
        made_of = {name: sha256(self.folder / name) for name in self._seals([(run.method, run.seed) for run in runs])}
        artifacts.seal(self.folder, self._key(roles, order), made_of, FILE)
        return frame

    def _roles(self) -> tuple[Roles, list[str]]:
        """The roles and the order of the rows."""
        if self.roles is not None:
            return self.roles, list(self.methods or ())
        roles, stored = Roles.load(self.folder)
        return roles, list(self.methods or stored)

    def _key(self, roles: Roles, order: Sequence[str]) -> dict[str, Any]:
        """All that determines the table but the evaluations themselves."""
        there = evaluated(self.folder, self.methods, self.seeds)
        found = [(method, seed) for method, seed, folder in there if not artifacts.outdated(folder)]
        code = code_digest()
        rows = {"order": list(order), "roles": asdict(roles), "evaluations": self._seals(found)}
        return rows | {"draws": self.draws, "code": code}

    def _seals(self, rows: Iterable[tuple[str, int]]) -> list[str]:
        """The seals of the evaluations of some methods and seeds that have one, by path in the folder."""
        names = [f"{method}/seed-{seed}/evaluation/{artifacts.SEAL}" for method, seed in rows]
        return [name for name in names if (self.folder / name).is_file()]


def tabulate(runs: Sequence[Run], roles: Roles, draws: int = 2000, metrics: Iterable[str] = METRICS) -> pl.DataFrame:
    """The rows of `comparison.csv` of runs that were measured on the same events, grouped by split and metric."""
    splits = [split for split in SPLITS if any(split in run.splits for run in runs)]
    tables = [SplitTable(runs, split, roles, draws) for split in splits]
    each = [(table, metric) for table in tables for metric in metrics]
    console = Console(stderr=True)
    shown = track(each, "comparing", console=console, transient=True, disable=not console.is_terminal)
    rows = [row for table, metric in shown for row in table.rows(metric)]
    return pl.DataFrame(rows + _summary_rows(runs, draws), schema=SCHEMA, orient="row")


def read(chain_folder: Path) -> pl.DataFrame:
    """Read the `comparison.csv` of a chain.

    Raises:
        InputError: there is none, or evaluations or checkpoints that it is made of are others by now. Evaluations that
            came later are not in it.
    """
    path = chain_folder / FILE
    if not path.is_file():
        remedy = f"run `recalign compare {chain_folder}` first"
        raise InputError("there is no such file", where=str(path), remedy=remedy)
    state = artifacts.check(chain_folder)
    if state.sealed and not state.fresh:
        remedy = f"run `recalign chain` again, or `recalign compare {chain_folder}` for what is left"
        raise InputError(f"it is not of what lies here ({state})", where=str(path), remedy=remedy)
    return pl.read_csv(path, schema=SCHEMA, glob=False)


LEAST_DRAWS = 80
"""Draws a row, at least. Holm multiplies the smallest p-value, 2 / (draws + 1), by the number of rows: from 40 draws a
row on the first of them can be told from 0 at all; with twice as many its interval does not end at single draws."""
OF_USERS = ("value", "policy/coverage@10", "policy/ndcg_retained", "cold_targets", "reward/user_sd", "offpolicy/")
"""Plain numbers whose error lies between users above all: the spread over seeds alone is no interval of theirs."""


class SplitTable:
    """The rows of one split, with the bootstrap over its users."""

    def __init__(self, runs: Sequence[Run], split: str, roles: Roles, draws: int) -> None:
        self.split, self.roles = split, roles
        self.frames = {(run.method, run.seed): run.splits[split] for run in runs if split in run.splits}
        user = next(iter(self.frames.values()))["user"].to_numpy()
        self.first_U = np.flatnonzero(np.diff(user, prepend=-1))  # the place of each user's first event
        least = LEAST_DRAWS * len({method for method, _ in self.frames})
        self.bootstrap = CrossedBootstrap(len(self.first_U), max(draws, least))

    def rows(self, metric: str) -> Iterator[Row]:
        """Rows of a metric and of its differences to each reference."""
        if metric == ALL:
            yield from self._hits()
        events = self._events(*METRICS[metric])
        compared = {("", method): by_seed for method, by_seed in events.items()}
        if not metric.startswith("policy/"):  # where more is neither better nor worse, there is nothing to gain
            for reference in self.roles.compared_with():
                compared |= dict(self._paired(reference, events, events))
        if metric in (ALL, VALUE):
            for free in self.roles.untrained:
                compared |= dict(self._paired(free, events, self.roles.candidates(events)))
        if metric == VALUE:
            compared |= dict(self._beyond_placebos(events))
        if not compared:
            return
        each = [value_E for by_seed in compared.values() for value_E in by_seed.values()]
        present = [~np.ma.getmaskarray(value_E) for value_E in each]
        total_RU = np.stack([np.add.reduceat(value_E.filled(0.0), self.first_U) for value_E in each])
        count_RU = np.stack([np.add.reduceat(present_E, self.first_U, dtype=float) for present_E in present])
        value_R, drawn_DR = self.bootstrap.ratios(total_RU, count_RU)
        families: dict[str, dict[str, Estimate]] = {}
        start = 0
        for (difference, method), by_seed in compared.items():
            own = slice(start, start + len(by_seed))
            start = own.stop
            estimate = self.bootstrap.over_seeds(value_R[own], drawn_DR[:, own])
            name = f"{difference}/{metric}" if difference else metric
            for seed, value in zip(by_seed, value_R[own], strict=True):
                yield method, str(seed), self.split, name, value, None, None
            yield method, "all", self.split, name, estimate.value, *estimate.interval()
            reference = difference.removeprefix("diff_")
            if reference in self.roles.compared_with():
                families.setdefault(reference, {})[method] = estimate
        for reference, family in families.items():
            p_values = holm([estimate.p_value() for estimate in family.values()])
            corrected = zip(holm_intervals(list(family.values())), p_values, strict=True)
            for (method, estimate), (interval, p) in zip(family.items(), corrected, strict=True):
                yield method, "all", self.split, f"holm_{reference}/{metric}", estimate.value, *interval
                yield method, "all", self.split, f"p_{reference}/{metric}", float(p), None, None

    def _hits(self) -> Iterator[Row]:
        """Rows of `HITS`."""
        counts: dict[str, dict[int, float]] = {}
        for (method, seed), frame in self.frames.items():
            counts.setdefault(method, {})[seed] = float(frame["hr@10"].sum())
        for method, by_seed in counts.items():
            for seed, count in by_seed.items():
                yield method, str(seed), self.split, HITS, count, None, None
            yield method, "all", self.split, HITS, fmean(by_seed.values()), None, None

    def _events(self, column: str, flag: str | None) -> dict[str, Events]:
        """A metric's events by method, of the runs that have any."""
        events: dict[str, Events] = {}
        for (method, seed), frame in self.frames.items():
            if column not in frame.columns or (flag and flag not in frame.columns):
                continue
            present = frame[column].is_not_null()
            if flag:
                present &= frame[flag].fill_null(False)
            if present.any():
                value_E = frame[column].fill_null(0.0).to_numpy()
                events.setdefault(method, {})[seed] = np.ma.masked_array(value_E, ~present.to_numpy())
        return events

    def _paired(
        self, reference: str, events: dict[str, Events], methods: Iterable[str]
    ) -> Iterator[tuple[tuple[str, str], Events]]:
        """By name of the difference and method: event-wise differences, on the seeds and events that both have."""
        against = str(self._named(reference, events))
        other = events.get(against, {})
        for method in [method for method in methods if method in events and method != against]:
            paired = {seed: one_E - other[seed] for seed, one_E in events[method].items() if seed in other}
            if paired := {seed: difference_E for seed, difference_E in paired.items() if difference_E.count()}:
                yield (f"diff_{reference}", method), paired

    def _beyond_placebos(self, events: dict[str, Events]) -> Iterator[tuple[tuple[str, str], Events]]:
        """Event-wise (row - baseline) - `PLACEBO_FACTOR` (placebo - baseline), on the seeds that all three have."""
        base = events.get(str(self._named(BEST, events)), {})
        for row in self.roles.candidates(events):
            for placebo in self.roles.placebos_of(row):
                sham, own = events.get(placebo, {}), events[row]
                seeds = own.keys() & sham.keys() & base.keys()
                beyond = {s: own[s] - base[s] - PLACEBO_FACTOR * (sham[s] - base[s]) for s in sorted(seeds)}
                if beyond and all(beyond_E.count() for beyond_E in beyond.values()):
                    yield (f"gain_minus_2x_{placebo}", row), beyond

    def _named(self, reference: str, events: dict[str, Events]) -> str | None:
        """The row that a reference stands for."""
        if reference != BEST:
            return reference
        means = {method: float(np.mean([one.mean() for one in by_seed.values()])) for method, by_seed in events.items()}
        return self.roles.better_baseline(means)


def _summary_rows(runs: Sequence[Run], draws: int) -> list[Row]:
    """Rows of the plain numbers in `summary.json`, under their own names (`coverage@10` under `policy/`).

    A figure that a method lacks with some seed has no mean: that of the others would be no mean over the seeds.
    """
    values: dict[tuple[str, str], dict[int, float]] = {}
    for run in runs:
        for key, value in run.summary.items():
            if isinstance(value, int | float) and key != "seed":
                metric = "policy/coverage@10" if key == "coverage@10" else key
                values.setdefault((run.method, metric), {})[run.seed] = float(value)
    over_seeds = CrossedBootstrap(users=1, draws=draws).over_seeds
    rows: list[Row] = []
    for (method, metric), by_seed in values.items():
        rows += [(method, str(seed), "test", metric, value, None, None) for seed, value in by_seed.items()]
        if len(by_seed) < sum(run.method == method for run in runs):
            continue
        value_S = np.array(list(by_seed.values()))
        estimate = over_seeds(value_S, np.tile(value_S, (draws, 1)))
        known = len(by_seed) > 1 and not metric.startswith(OF_USERS)
        interval = estimate.interval() if known else (None, None)
        rows.append((method, "all", "test", metric, estimate.value, *interval))
    return rows
