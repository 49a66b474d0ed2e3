"""`report.html`, one page with the figures of a chain, and the table that ends a chain in the terminal."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.table import Table

from recalign.evaluation.comparison import ALL, HIGH, VALUE
from recalign.evaluation.comparison_table import ComparisonTable, figure
from recalign.evaluation.roles import Roles
from recalign.evaluation.sources import Sources
from recalign.files import write_text

FILE = "report.html"
MARKS = {1: "▲", 0: "", -1: "▼"}
TERMINAL = (ALL, HIGH, VALUE, "value/train_rm@10", "value/true@10", "policy/kl", "cost/seconds")


def render(chain_folder: Path, *, searched: bool = True) -> Path:
    """Write the page of a chain from its `comparison.csv` and run folders, unless it is there already.

    A page carries the digest of all that it is made of, and is drawn again as soon as any of that changes.

    Args:
        chain_folder: `runs/<chain>`.
        searched: whether its `search.csv`, if there is one, is this comparison's, and not an earlier one's.

    Returns:
        The page's path.

    Raises:
        InputError: the chain has no `comparison.csv`.
    """
    path, sources = chain_folder / FILE, Sources.of(chain_folder, searched)
    digest = sources.digest()
    if not _carries(path, digest):
        from recalign.evaluation.page import page  # with Matplotlib, which takes as long to import as to draw

        write_text(path, page(sources, digest))
    return path


def _carries(path: Path, digest: str) -> bool:
    return path.is_file() and f'<meta name="made-of" content="{digest}">' in path.read_text(encoding="utf-8")


def terminal_table(frame: pl.DataFrame, roles: Roles) -> Table:
    """The table that ends a chain: a row a method, at most 120 columns wide.

    Args:
        frame: as `comparison.compare` returns it.
        roles: of its methods.
    """
    cells = ComparisonTable(frame, roles)
    baselines = " and ".join(roles.baselines)
    columns = [metric for metric in TERMINAL if metric in cells.metrics or metric != "value/true@10"]
    table = Table(
        title=f"test, mean of {len(cells.seeds)} seed{'s' * (len(cells.seeds) != 1)}",
        caption=f"± half the 95 % interval.  ▲ ▼ better or worse than the better of {baselines} (Holm)",
        padding=(0, 1, 0, 0),
        box=None,
    )
    table.add_column("method", no_wrap=True)
    for metric in columns:
        table.add_column(metric.removeprefix("value/").removeprefix("cost/"), justify="right", no_wrap=True)
    for method in cells.methods:
        row = [_terminal_cell(cells, method, metric) for metric in columns]
        table.add_row(method, *row, style="bold" if method == roles.ours else None)
    return table


def _terminal_cell(cells: ComparisonTable, method: str, metric: str) -> str:
    cell = cells.get(method, metric)
    if cell is None:
        return "–"
    spread = ""
    if metric in (ALL, HIGH, VALUE):
        spread = f" ±{figure(metric, (cell.high - cell.low) / 2)} {MARKS[cells.mark(method, metric)] or ' '}"
    return figure(metric, cell.value) + spread
