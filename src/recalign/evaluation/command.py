"""`recalign compare` and `recalign report`."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.console import Console

from recalign.evaluation import comparison
from recalign.evaluation.report import render, terminal_table

WIDTH = 120  # columns where there is no terminal to ask; rich would take 80, and cut every figure


def compare(folder: Path, draws: int = 2000) -> None:
    """The table of a chain's methods, from its run folders; writes comparison.csv.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
        draws: of the bootstrap that makes the intervals.
    """
    show(comparison.compare(folder, draws), folder / comparison.FILE)


def report(folder: Path) -> None:
    """The page report.html of a chain, from its comparison.csv and run folders.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
    """
    page = render(folder)
    show(comparison.read(folder), page)


def show(frame: pl.DataFrame, *paths: Path) -> None:
    """Print the table of a comparison, and the files that hold more of it.

    Args:
        frame: as `comparison.compare` returns it.
        paths: of those files.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, WIDTH))
    console.print(terminal_table(frame))
    for path in paths:
        print(path)
