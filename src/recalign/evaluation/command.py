"""`recalign compare` and `recalign report`."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.console import Console

from recalign.evaluation import comparison
from recalign.evaluation.report import render, terminal_table
from recalign.evaluation.roles import Roles

WIDTH = 120  # columns where there is no terminal; rich would take 80 and cut every figure


def compare(folder: Path, draws: int = 2000) -> None:
    """Compare a chain's methods from its run folders: print the table and write comparison.csv.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
        draws: of the bootstrap that makes the intervals.
    """
    show(comparison.compare(folder, draws), Roles.load(folder)[0], folder / comparison.FILE)


def report(folder: Path) -> None:
    """Write the page report.html of a chain from its comparison.csv and run folders.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
    """
    page = render(folder)
    show(comparison.read(folder), Roles.load(folder)[0], page)


def show(frame: pl.DataFrame, roles: Roles, *paths: Path) -> None:
    """Print the table of a comparison, and the files that hold more of it.

    Args:
        frame: as `comparison.compare` returns it.
        roles: of its methods.
        paths: of those files.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, WIDTH))
    console.print(terminal_table(frame, roles))
    for path in paths:
        print(path)
