"""What the benchmark scripts share: tables as the README shows them, and rows with what they rest on."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recalign.files import write_text

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SCHEMA = ("log", "row", "metric", "mean", "sd", "ci_low", "ci_high", "seeds", "commit")


def commit() -> str:
    """Short commit of the checkout, with a plus where it has changes besides results."""
    root = Path(__file__).parents[1]
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return _git(root, "rev-parse", "--short=7", "HEAD") + "+" * bool(changed)


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout.strip()


def save(rows: pl.DataFrame, script: str) -> Path:
    """Write ``benchmarks/results/<script>.csv``, whole or not at all."""
    return _written(RESULTS / f"{script}.csv", rows.select(SCHEMA).write_csv(float_precision=6))


def save_row(script: str, log: str, row: str, cells: Sequence[dict[str, float]], seeds: Sequence[int]) -> Path:
    """Save mean and sd over the seeds of each figure of one row, in place of what the script had saved of it."""
    values = {metric: [cell[metric] for cell in cells] for metric in cells[0]}
    new = pl.DataFrame({"log": log, "row": row, "metric": list(values)}).with_columns(
        pl.Series("mean", [statistics.fmean(x) for x in values.values()]),
        pl.Series("sd", [statistics.stdev(x) if len(x) > 1 else None for x in values.values()], pl.Float64),
        ci_low=pl.lit(None, pl.Float64),
        ci_high=pl.lit(None, pl.Float64),
        seeds=pl.lit(" ".join(map(str, seeds))),
        commit=pl.lit(commit()),
    )
    path = RESULTS / f"{script}.csv"
    old = pl.read_csv(path, schema=new.schema) if path.is_file() else new.clear()
    return save(pl.concat([old.join(new, on=["log", "row"], how="anti"), new]), script)


def save_text(text: str, name: str) -> Path:
    """Write ``benchmarks/results/<name>.md``, whole or not at all: what a script printed, with what no row holds."""
    return _written(RESULTS / f"{name}.md", text + "\n")


def save_picture(svg: str, name: str) -> Path:
    """Write ``docs/pictures/<name>.svg``, whole or not at all."""
    return _written(PICTURES / f"{name}.svg", svg)


def _written(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def beside_other_logs(rows: pl.DataFrame, script: str) -> pl.DataFrame:
    """Rows of one log with those of the others that ``benchmarks/results/<script>.csv`` holds."""
    path = RESULTS / f"{script}.csv"
    if not path.is_file():
        return rows
    saved = pl.read_csv(path, schema_overrides={"seeds": pl.String, "commit": pl.String})
    others = saved.filter(~pl.col("log").is_in(rows["log"].unique().to_list()))
    return pl.concat([others, rows.select(saved.columns)], how="vertical_relaxed").sort("log", maintain_order=True)


def beside_other_packages(rows: pl.DataFrame, script: str) -> pl.DataFrame:
    """Rows that begin with a package's name, with those of the packages that they do not name.

    ``recalign / peer`` is a row of the peer.
    """
    path = RESULTS / f"{script}.csv"
    if not path.is_file():
        return rows
    package = pl.col("row").str.strip_prefix("recalign / ").str.split(" ").list.first()
    saved = pl.read_csv(path, schema_overrides={"seeds": pl.String, "commit": pl.String, "sd": pl.Float64})
    others = saved.filter(~package.is_in(rows.select(package.unique()).to_series().to_list()))
    return pl.concat([rows, others.select(rows.columns)], how="vertical_relaxed")


def summary(comparison: pl.DataFrame, log: str, metrics: Sequence[str]) -> pl.DataFrame:
    """A chain's comparison.csv (test split) as results are saved: mean and interval over seeds, sd between them.

    Args:
        comparison: as `recalign.evaluation.comparison` writes it.
        log: what to call the log.
        metrics: which metrics.
    """
    chosen = comparison.filter((pl.col("split") == "test") & pl.col("metric").is_in(metrics))
    single = (
        chosen.filter(pl.col("seed") != "all")
        .group_by("method", "metric")
        .agg(pl.col("value").std().alias("sd"), pl.col("seed").sort().str.join(" ").alias("seeds"))
    )
    whole = chosen.filter(pl.col("seed") == "all").rename({"value": "mean", "method": "row"})
    joined = whole.join(single.rename({"method": "row"}), on=["row", "metric"], how="left", maintain_order="left")
    return joined.with_columns(pl.lit(log).alias("log"), pl.lit(commit()).alias("commit")).select(SCHEMA)


def markdown(rows: pl.DataFrame, columns: dict[str, str], digits: int = 3) -> str:
    """A Markdown table: a line a row, a column a metric, "mean (low .. high)".

    Args:
        rows: as `summary` gives them, in the order of the table.
        columns: metric -> heading.
        digits: behind the point.
    """
    lines = [f"| method | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    cells = {(r["row"], r["metric"]): r for r in rows.iter_rows(named=True)}
    for name in rows["row"].unique(maintain_order=True):
        shown = []
        for metric in columns:
            cell = cells.get((name, metric))
            shown.append(figure(cell, digits) if cell else "-")
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def figure(cell: dict[str, Any], digits: int) -> str:
    """A mean and, where it has one, its interval."""
    mean, *interval = (cell[key] for key in ("mean", "ci_low", "ci_high"))
    if None in interval:
        return f"{mean:z.{digits}f}"
    return f"{mean:z.{digits}f} ({interval[0]:z.{digits}f} .. {interval[1]:z.{digits}f})"
