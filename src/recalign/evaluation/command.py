"""`recalign compare` and `recalign report`."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.console import Console

from recalign.evaluation import comparison
from recalign.evaluation.report import render, terminal_table


def compare(folder: Path, draws: int = 2000) -> None:
    """The table of a chain's methods, from its run folders; writes comparison.csv.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
        draws: of the bootstrap that makes the intervals.
    """
    _print(comparison.compare(folder, draws), folder / comparison.FILE)


def report(folder: Path) -> None:
    """The page report.html of a chain, from its comparison.csv and run folders.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
    """
    page = render(folder)
    _print(comparison.read(folder), page)


def _print(frame: pl.DataFrame, path: Path) -> None:
    console = Console()
    console.print(terminal_table(frame))
    console.print(str(path), soft_wrap=True, highlight=False)
