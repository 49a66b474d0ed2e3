"""Format a comparison of rewards as text, in short tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from recalign.errors import printable
from recalign.reward.candidates.comparison import SIZES
from recalign.reward.candidates.statistics import QUANTILES
from recalign.reward.trust.report import MIN_USERS

UNKNOWN = f"- unknown: fewer than {MIN_USERS} users have two validation events that the judge values differently"
ALIKE = "* orders this judge's values as well as the judge's own item means do, as far as the 95 % interval can tell"
READ = """\
The test split was not read. Choose a reward by these figures of training and validation, and confirm it on what had no
part in the choice: a test split that is opened once, or an A/B test."""
FORMATS: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(("coverage/events", "coverage/users", "most frequent"), "{:.1%}".format),
    **dict.fromkeys(("distinct", "measured events"), "{:,.0f}".format),
    **dict.fromkeys(("reliability", "noise"), "{:.3f}".format),
}

HOLDS = {"coverage/events": "events", "coverage/users": "users", "mean": "mean", "sd": "sd"}
HOLDS |= {name: name for name in QUANTILES} | {"distinct": "values", "most frequent": "commonest"}
MEANS = {"reliability": "reliability", "noise": "repeats", "measured events": "events"}
MEANS |= {"r2/item": "R2 item", "r2/user_item": "R2 user + item"}


def render(table: pl.DataFrame) -> str:
    """Format the table of `compare_rewards` as text; six candidates fit about 120 columns."""
    found = {(reward, figure, other): rest for reward, figure, other, *rest in table.iter_rows()}
    names = table["reward"].drop_nulls().unique(maintain_order=True).to_list()
    trained, measured, people = (f"{found[None, size, None][0]:,.0f}" for size in SIZES)

    def cell(reward: str, figure: str, other: str | None = None) -> str:
        """A figure, with half its interval's width if it has one; ``-`` if unknown."""
        value, low, high = found.get((reward, figure, other), (None, None, None))
        if value is None or math.isnan(value):
            return "-"
        digits = FORMATS.get(figure, "{:.4g}".format if abs(value) >= 1 else "{:.3f}".format)
        return digits(value) if low is None else f"{value:.3f} ±{(high - low) / 2:.3f}"

    def figures(title: str, labels: Mapping[str, str], other: str | None = None) -> str:
        rows = [[name, *(cell(name, figure, other) for figure in labels)] for name in names]
        return _table(title, ["reward", *labels.values()], rows)

    parts = [figures(f"What it holds ({trained} training events; users: with two values or more)", HOLDS)]
    if len(names) > 1:
        title = "Rank correlation (training): of events above the diagonal, of item means below"
        kinds = ("correlation/event", "correlation/item")
        rows = [
            [name, *(cell(name, kinds[j < i], other) for j, other in enumerate(names))] for i, name in enumerate(names)
        ]
        parts.append(_table(title, ["", *names], rows))
    for against in table.filter(figure="against/event")["other"].unique():
        labels = {"against/event": "of events", "against/item": "of item means"}
        parts.append(figures(f"Rank correlation with {against} (training)", labels, against))
    title = f"What training means tell of the same reward ({measured} validation events of {people} users)"
    parts.append(figures(title, MEANS))
    own = table.filter(pl.col("ci_high") >= 0, figure="pairwise_minus_own")
    alike = set(own.fill_nan(None).drop_nulls("value").select("reward", "other").iter_rows())
    rows = [
        [name, *(cell(name, "pairwise", judge) + " *"[(name, judge) in alike] for judge in names)] for name in names
    ]
    ends = {text.strip()[-1] for row in rows for text in row[1:]}
    title = "Judged by each reward (columns): pairs of a user's validation events in the right order"
    notes = [f"\n  {note}" for note in (UNKNOWN, ALIKE) if note[0] in ends]
    return printable("\n\n".join([*parts, _table(title, ["ranked by", *names], rows) + "".join(notes), READ]))


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [title]
    for first, *others in (header, *rows):
        cells = first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)
