"""All methods of a chain beside each other: `comparison.csv`, one row a method, seed, split and metric.

Metrics are those of the events (`METRICS`) and the plain numbers of each `summary.json`. For the metrics where more is
better, methods are also compared with one `REFERENCE` at a time, paired within seed, user and event:

- ``diff_<reference>/<metric>``: method minus reference, with its own 95 % interval;
- ``holm_<reference>/<metric>``: the same difference, the interval widened by Holm for as many methods as there are;
- ``p_<reference>/<metric>``: its two-sided bootstrap p, adjusted by Holm.

``best_bc`` is the better of `start` and `bc`: the one with the higher mean of that metric over its seeds, in that
split. A row with ``seed=all`` is the mean over seeds with a 95 % interval over users and seeds (plain numbers: over
seeds). What a method does not have has no row; a reference has none against itself; methods are paired on the seeds
that both have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.progress import track

from recalign.errors import InputError
from recalign.metrics.bootstrap import CrossedBootstrap, Estimate, holm, holm_intervals
from recalign.metrics.rank import gain_ndcg, hit, reciprocal

# The order of every table. What is not named here follows, by name.
METHODS = (
    *("popularity", "popularity_high", "item_mean", "start", "rerank", "rerank_item_mean", "bc", "filtered_bc"),
    *("reward_weighted", "exp_reward", "asft", "asft_rerank", "asft_permuted", "asft_random"),
    *("dpo", "ipo", "sdpo", "simpo", "kto", "ppo", "grpo", "ecpo", "reinforce"),
    *("cql", "iql", "awac", "sa2c", "return_conditioned"),
)
BASELINES = ("start", "bc")
REFERENCES = ("best_bc", "start", "asft", "rerank")
SPLITS = ("test", "validation")

RANKS = {"hr@10": lambda rank: hit(rank, 10), "ndcg@10": lambda rank: gain_ndcg(rank, 10), "mrr": reciprocal}
# What the training reward model promises above what others see. Levels differ between models (raters do), so it is the
# difference to `start` that says how far a method has over-optimised.
GAPS = {f"gap/{other}": (f"gap/{other}", None) for other in ("judge@10", "true@10")}
VALUES = ("judge@10", "select_judge@10", "train_rm@10", "true@10", "true")
GROUPS = {"all": None, "high": "high", "trajectory": "trajectory"}
# metric -> the column of its values and that of the events it is about (None: all of them)
METRICS: dict[str, tuple[str, str | None]] = {
    **{f"{group}/{rank}": (rank, flag) for group, flag in GROUPS.items() for rank in RANKS},
    **{f"value/{name}": (name, None) for name in VALUES},
    **GAPS,
    **{f"policy/{name}": (name, None) for name in ("kl", "entropy", "popularity@10")},
}
SCHEMA = {"method": pl.String, "seed": pl.String, "split": pl.String, "metric": pl.String} | dict.fromkeys(
    ("value", "ci_low", "ci_high"), pl.Float64
)
FILE = "comparison.csv"

Row = tuple[str, str, str, str, float, float | None, float | None]
Events = tuple[np.ndarray, np.ndarray]  # (E,) value of each event, 0 where it has none; (E,) whether it has one


@dataclass(frozen=True)
class Run:
    """One method with one seed: its `summary.json` and, for each split, a row an event (see `METRICS`)."""

    method: str
    seed: int
    summary: dict[str, object]
    splits: dict[str, pl.DataFrame]


def compare(
    chain_folder: Path,
    draws: int = 2000,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
) -> pl.DataFrame:
    """Compare what `evaluation/` of every method and seed holds, and write it to `comparison.csv`.

    Args:
        chain_folder: `runs/<chain>`.
        draws: of the bootstrap.
        methods, seeds: those to compare; None: all. What an earlier chain left in the folder may rest on other data.

    Raises:
        InputError: there is no such folder, no finished evaluation in it, or methods were measured on different events.
    """
    runs = load_runs(chain_folder, methods, seeds)
    tables = {split: SplitTable(runs, split, draws) for split in SPLITS if any(split in run.splits for run in runs)}
    rows: list[Row] = []
    for split, metric in track(
        [(split, metric) for split in tables for metric in METRICS], "comparing", transient=True
    ):
        rows += tables[split].rows(metric)
    rows += summary_rows(runs, draws)
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    place = {method: order for order, method in enumerate(ordered(frame["method"].unique()))}
    frame = frame.sort(pl.col("method").replace_strict(place, return_dtype=pl.Int32), maintain_order=True)
    partial = chain_folder / f"{FILE}.partial"
    frame.write_csv(partial)
    os.replace(partial, chain_folder / FILE)
    return frame


def read(chain_folder: Path) -> pl.DataFrame:
    """`comparison.csv` of a chain, as `compare` returned it.

    Raises:
        InputError: there is none.
    """
    path = chain_folder / FILE
    if not path.is_file():
        raise InputError(
            "there is no such file", where=str(path), remedy=f"run `recalign compare {chain_folder}` first"
        )
    return pl.read_csv(path, schema=SCHEMA)


def ordered(methods: pl.Series) -> list[str]:
    """Methods in the order of `METHODS`, the others after them by name."""
    return sorted(methods, key=lambda name: (METHODS.index(name) if name in METHODS else len(METHODS), name))


def better_baseline(values: dict[str, float]) -> str | None:
    """The better of `BASELINES` by a metric's mean; None where there is neither."""
    present = {method: values[method] for method in BASELINES if method in values}
    return max(present, key=present.__getitem__) if present else None


def load_runs(
    chain_folder: Path, methods: Collection[str] | None = None, seeds: Collection[int] | None = None
) -> list[Run]:
    """The finished evaluations of a chain. A run is finished when it has both `summary.json` and `test.parquet`."""
    if not chain_folder.is_dir():
        raise InputError("there is no such folder", where=str(chain_folder), remedy="run `recalign chain` first")
    # [0-9]: what a stage that ran anew has left is called seed-<n>.previous
    folders = [path.parent for path in chain_folder.glob("*/seed-*[0-9]/evaluation/summary.json")]
    runs = [_load_run(folder) for folder in folders if (folder / "test.parquet").is_file()]
    runs = [r for r in runs if (methods is None or r.method in methods) and (seeds is None or r.seed in seeds)]
    runs.sort(key=lambda run: (run.method, run.seed))
    if not runs:
        remedy = "let `recalign chain` finish at least one method"
        raise InputError("no method in it has been evaluated", where=str(chain_folder), remedy=remedy)
    _require_same_base(runs)
    for split in SPLITS:
        _align([run for run in runs if split in run.splits], split)
    return runs


def _load_run(folder: Path) -> Run:
    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        if path.is_file():
            frame = pl.read_parquet(path).sort("user", "event")
            rank = frame["rank"].to_numpy()
            splits[split] = frame.with_columns(
                *(pl.Series(name, gain(rank), dtype=pl.Float64) for name, gain in RANKS.items()),
                *(
                    (pl.col("train_rm@10") - pl.col(gap.removeprefix("gap/"))).alias(gap)
                    for gap in GAPS
                    if {"train_rm@10", gap.removeprefix("gap/")} <= set(frame.columns)
                ),
            )
    method, seed = folder.parts[-3], int(folder.parts[-2].removeprefix("seed-"))
    return Run(method, seed, json.loads((folder / "summary.json").read_text()), splits)


def _require_same_base(runs: list[Run]) -> None:
    """Refuse methods of one seed that were measured by other judges, on other rewards, or from another start."""
    first: dict[int, Run] = {}
    for run in runs:
        other = first.setdefault(run.seed, run)
        if run.summary.get("base") != other.summary.get("base"):
            raise InputError(
                f"it rests on other data, or on other checkpoints of the stages before it, than {other.method}",
                where=f"{run.method}, seed {run.seed}",
                remedy="run the chain again with every method, or in another folder",
            )


def _align(runs: list[Run], split: str) -> None:
    """Give all runs the same rows.

    Methods of one seed must have been measured on the same events: a difference means something only there. Seeds may
    be worlds of their own; then no user of one is a user of another, and each run has no figures in the others' rows.
    """
    seeds = sorted({run.seed for run in runs})
    worlds = [_same_events([run for run in runs if run.seed == seed], split) for seed in seeds]
    if not worlds or all(world.equals(worlds[0]) for world in worlds):
        return
    size = max(int(world["user"].max()) for world in worlds) + 1  # type: ignore[arg-type]
    apart = [(pl.col("user").cast(pl.Int64) + number * size).alias("user") for number in range(len(seeds))]
    rows = pl.concat([world.with_columns(own) for world, own in zip(worlds, apart, strict=True)])
    for run in runs:
        own = run.splits[split].with_columns(apart[seeds.index(run.seed)])
        run.splits[split] = rows.join(own, on=["user", "event"], how="left", maintain_order="left")


def _same_events(runs: list[Run], split: str) -> pl.DataFrame:
    """The events of the runs of one seed."""
    first = runs[0].splits[split].select("user", "event")
    for run in runs[1:]:
        events = run.splits[split].select("user", "event")
        if not events.equals(first):
            raise InputError(
                f"it was measured on other {split} events ({len(events):,}) than {runs[0].method} with seed "
                f"{runs[0].seed} ({len(first):,})",
                where=f"{run.method}, seed {run.seed}",
                remedy="run the chain again with the same data and split for every method, or in another folder",
            )
    return first


class SplitTable:
    """The runs that have one split, and the bootstrap over its users."""

    def __init__(self, runs: list[Run], split: str, draws: int) -> None:
        self.split = split
        self.frames = {(run.method, run.seed): run.splits[split] for run in runs if split in run.splits}
        user = next(iter(self.frames.values()))["user"].to_numpy()
        self.first_U = np.flatnonzero(np.diff(user, prepend=-1))  # the place of each user's first event
        self.bootstrap = CrossedBootstrap(len(self.first_U), draws)

    def rows(self, metric: str) -> list[Row]:
        """Rows of a metric and of its differences to each reference."""
        events = self._events(metric)
        compared = {("", method): by_seed for method, by_seed in events.items()}
        if not metric.startswith("policy/"):  # where more is neither better nor worse, there is nothing to gain
            compared |= dict(self._differences(events))
        estimates = self._estimates({key: by_seed for key, by_seed in compared.items() if by_seed})
        rows: list[Row] = []
        for (reference, method), (seeds, value_S, estimate) in estimates.items():
            name = f"diff_{reference}/{metric}" if reference else metric
            rows += [(method, str(s), self.split, name, v, None, None) for s, v in zip(seeds, value_S, strict=True)]
            rows.append((method, "all", self.split, name, estimate.value, *estimate.interval()))
        for reference in REFERENCES:
            family = {method: each[2] for (against, method), each in estimates.items() if against == reference}
            rows += self._holm_rows(f"{reference}/{metric}", family)
        return rows

    def _events(self, metric: str) -> dict[str, dict[int, Events]]:
        """method -> seed -> the metric's events, of the runs that have any."""
        column, flag = METRICS[metric]
        events: dict[str, dict[int, Events]] = {}
        for (method, seed), frame in self.frames.items():
            if column not in frame.columns or (flag and flag not in frame.columns):
                continue
            present_E = frame[column].is_not_null().to_numpy()
            if flag:
                present_E = present_E & frame[flag].fill_null(False).to_numpy()
            if present_E.any():
                value_E = np.where(present_E, frame[column].fill_null(0.0).to_numpy(), 0.0)
                events.setdefault(method, {})[seed] = value_E, present_E
        return events

    def _differences(self, events: dict[str, dict[int, Events]]) -> Iterator[tuple[tuple[str, str], dict[int, Events]]]:
        means = {method: _mean(by_seed) for method, by_seed in events.items()}
        for reference in REFERENCES:
            against = better_baseline(means) if reference == "best_bc" else reference
            if against in events:
                for method in [method for method in events if method != against]:
                    yield (reference, method), _paired(events[method], events[against])

    def _estimates(
        self, compared: dict[tuple[str, str], dict[int, Events]]
    ) -> dict[tuple[str, str], tuple[list[int], np.ndarray, Estimate]]:
        """Seeds, the value of each, and the estimate over all of them; everything in one pass over the draws."""
        if not compared:
            return {}
        rows = [events for by_seed in compared.values() for events in by_seed.values()]
        total_RU = np.stack([np.add.reduceat(value_E, self.first_U) for value_E, _ in rows])
        count_RU = np.stack([np.add.reduceat(present_E, self.first_U, dtype=float) for _, present_E in rows])
        value_R, drawn_DR = self.bootstrap.ratios(total_RU, count_RU)
        estimates, start = {}, 0
        for key, by_seed in compared.items():
            block = slice(start, start + len(by_seed))
            start = block.stop
            estimate = self.bootstrap.over_seeds(value_R[block], drawn_DR[:, block])
            estimates[key] = list(by_seed), value_R[block], estimate
        return estimates

    def _holm_rows(self, name: str, family: dict[str, Estimate]) -> Iterator[Row]:
        intervals = holm_intervals(list(family.values()))
        p_values = holm([estimate.p_value() for estimate in family.values()])
        for (method, estimate), interval, p in zip(family.items(), intervals, p_values, strict=True):
            yield method, "all", self.split, f"holm_{name}", estimate.value, *interval
            yield method, "all", self.split, f"p_{name}", float(p), None, None


def _mean(by_seed: dict[int, Events]) -> float:
    return float(np.mean([value_E.sum() / present_E.sum() for value_E, present_E in by_seed.values()]))


def _paired(method: dict[int, Events], reference: dict[int, Events]) -> dict[int, Events]:
    """Event-wise differences on the seeds and events that both have."""
    paired = {}
    for seed in [seed for seed in method if seed in reference]:
        (ours_E, has_ours_E), (theirs_E, has_theirs_E) = method[seed], reference[seed]
        both_E = has_ours_E & has_theirs_E
        if both_E.any():
            paired[seed] = np.where(both_E, ours_E - theirs_E, 0.0), both_E
    return paired


def summary_rows(runs: list[Run], draws: int) -> list[Row]:
    """Rows of the plain numbers in `summary.json`, under their own names (`coverage@10` under `policy/`)."""
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
        value_S = np.array(list(by_seed.values()))
        estimate = over_seeds(value_S, np.tile(value_S, (draws, 1)))
        interval = estimate.interval() if len(by_seed) > 1 else (None, None)
        rows.append((method, "all", "test", metric, estimate.value, *interval))
    return rows
