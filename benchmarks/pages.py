"""Fill the tables of docs/tables/*.md from the saved rows of the studies.

    python -m benchmarks.pages            # writes
    python -m benchmarks.pages --check    # names pages whose tables are not what the rows say, and fails

A page is written by hand but for what stands between ``<!-- table {...} -->`` and ``<!-- end -->``. The comment's JSON:

- rows: the CSV under benchmarks/, such as methods/rows; log: its lines; prefix: only rows whose name begins so;
- columns: metrics, or metric: heading; ``methods``: those of `METHODS`;
- digits: behind the point (null: three that count); against: also the paired differences of `AGAINST`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

import polars as pl

from benchmarks.lib import FOLDER, ROOT
from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.files import write_text

PAGES = ROOT / "docs" / "tables"
PROMISES = "trials-of-promises"
TABLE = re.compile(r"<!-- table (\{[^\n]*\}|trials-of-promises) -->\n.*?<!-- end -->", re.DOTALL)
TRUE = "value/true@10"
RETAINED = "retained"
METHODS = {
    RETAINED: "NDCG retained",
    HIGH: "high/ndcg@10",
    VALUE: "judges' value",
    TRUE: "true value",
    "value/reward_model@10": "value by the training reward model",
    "policy/coverage@10": "coverage",
    "policy/popularity@10": "popularity",
    "tail/high/ndcg@10": "tail: high",
    "tail/value/judge@10": "tail: value",
}
PLAIN = {metric for metric in METHODS if metric not in (HIGH, VALUE, TRUE)}
"""Columns without intervals, which would make a table of methods too wide; they are in the CSV."""
AGAINST = {"holm_best_baseline": "the better of `start` and `bc`", "holm_asft": "`asft`", "holm_rerank": "`rerank`"}
"""Paired differences, their intervals corrected by Holm for the number of methods: prefix -> less what."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if old := stale():
            print(f"not what the rows say: {', '.join(old)}; run python -m benchmarks.pages")
        return len(old)
    for path in PAGES.glob("*.md"):
        write_text(path, filled(path.read_text()))
    return 0


def stale() -> list[str]:
    """Pages whose tables are not what the saved rows say."""
    texts = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    return sorted(name for name, text in texts.items() if filled(text) != text)


def filled(text: str) -> str:
    """A page with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        made = promises() if found[1] == PROMISES else methods(json.loads(found[1]))
        return f"<!-- table {found[1]} -->\n\n{made}\n\n<!-- end -->"

    return TABLE.sub(table, text)


def promises() -> str:
    """How many trials each promise has had, and when."""
    rows = pl.read_csv(FOLDER / "promises/trials.csv", schema_overrides={"commit": pl.String})
    lines = ["| promise | faults injected | trials | failed | tests | date | commit |", "|---" * 7 + "|"]
    for (promise, faults), of in rows.group_by("promise", "faults", maintain_order=True):
        dates, commits = (", ".join(sorted(of[name].unique())) for name in ("date", "commit"))
        tests = ", ".join(f"`{name}`" for name in sorted(of["test"].str.split("::").list.first().unique()))
        cells = (promise, faults, f"{of['trials'].sum():,}", f"{of['failed'].sum():,}", tests, dates, commits)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def methods(table: Mapping[str, Any]) -> str:
    """A table and, where it asks for them, its paired differences, below their commits and seeds."""
    rows = saved(table)
    commits = rows["commit"].unique(maintain_order=True).to_list()
    seeds = max(rows["seeds"].drop_nulls().unique().to_list(), key=len)
    columns, digits = table["columns"], table.get("digits", 3)
    if not isinstance(columns, dict):
        columns = METHODS if columns == "methods" else {name: name for name in columns}
    against = AGAINST if table.get("against") else {}
    plain = PLAIN if against else set()
    parts = [
        f"{f'Commit {commits[0]}' if len(commits) == 1 else 'Commits: last column'}; seeds {seeds}.",
        markdown(rows, columns, digits, plain, commits=len(commits) > 1),
    ]
    for prefix, less in against.items():
        differences = {f"{prefix}/{metric}": METHODS[metric] for metric in (HIGH, VALUE, TRUE)}
        parts += [f"Less {less}, paired, intervals corrected by Holm:", markdown(rows, differences, 4, signed=True)]
    return "\n\n".join(parts)


def saved(table: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of a table, with the NDCG that methods retain.

    Raises:
        ValueError: the CSV has no such row.
    """
    every = pl.read_csv(FOLDER / f"{table['rows']}.csv", schema_overrides={"seeds": pl.String, "commit": pl.String})
    rows = every.filter(pl.col("log") == table["log"]).unique(["row", "metric"], keep="first", maintain_order=True)
    prefix = table.get("prefix", "")
    rows = rows.filter(pl.col("row").str.starts_with(prefix)).with_columns(pl.col("row").str.strip_prefix(prefix))
    if rows.is_empty():
        raise ValueError(f"benchmarks/{table['rows']}.csv has no row of {table['log']}")
    if table.get("against"):
        whole = rows.filter(pl.col("metric") == ALL)
        start = whole.filter(pl.col("row") == "start")["mean"].item()
        share = whole.with_columns(pl.col("mean") / start, metric=pl.lit(RETAINED), sd=None, ci_low=None, ci_high=None)
        rows = pl.concat([rows, share], how="vertical_relaxed")
    return rows


def markdown(
    rows: pl.DataFrame,
    columns: Mapping[str, str],
    digits: int | None,
    plain: set[str] | None = None,
    commits: bool = False,
    signed: bool = False,
) -> str:
    """A line a row. A metric that not every seed has is a dash; columns in ``plain`` have no interval."""
    shown = {metric: head for metric, head in columns.items() if metric in set(rows["metric"])}
    cells = {(row["row"], row["metric"]): row for row in rows.iter_rows(named=True)}
    heads = ["row", *shown.values(), *(["commit"] if commits else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in rows["row"].unique(maintain_order=True):
        own = [cells.get((name, metric)) for metric in shown]
        if not any(own):
            continue
        most = max((len(cell["seeds"] or "") for (row, _), cell in cells.items() if row == name), default=0)
        whole = [cell if cell and (signed or len(cell["seeds"] or "") == most) else None for cell in own]
        figures = [
            figure(cell, digits, metric in (plain or ()), signed) for metric, cell in zip(shown, whole, strict=True)
        ]
        made = [" ".join(sorted({cell["commit"] for cell in own if cell}))] if commits else []
        lines.append(f"| {' | '.join([f'`{name}`', *figures, *made])} |")
    return "\n".join(lines)


def figure(cell: dict[str, Any] | None, digits: int | None, plain: bool = False, signed: bool = False) -> str:
    """The mean, with its interval or its sd over seeds where it has one."""
    if cell is None:
        return "-"
    mean = cell["mean"]
    if digits is None:
        digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2

    def text(x: float) -> str:
        return f"{x:{'+' if signed else ''}z.{digits}f}"

    if cell["metric"] == RETAINED:
        return f"{mean:.1%}"
    if plain:
        return text(mean)
    if cell["ci_low"] is not None and cell["ci_high"] is not None:
        return f"{text(mean)} ({text(cell['ci_low'])} .. {text(cell['ci_high'])})"
    return f"{text(mean)} ± {text(cell['sd'])}" if cell["sd"] else text(mean)


if __name__ == "__main__":
    sys.exit(main())
