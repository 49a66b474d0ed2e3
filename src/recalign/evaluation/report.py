"""`report.html`: one page with the figures of a chain, and the table that ends it in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from rich.table import Table

from recalign.evaluation import comparison, plots, trusted
from recalign.evaluation.cells import Cell, Cells
from recalign.evaluation.claim import ALL, HIGH, KEPT, VALUE, verdicts
from recalign.evaluation.selection import SEARCH

FILE = "report.html"
MARKS = {1: "▲", 0: "", -1: "▼"}
TERMINAL = (ALL, HIGH, VALUE, "value/train_rm@10", "value/true@10", "policy/kl", "cost/seconds")
TRAJECTORY = "trajectory/ndcg@10"
MAIN = (ALL, HIGH, TRAJECTORY, *TERMINAL[2:5], "value/true", "policy/kl", "policy/coverage@10", "cost/seconds")
HEADLINE = (HIGH, VALUE, "value/true@10", ALL)
# What the page says of each metric, in the order in which it is asked.
MEANINGS = {
    ALL: "NDCG@10 of the item that was really chosen, over the full catalogue, seen items left out. Imitating the log "
    "is rewarded here, its habits and trends included.",
    HIGH: "The same on the events that turned out well (a high reward). It selects on the outcome, so read it beside "
    "the others.",
    TRAJECTORY: "The same on users whose mean reward in the test window is above the median.",
    VALUE: "Mean reward that independent judges expect of the ten unseen items shown. The judges learned from other "
    "users than the methods did.",
    "value/train_rm@10": "The same under the reward model that methods trained with: what they were told to like.",
    "gap/judge@10": "value/train_rm@10 less value/judge@10, event by event. Levels of raters are in it; what a method "
    "adds to the gap of start is over-optimisation.",
    "value/true@10": "The true mean reward of the ten items shown, known in a simulated log.",
    "value/true": "The true reward expected of an item drawn from the policy among unseen ones.",
    "policy/kl": "KL(policy || start), mean over test histories: how far training moved the policy.",
    "policy/entropy": "Entropy of the policy over the catalogue, in nats.",
    "policy/coverage@10": "Share of the catalogue that is shown to anybody.",
    "policy/popularity@10": "Mean popularity of the items shown.",
    "cost/seconds": "Training time of the method's own stage.",
}


def render(chain_folder: Path, *, searched: bool = True) -> Path:
    """Write the page of a chain from its `comparison.csv` and run folders.

    Args:
        chain_folder: `runs/<chain>`.
        searched: whether its `search.csv`, if there is one, is this comparison's, and not an earlier one's.

    Returns:
        The page's path.

    Raises:
        InputError: the chain has no `comparison.csv`.
    """
    frame = comparison.read(chain_folder)
    cells = Cells(frame)
    text = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    page = environment.from_string(text).render(
        name=chain_folder.resolve().name,
        cells=cells,
        headline=list(_headline(cells)),
        verdicts=verdicts(cells) if cells.get("asft", ALL) else [],
        table=_table(cells),
        validation=_table(Cells(frame, "validation")),
        seeds=_seed_table(frame),
        plots=[*_plots(cells), *(_frontiers(chain_folder) if searched else [])],
        size=_size(chain_folder, cells.seeds[0]),
        check=_read(chain_folder / "check.json"),
        trust=trusted.section(chain_folder, cells.seeds),
        manifests=_manifests(chain_folder, cells.seeds),
        meanings={metric: text for metric, text in MEANINGS.items() if metric in cells.metrics},
    )
    partial = chain_folder / f"{FILE}.partial"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, chain_folder / FILE)
    return chain_folder / FILE


def terminal_table(frame: pl.DataFrame) -> Table:
    """The table that ends a chain: a row a method, at most 120 columns wide.

    Args:
        frame: as `comparison.compare` returns it.
    """
    cells = Cells(frame)
    columns = [metric for metric in TERMINAL if metric in cells.metrics or metric != "value/true@10"]
    table = Table(
        title=f"test, mean of {len(cells.seeds)} seed{'s' * (len(cells.seeds) != 1)}",
        caption="± half the 95 % interval.  ▲ ▼ better or worse than the better of start and bc (Holm)",
        padding=(0, 1, 0, 0),
        box=None,
    )
    table.add_column("method", no_wrap=True)
    for metric in columns:
        table.add_column(metric.removeprefix("value/").removeprefix("cost/"), justify="right", no_wrap=True)
    for method in cells.methods:
        row = [_terminal_cell(cells, method, metric) for metric in columns]
        table.add_row(method, *row, style="bold" if method == "asft" else None)
    return table


def _terminal_cell(cells: Cells, method: str, metric: str) -> str:
    cell = cells.get(method, metric)
    if cell is None:
        return "–"
    spread = ""
    if metric in (ALL, HIGH, VALUE):
        spread = f" ±{_figure(metric, (cell.high - cell.low) / 2)} {MARKS[cells.mark(method, metric)] or ' '}"
    return _figure(metric, cell.value) + spread


def _figure(metric: str, value: float) -> str:
    """A figure with as many digits as its metric deserves."""
    if metric == "cost/seconds":
        return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"
    if metric == "policy/coverage@10":
        return f"{value:.1%}"
    return f"{value:.3f}" if metric.startswith(("value/", "policy/")) else f"{value:.4f}"


def _number(value: Any) -> str:
    """Any value of a JSON file, for a person."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Shown:
    """A cell of the page's table; mark is 1 for better, -1 for worse, else 0, and hint is what a pointer is told."""

    figure: str
    interval: str
    mark: int
    best: bool
    hint: str


def _table(cells: Cells) -> dict[str, Any]:
    """Columns, and a row a method of `Shown` or None."""
    columns = [metric for metric in MAIN if metric in cells.metrics]
    best = [_highest(cells, metric) for metric in columns]
    return {
        "columns": columns,
        "rows": {
            method: [_shown(cells, method, metric, method == top) for metric, top in zip(columns, best, strict=True)]
            for method in cells.methods
        },
    }


def _highest(cells: Cells, metric: str) -> str | None:
    """The method with the highest figure, where more is better."""
    values = {method: cell.value for method, cell in cells.column(metric).items()}
    return None if metric.startswith(("policy/", "cost/")) else max(values, key=values.__getitem__)


def _shown(cells: Cells, method: str, metric: str, best: bool) -> Shown | None:
    cell = cells.get(method, metric)
    if cell is None:
        return None
    known = cell.low == cell.low and not metric.startswith("cost/")
    interval = f"{_figure(metric, cell.low)} – {_figure(metric, cell.high)}" if known else ""
    difference, p = (cells.get(method, f"{kind}_best_bc/{metric}") for kind in ("holm", "p"))
    hint = ""
    if difference and p:
        hint = (
            f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] against "
            f"{cells.better_baseline(metric)}, p = {p.value:.3f} (Holm)"
        )
    return Shown(_figure(metric, cell.value), interval, cells.mark(method, metric), best, hint)


def _headline(cells: Cells) -> Iterator[dict[str, Any]]:
    """What A-SFT gains, metric by metric."""
    for metric in HEADLINE:
        gain: Cell | None = cells.get("asft", f"holm_best_bc/{metric}")
        baseline = cells.better_baseline(metric)
        if gain and baseline:
            base = cells.column(metric)[baseline].value
            relative = gain.value / base if base else float("nan")
            yield {"metric": metric, "gain": gain, "baseline": baseline, "relative": relative, "base": base}


def _plots(cells: Cells) -> list[tuple[str, str, list[Any]]]:
    """Title, what to see, and the plots of each section; a plot whose metrics are missing is left out."""
    baseline = cells.better_baseline(ALL)
    shade = plots.below(KEPT * cells.column(ALL)[baseline].value) if baseline else lambda axes: None
    gains = [f"diff_start/value/{name}" for name in ("train_rm@10", "judge@10", "true@10")]
    sections = [
        (
            "Who gains",
            "Difference to the better of start and bc. Thick: 95 % interval. Thin: widened by Holm, for as many "
            "methods as are compared. Left of zero is a loss.",
            [plots.forest(cells, HIGH), plots.forest(cells, VALUE)],
        ),
        (
            "What it costs",
            "Up is better value. First against imitation: in the shade more than 5 % of all/ndcg@10 is lost. Then "
            "against the distance from the start.",
            [
                plots.scatter(cells, ALL, VALUE, "value and imitation", shade),
                plots.scatter(cells, "policy/kl", VALUE, "value and distance", log=True),
            ],
        ),
        (
            "Does the reward model fool anybody?",
            "Gain over start under the training reward model, and under who did not train with it. Below the dashed "
            "line the training reward model promises more than others see: over-optimisation. The last plot shows that "
            "excess against the distance from the start.",
            [
                plots.scatter(cells, gains[0], gains[1], "promised and judged", plots.diagonal),
                plots.scatter(cells, gains[1], gains[2], "judged and true", plots.diagonal),
                plots.scatter(cells, "policy/kl", "diff_start/gap/judge@10", "over-optimisation", log=True),
            ],
        ),
    ]
    drawn = [(title, text, [plot for plot in each if plot]) for title, text, each in sections]
    return [section for section in drawn if section[2]]


def _frontiers(chain_folder: Path) -> list[tuple[str, str, list[Any]]]:
    """The section of the search, where there was one."""
    if not (chain_folder / SEARCH).is_file():
        return []
    trials = pl.read_csv(chain_folder / SEARCH)
    text = (
        "Each method's trials on validation, named by its main parameter, the chosen one in colour. Value by judges "
        "for selection, against the distance from the start and against imitation."
    )
    drawn = [plots.frontier(each) for _, each in trials.group_by("method", maintain_order=True)]
    return [("What the search found", text, [plot for plot in drawn if plot])]


def _seed_table(frame: pl.DataFrame) -> dict[str, Any]:
    """A row a method and seed with the main metrics of the test."""
    rows = frame.filter(split="test").filter(pl.col("seed") != "all")
    columns = [metric for metric in MAIN if metric in set(rows["metric"])]
    values = {(m, s, metric): v for m, s, _, metric, v, *_ in rows.iter_rows()}
    body = [
        (method, seed, [_figure(c, values[method, seed, c]) if (method, seed, c) in values else "–" for c in columns])
        for method, seed in dict.fromkeys((method, seed) for method, seed, _ in values)
    ]
    return {"columns": columns, "rows": body}


def _size(chain_folder: Path, seed: str) -> dict[str, int]:
    """Users and events of the test, and how many of the events had a high reward."""
    events = pl.read_parquet(
        next(chain_folder.glob(f"*/seed-{seed}/evaluation/test.parquet")), columns=["user", "high"]
    )
    return {"users": events["user"].n_unique(), "events": len(events), "high": int(events["high"].sum())}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _manifests(chain_folder: Path, seeds: list[str]) -> list[dict[str, Any]]:
    """`manifest.json` of every stage and of these seeds, in the order in which they ran."""
    found = [_read(path) for seed in seeds for path in chain_folder.glob(f"*/seed-{seed}/manifest.json")]
    return sorted(found, key=lambda manifest: (str(manifest.get("started")), str(manifest.get("stage"))))
