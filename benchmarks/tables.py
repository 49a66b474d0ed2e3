"""Fill the tables of benchmarks/*/README.md from the saved rows of the studies.

    python -m benchmarks.tables            # writes
    python -m benchmarks.tables --check    # names READMEs whose tables are not what the rows say, and fails

Written by hand is all but what stands between ``<!-- table {...} -->`` and ``<!-- end -->``. The comment's JSON:

- rows: the CSV under benchmarks/, such as methods/rows; log: its lines;
- only: the rows that are shown, in this order, or row: heading; without it all are;
- row: log is a list, and the table has this row of each; without it a line a log, and columns are "row metric";
- columns: metrics, or metric: heading; ``methods``: those of `METHODS`;
- digits: behind the point (null: three that count); plain: without intervals.
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

from benchmarks.lib import FOLDER
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH
from recalign.files import write_text

PROMISES = "trials-of-promises"
TABLE = re.compile(r"<!-- table (\{[^\n]*\}|trials-of-promises) -->\n.*?<!-- end -->", re.DOTALL)
RETAINED = "retained"
METHODS = {
    RETAINED: "NDCG retained",
    f"holm_best_baseline/{NDCG_HIGH}": "high/ndcg@10",
    f"holm_best_baseline/{JUDGE_VALUE}": "value",
    "holm_best_baseline/value/true@10": "true value",
}
"""The share of the start's NDCG@10, and gains over the better of start and bc, their intervals corrected by Holm."""
GAIN = re.compile(r"holm_|diff|minus_")
"""Metrics whose sign is printed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if old := stale():
            print(f"not what the rows say: {', '.join(old)}; run python -m benchmarks.tables")
        return len(old)
    for path in FOLDER.glob("*/README.md"):
        write_text(path, filled(path.read_text()))
    return 0


def stale() -> list[str]:
    """Studies whose tables are not what the saved rows say."""
    texts = {path.parent.name: path.read_text() for path in FOLDER.glob("*/README.md")}
    return sorted(name for name, text in texts.items() if filled(text) != text)


def filled(text: str) -> str:
    """A README with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        made = promises() if found[1] == PROMISES else markdown(json.loads(found[1]))
        return f"<!-- table {found[1]} -->\n\n{made}\n\n<!-- end -->"

    return TABLE.sub(table, text)


def promises() -> str:
    """How many trials each promise has had, and when."""
    rows = pl.read_csv(FOLDER / "promises/trials.csv")
    lines = ["| promise | kinds of faults | trials | failed | last tried |", "|---" * 5 + "|"]
    for (promise,), of in rows.group_by("promise", maintain_order=True):
        counts = [of["faults"].n_unique(), of["trials"].sum(), of["failed"].sum()]
        lines.append(f"| {promise} | {' | '.join(f'{count:,}' for count in counts)} | {max(of['date'].to_list())} |")
    return "\n".join(lines)


def markdown(table: Mapping[str, Any]) -> str:
    """A line a row, with a dash where a row has no such metric, below the table's seeds."""
    rows, columns = saved(table), table["columns"]
    if not isinstance(columns, dict):
        columns = METHODS if columns == "methods" else {name: name for name in columns}
    shown = {metric: head for metric, head in columns.items() if metric in set(rows["metric"])}
    names = table.get("only", rows["row"].unique(maintain_order=True).to_list())
    names = names if isinstance(names, dict) else {name: f"`{name}`" for name in names}
    cells = {(row["row"], row["metric"]): row for row in rows.iter_rows(named=True)}
    lines = [f"| {' | '.join(['row', *shown.values()])} |", "|---" * (len(shown) + 1) + "|"]
    for name, heading in names.items():
        own = [cells.get((name, metric)) for metric in shown]
        if not any(own):
            raise ValueError(f"benchmarks/{table['rows']}.csv has no row {name!r} of {table['log']}")
        lines.append(f"| {' | '.join([heading, *(figure(cell, table) for cell in own)])} |")
    seeds = max(rows["seeds"].drop_nulls().unique().sort().to_list(), key=len)
    return "\n".join([f"Seeds: {seeds}.", "", *lines])


def saved(table: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of a table, with the NDCG that methods retain."""
    every = pl.read_csv(FOLDER / f"{table['rows']}.csv", schema_overrides={"seeds": pl.String, "commit": pl.String})
    if isinstance(table["log"], list):
        every = every.filter(pl.col("log").is_in(table["log"]))
        if "row" in table:
            every = every.filter(pl.col("row") == table["row"])
        else:
            every = every.with_columns(metric=pl.concat_str("row", "metric", separator=" "))
        return every.with_columns(row="log")
    rows = every.filter(pl.col("log") == table["log"]).unique(["row", "metric"], keep="first", maintain_order=True)
    if table["columns"] == "methods":
        whole = rows.filter(pl.col("metric") == NDCG_ALL)
        start = whole.filter(pl.col("row") == "start")["mean"].item()
        share = whole.with_columns(pl.col("mean") / start, metric=pl.lit(RETAINED), sd=None, ci_low=None, ci_high=None)
        rows = pl.concat([rows, share], how="vertical_relaxed")
    return rows


def figure(cell: Mapping[str, Any] | None, table: Mapping[str, Any]) -> str:
    """The mean, with its interval or its sd over seeds where it has one."""
    if cell is None:
        return "-"
    mean, digits = cell["mean"], table.get("digits", 3)
    if cell["metric"] == RETAINED:
        return f"{mean:.1%}"
    if digits is None:
        digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    sign = "+" if GAIN.search(cell["metric"]) else ""

    def text(x: float) -> str:
        return re.sub(r"^([+-]?)0\.(?=\d)", r"\1.", f"{x:{sign}z.{digits}f}")

    if not table.get("plain") and cell["ci_low"] is not None and cell["ci_high"] is not None:
        return f"{text(mean)} ({text(cell['ci_low'])} .. {text(cell['ci_high'])})"
    return f"{text(mean)} ± {text(cell['sd'])}" if cell["sd"] and not table.get("plain") else text(mean)


if __name__ == "__main__":
    sys.exit(main())
