"""What the benchmark scripts share: options, seeds side by side, rows with what they rest on, tables."""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from scipy.stats import t as student

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.roles import Roles
from recalign.files import write_text

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
FOLDER = ROOT / "benchmarks"
PICTURES = ROOT / "docs" / "pictures"
NUMBERS = ("mean", "sd", "ci_low", "ci_high")
SCHEMA = {
    name: pl.Float64 if name in NUMBERS else pl.String for name in ("log", "row", "metric", *NUMBERS, "seeds", "commit")
}
Figures = dict[str, float]
Ends = tuple[float, float | None, float | None, float | None]
"""Of `NUMBERS`."""
T = TypeVar("T")


def options(
    about: str | None, seeds: Sequence[int] | None = None, runs: str | None = None, data: bool = False
) -> argparse.ArgumentParser:
    """A script's parser, with those of the options that scripts share for which it gives a default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds:
        parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    if runs:
        parser.add_argument("--runs", type=Path, default=Path(runs))
    if data:
        parser.add_argument("--data", help="data root; else RECALIGN_DATA, else data")
    return parser


def each(function: Callable[[int], T], seeds: Iterable[int], workers: int) -> list[T]:
    """What a function of a seed returns for each of them; so many processes of one thread work side by side."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, seeds))


@functools.cache
def commit() -> str:
    """Short commit of the checkout, with a plus where it has changes besides results."""
    results = ":!benchmarks/*.csv", ":!benchmarks/*.parquet"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *results)
    return _git("rev-parse", "--short=7", "HEAD") + "+" * bool(changed)


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()


def versions() -> str:
    """What figures rest on besides the commit."""
    packages = (f"{name} {version(name)}" for name in ("torch", "numpy", "polars"))
    return ", ".join([f"python {platform.python_version()}", *packages])


def over_worlds(value_S: np.ndarray) -> tuple[float, float | None, float | None, float | None]:
    """Mean, standard deviation and Student's 95 % interval over worlds."""
    mean, count = float(value_S.mean()), len(value_S)
    if count < 2:
        return mean, None, None, None
    sd = float(value_S.std(ddof=1))
    half = float(student.ppf(0.975, count - 1)) * sd / np.sqrt(count)
    return mean, sd, mean - half, mean + half


def average(values: Sequence[float]) -> Ends:
    """Mean and standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, None, None


def crossed(by_seed: Sequence[Estimate]) -> Ends:
    """Mean over seeds, standard deviation between them, and the 95 % interval over users and seeds."""
    value_S, drawn_DS = np.array([one.value for one in by_seed]), np.stack([one.draws_D for one in by_seed], axis=1)
    estimate = CrossedBootstrap(users=1).over_seeds(value_S, drawn_DS)
    return estimate.value, average(value_S.tolist())[1], *estimate.interval()


def spread(values: Sequence[float]) -> Ends:
    """Mean, standard deviation and 95 % interval over seeds."""
    return crossed([Estimate(x, np.full(2000, x)) for x in values]) if len(values) > 1 else average(values)


def middle(values: Sequence[float]) -> Ends:
    """Median, standard deviation, the least and the greatest, of turns on a machine that does other things too."""
    return statistics.median(values), average(values)[1], min(values), max(values)


def by_metric(cells: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The figures of seeds, or of turns, by metric: those that all have."""
    return {metric: [cell[metric] for cell in cells] for metric in cells[0] if all(metric in cell for cell in cells)}


def lines(
    log: str,
    row: str,
    values: Mapping[str, Sequence[float]],
    seeds: Iterable[object],
    over: Callable[[Sequence[float]], Ends] = average,
    made: str | None = None,
) -> pl.DataFrame:
    """One row of a table as results are saved, a line a metric.

    Args:
        log: that it was measured on.
        row: what it is called.
        values: of seeds, or of turns, by metric.
        seeds: that it rests on.
        over: says what is saved of the values.
        made: by which commits, if not by this one.
    """
    rest = " ".join(map(str, seeds)), made or commit()
    return frame([(log, row, metric, *over(found), *rest) for metric, found in values.items()])


def frame(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """Lines of `SCHEMA`."""
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def saved(script: str) -> pl.DataFrame:
    """The rows of ``benchmarks/<script>.csv``; none if there is no such file."""
    path = FOLDER / f"{script}.csv"
    types = {**SCHEMA, "versions": pl.String}
    return pl.read_csv(path, schema_overrides=types) if path.is_file() else pl.DataFrame(schema=types)


def save(rows: pl.DataFrame, script: str, *by: str | pl.Expr) -> Path:
    """Write ``benchmarks/<script>.csv``, whole or not at all.

    Args:
        rows: lines of `SCHEMA`; versions are added.
        script: names the file.
        by: saved lines stay if no new one agrees with them in all of this. None: no saved line stays.
    """
    if by or "versions" not in rows.columns:
        rows = _beside_others(rows, script, *by)
    return _written(FOLDER / f"{script}.csv", rows.write_csv(float_precision=6))


def beside_other_logs(rows: pl.DataFrame, script: str) -> pl.DataFrame:
    """Rows of one log with those of the others that ``benchmarks/<script>.csv`` holds."""
    return _beside_others(rows, script, "log")


def _beside_others(rows: pl.DataFrame, script: str, *by: str | pl.Expr) -> pl.DataFrame:
    rows = rows.select(*SCHEMA).with_columns(versions=pl.lit(versions()))
    if not by:
        return rows
    others = saved(script).join(rows, on=by, how="anti")
    return pl.concat([others, rows], how="diagonal_relaxed").sort("log", maintain_order=True)


def save_picture(svg: str, name: str) -> Path:
    """Write ``docs/pictures/<name>.svg``, whole or not at all."""
    return _written(PICTURES / f"{name}.svg", svg)


def _written(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def summary(comparison: pl.DataFrame, log: str, metrics: Sequence[str]) -> pl.DataFrame:
    """A chain's comparison.csv (test split) as results are saved: mean and interval over seeds, sd between them.

    Differences in value are in standard deviations of the training rewards of users A, as in the report.

    Args:
        comparison: as `recalign.evaluation.comparison` writes it.
        log: what to call the log.
        metrics: which metrics.
    """
    table = ComparisonTable(comparison, Roles())
    in_sd = pl.col("metric").is_in([metric for metric in metrics if table.in_sd(metric)])
    numbers = pl.col("value", "ci_low", "ci_high")
    chosen = comparison.filter((pl.col("split") == "test") & pl.col("metric").is_in(metrics))
    chosen = chosen.with_columns(pl.when(in_sd).then(numbers / table.unit).otherwise(numbers))
    single = (
        chosen.filter(pl.col("seed") != "all")
        .group_by("method", "metric")
        .agg(pl.col("value").std().alias("sd"), pl.col("seed").sort().str.join(" ").alias("seeds"))
    )
    whole = chosen.filter(pl.col("seed") == "all").join(
        single, on=["method", "metric"], how="left", maintain_order="left"
    )
    named = whole.rename({"value": "mean", "method": "row"})
    return named.with_columns(log=pl.lit(log), commit=pl.lit(commit())).select(*SCHEMA)


def figure(cell: Mapping[str, Any], digits: int) -> str:
    """A mean and, where it has one, its interval."""
    mean, low, high = (cell[key] for key in ("mean", "ci_low", "ci_high"))
    if low is None or high is None:
        return f"{mean:z.{digits}f}"
    return f"{mean:z.{digits}f} ({low:z.{digits}f} .. {high:z.{digits}f})"


def with_sd(cell: Mapping[str, Any], digits: int) -> str:
    """A mean and, where there are several seeds, the standard deviation."""
    return f"{cell['mean']:.{digits}f}" + (f" ± {cell['sd']:.{digits}f}" if cell["sd"] is not None else "")


def markdown(
    rows: pl.DataFrame,
    columns: Mapping[str, str],
    digits: int = 3,
    shown: Callable[[Mapping[str, Any], int], str] = figure,
) -> str:
    """A Markdown table: a line a row, a column a metric; a dash where there is none.

    Args:
        rows: as results are saved, in the order of the table.
        columns: metric -> heading.
        digits: behind the point.
        shown: what a cell says.
    """
    lines = [f"| method | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    cells = {(r["row"], r["metric"]): r for r in rows.iter_rows(named=True)}
    for name in rows["row"].unique(maintain_order=True):
        own = [cells.get((name, metric)) for metric in columns]
        lines.append(f"| `{name}` | {' | '.join(shown(cell, digits) if cell else '-' for cell in own)} |")
    return "\n".join(lines)
