"""Write the pages of tables, docs/tables/*.md, from the saved rows of benchmarks/results.

    python benchmarks/docs_tables.py            # writes
    python benchmarks/docs_tables.py --check    # names pages that are not what the rows say, and fails

A table says which command made its rows, at which commit and under which version of the protocol. Nothing in these
pages is written by hand.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import polars as pl
from docs_content import CONTENT
from docs_section import METHODS, RETAINED, TRUE, Table
from tables import RESULTS

from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.files import write_text

PAGES = Path(__file__).parents[1] / "docs" / "tables"
PLAIN = {metric for metric in METHODS if metric not in (HIGH, VALUE, TRUE)}
"""Columns without intervals, which would make a table of methods too wide; they are in the CSV."""
AGAINST = {"holm_best_bc": "the better of `start` and `bc`", "holm_asft": "`asft`", "holm_rerank": "`rerank`"}
"""Paired differences, their intervals corrected by Holm for the number of methods: prefix -> less what."""
VERSION_2 = """
001dea4 04363f9 050f0d1 06eb570 0933f04 0ffebd1 127a2ac 2f9238f 33f55e8 37a79e5 48b997b 4c26600 5974b24 5de3888 65b16da
6b96bf8 771fe7d 7a97c43 7b173e2 7d9f6f9 8523a23 9dc5e74 a34d168 a725852 b87abcd b8f1f45 c8cacc5 cdd15e9 d6d309d f5e7594
9c1947c f832fc4 fca9db0
"""
"""Commits that measured under the protocol's version 2; whatever comes after them has version 3."""
NOTE_2 = (
    "Protocol version 2: gains are in the reward's unit; the NDCG budget is 97 % of the start's NDCG@10 on the "
    "validation events of users A, without a lower bound; permuted placebos shuffle rewards within each user."
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if old := stale():
            print(f"not what the rows say: {', '.join(old)}; run python benchmarks/docs_tables.py")
        return len(old)
    for name, text in pages().items():
        write_text(PAGES / name, text)
    return 0


def stale() -> list[str]:
    """Pages that are not what the saved rows say, or that nothing makes."""
    made = pages()
    found = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    return sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))


def pages() -> dict[str, str]:
    """All pages by file name."""
    return {f"{name}.md": page(name) for name in CONTENT} | {"promises.md": promises()}


def promises() -> str:
    """How many trials each promise has had, and when."""
    rows = pl.read_csv(RESULTS / "promises.csv", schema_overrides={"commit": pl.String})
    lines = [
        "# Tables: trials of promises",
        "Made by `benchmarks/docs_tables.py` from `benchmarks/results/promises.csv`, which `pytest --long` writes; do "
        "not edit. `--trials 0.1` makes a tenth of the trials of each long test. A test that fails ends at its first "
        "failure. [What is promised](../promises.md).",
        "| promise | faults injected | trials | failed | tests | date | commit |\n|---|---|---|---|---|---|---|",
    ]
    for (promise, faults), of in rows.group_by("promise", "faults", maintain_order=True):
        dates, commits = (", ".join(sorted(of[name].unique())) for name in ("date", "commit"))
        tests = ", ".join(f"`{name}`" for name in sorted(of["test"].str.split("::").list.first().unique()))
        cells = (promise, faults, f"{of['trials'].sum():,}", f"{of['failed'].sum():,}", tests, dates, commits)
        lines[-1] += "\n| " + " | ".join(map(str, cells)) + " |"
    return "\n\n".join(lines) + "\n"


def page(name: str) -> str:
    title, tables = CONTENT[name]
    intro = (
        "Made by `benchmarks/docs_tables.py` from `benchmarks/results/*.csv`; do not edit. A figure is the mean with "
        "its 95 % interval over users and seeds, or the mean ± sd over seeds. A command runs at the commit that its "
        "table names. [What the columns mean](../figures.md), [what follows](../results.md)."
    )
    return "\n\n".join([f"# {title}", intro, *(section(table) for table in tables)]) + "\n"


def section(table: Table) -> str:
    """A table with its heading, command, commit, version and, if it has them, its paired differences."""
    rows = saved(table)
    commits = rows["commit"].unique(maintain_order=True).to_list()
    assert table.columns
    seeds = max(rows["seeds"].drop_nulls().unique().to_list(), key=len)
    commit = f"Commit {commits[0]}" if len(commits) == 1 else "Commits: last column"
    versions = {2 if each.rstrip("+") in VERSION_2 else 3 for one in commits for each in one.split()}
    version = f"Protocol version {' and '.join(map(str, sorted(versions)))}."
    words = [f"{commit}; seeds {seeds}.", NOTE_2 if table.differences and versions == {2} else version, table.note]
    parts = [f"## {table.title}", f"`python benchmarks/{table.command}`", " ".join(words).strip()]
    plain = PLAIN if table.differences else set[str]()
    parts.append(markdown(rows, table.columns, table.digits, plain, commits=len(commits) > 1))
    for prefix, less in AGAINST.items() if table.differences else ():
        columns = {f"{prefix}/{metric}": METHODS[metric] for metric in (HIGH, VALUE, TRUE)}
        parts += [f"Less {less}, paired, intervals corrected by Holm:", markdown(rows, columns, 4, signed=True)]
    return "\n\n".join(parts)


def saved(table: Table) -> pl.DataFrame:
    """The rows of a table, with the NDCG that methods retain.

    Raises:
        ValueError: the CSV has no row of a table.
    """
    every = pl.read_csv(RESULTS / f"{table.file}.csv", schema_overrides={"seeds": pl.String, "commit": pl.String})
    rows = pl.concat([every.filter(pl.col("log") == log) for log in table.logs])
    rows = rows.unique(["row", "metric"], keep="first", maintain_order=True)
    rows = rows.filter(pl.col("row").str.starts_with(table.prefix))
    rows = rows.with_columns(pl.col("row").str.strip_prefix(table.prefix))
    if rows.is_empty():
        raise ValueError(f"benchmarks/results/{table.file}.csv has no row of {table.title}")
    start = rows.filter(pl.col("row") == "start", pl.col("metric") == ALL)
    if table.differences:
        share = rows.filter(pl.col("metric") == ALL).with_columns(
            pl.col("mean") / start["mean"].item(), metric=pl.lit(RETAINED), sd=None, ci_low=None, ci_high=None
        )
        rows = pl.concat([rows, share], how="vertical_relaxed")
    return rows


def markdown(
    rows: pl.DataFrame,
    columns: dict[str, str],
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
    behind = digits if digits is not None else _behind(mean)

    def text(x: float) -> str:
        return f"{x:{'+' if signed else ''}z.{behind}f}"

    if cell["metric"] == RETAINED:
        return f"{mean:.1%}"
    if plain:
        return text(mean)
    if cell["ci_low"] is not None and cell["ci_high"] is not None:
        return f"{text(mean)} ({text(cell['ci_low'])} .. {text(cell['ci_high'])})"
    return f"{text(mean)} ± {text(cell['sd'])}" if cell["sd"] else text(mean)


def _behind(x: float) -> int:
    """Digits behind the point that leave three that count."""
    return max(0, 2 - math.floor(math.log10(abs(x)))) if x else 2


if __name__ == "__main__":
    sys.exit(main())
