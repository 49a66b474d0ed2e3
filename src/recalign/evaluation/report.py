"""`recalign compare` and `recalign report`: the table in the terminal, and `report.html`, a page with all figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from recalign.errors import require_positive
from recalign.evaluation.answer import REASONS, heading, limits
from recalign.evaluation.chain_comparison import FILE, RunsComparison
from recalign.evaluation.comparison import JUDGE_VALUE, NDCG_ALL, NDCG_HIGH, SHOWN_AUC
from recalign.evaluation.comparison_table import ComparisonTable, figure
from recalign.evaluation.decision import Decision
from recalign.evaluation.findings import Reports
from recalign.evaluation.sources import Sources

MARKS = {1: "▲", 0: " ", -1: "▼"}
TRUE = "value/true@10"
WIDTH = 80  # fewest columns when printing to a file


def compare(folder: Path, draws: int = 2000) -> None:
    """Compare a chain's methods from its run folders: print the table and write comparison.csv.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
        draws: number of bootstrap draws for the intervals.
    """
    require_positive("", {"draws": draws}, "draws")
    RunsComparison(folder, draws).make()
    show(Sources.of(folder), folder / FILE)


def report(folder: Path) -> None:
    """Write the page report.html of a chain from its comparison.csv and run folders.

    Args:
        folder: the chain's run folder, `runs/<chain>`.
    """
    from recalign.evaluation.page import write_page  # with Matplotlib, which takes as long to import as to draw

    sources = Sources.of(folder)
    show(sources, write_page(folder, sources))


def show(sources: Sources, *paths: Path) -> None:
    """Print the table of a comparison, the decision, and the paths of the files that hold more of it."""
    console, table = Console(), terminal_table(sources.table())
    if not console.is_terminal:  # a file may be as wide as the table
        console = Console(width=max(WIDTH, Console(width=1000).measure(table).maximum))
    console.print(table)
    if decision := sources.decision:
        console.print(f"\n[bold]{escape(heading(decision, sources.trust))}[/]")
        for reason in reasons(decision, sources.trust):
            console.print(f"- {reason}", markup=False, highlight=False)
        print()
    for path in paths:
        print(path)


def reasons(decision: Decision, trust: Mapping[str, Reports], more: str = "see the report") -> list[str]:
    """A decision's caveats, note and first reasons; ``more``: where to read the other reasons."""
    said = [*filter(None, [decision.caveat_text, *decision.reasons[:REASONS], limits(trust)])]
    left = len(decision.reasons[REASONS:])
    return [*said, f"{left} more: {more}"] if left else said


def terminal_table(cells: ComparisonTable) -> Table:
    """The table that ends a chain: a row a method; the report has all figures."""
    roles = cells.roles
    columns = [NDCG_ALL, NDCG_HIGH, JUDGE_VALUE, TRUE if TRUE in cells.metrics else "policy/kl"]
    if SHOWN_AUC in cells.metrics:
        columns.append(SHOWN_AUC)
    seeds = f"mean of {len(cells.seeds)} seed{'s' * (len(cells.seeds) != 1)}"
    ran = [baseline for baseline in roles.baselines if baseline in cells.methods]
    heads = [metric.removeprefix("value/").removeprefix("policy/") for metric in columns]
    table = Table(
        Column("method", no_wrap=True),
        *(Column(head, justify="right") for head in heads),  # in a narrow terminal nothing is cut off
        title=", ".join(filter(None, ("test", cells.sample, seeds))),
        caption="± half the 95 % interval. ▲ ▼ better or worse than "
        f"{'the better of ' * (len(ran) > 1)}{escape(' and '.join(ran))} (Holm)",
        padding=(0, 1, 0, 0),
        box=None,
    )
    for method in cells.methods:
        row = []
        for metric in columns:
            cell = cells.get(method, metric)
            text = figure(metric, cell.value) if cell else "–"
            if cell and metric in (NDCG_ALL, NDCG_HIGH, JUDGE_VALUE, SHOWN_AUC):
                text += f" ±{figure(metric, (cell.high - cell.low) / 2)} {MARKS[cells.mark(method, metric)]}"
            row.append(text)
        table.add_row(escape(method), *row, style="bold" if method == roles.highlight else None)
    return table
