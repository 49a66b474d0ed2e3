"""A comparison of rewards as text: five short tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from recalign.errors import printable
from recalign.reward.candidates.comparison import QUANTILES, SIZES
from recalign.reward.trust.report import MIN_USERS

UNKNOWN = {
    "pairwise": f"- unknown: fewer than {MIN_USERS} users have two validation events that differ in the judge",
    "lift": f"- unknown: fewer than {MIN_USERS} users have a validation event that the judge has a value of",
}
ALIKE = "* orders this judge's values as well as the judge's own item means do, as far as the 95 % interval can tell"
READ = """\
The test part was not read. Choose a reward by these figures of training and validation, and confirm it on what had no
part in the choice: a test part that is opened once, or an A/B test."""

Labels = dict[str, str | None]
"""Headings of figures; None: the figure's own name."""


def render(table: pl.DataFrame) -> str:
    """Format what `compare_rewards` found as text, for a terminal of about 120 columns and six candidates."""
    cells, names = _Cells(table), table["reward"].drop_nulls().unique(maintain_order=True).to_list()
    trained, measured, people = (f"{table.filter(figure=size)['value'][0]:,.0f}" for size in SIZES)
    plain: Labels = {"coverage/events": "events", "coverage/users": "users", "mean": "mean", "sd": "sd"}
    plain |= dict.fromkeys(QUANTILES) | {"distinct": "values", "most frequent": "commonest"}
    reliable: Labels = {"variance/item": "item", "variance/user": "user", "reliability": None, "noise": "repeats"}
    own: Labels = {"measured events": "events", "r2/item": "R2 item", "r2/user_item": "R2 user + item"}
    formats: dict[str, Callable[[float], str]] = {
        **dict.fromkeys(("coverage/events", "coverage/users", "most frequent"), "{:.1%}".format),
        **dict.fromkeys(("distinct", "measured events"), "{:,.0f}".format),
        **dict.fromkeys(reliable, "{:.3f}".format),
    }

    def columns(title: str, figures: Labels, other: str | None = None) -> str:
        header = [label or figure for figure, label in figures.items()]
        rows = [[name, *(cells.text(name, one, other, formats.get(one)) for one in figures)] for name in names]
        return _columns(title, ["reward", *header], rows)

    def matrix(title: str, figure: str) -> str:
        mark = cells.mark if figure == "pairwise" else lambda *_: ""
        rows = [[name, *(cells.text(name, figure, other) + mark(name, other) for other in names)] for name in names]
        last = {text.strip()[-1] for row in rows for text in row[1:]}
        notes = [f"\n  {note}" for note in (UNKNOWN[figure], ALIKE) if note[0] in last]
        return _columns(title, ["ranked by", *names], rows) + "".join(notes)

    parts = [
        columns(f"What it holds ({trained} training events; users: with two values or more)", plain),
        columns("Whose variance it is (training; shares), and how reliable the items' means are", reliable),
        *([_correlations(cells, names)] if len(names) > 1 else []),
    ]
    for against in table.filter(figure="against/event")["other"].unique():
        figures: Labels = {"against/event": "of events", "against/item": "of item means"}
        parts.append(columns(f"Rank correlation with {against} (training)", figures, against))
    parts += [
        columns(f"What training means tell of the same reward ({measured} validation events of {people} users)", own),
        matrix("Judged by each reward (columns): pairs of a user's validation events in the right order", "pairwise"),
        matrix("Judged by each reward (columns): gain of the best quarter, in sd of the judge", "lift"),
        READ,
    ]
    return printable("\n\n".join(parts))


def _correlations(cells: _Cells, names: Sequence[str]) -> str:
    """Both correlation matrices in one: events above the diagonal, item means below."""
    rows = []
    for i, one in enumerate(names):
        figures = ("correlation/item" if j < i else "correlation/event" for j in range(len(names)))
        texts = [cells.text(one, figure, other) for figure, other in zip(figures, names, strict=True)]
        rows.append([one, *texts])
    title = "Rank correlation (training): of events above the diagonal, of item means below"
    return _columns(title, ["", *names], rows)


class _Cells:
    """The figures of a table by reward, figure and other."""

    def __init__(self, table: pl.DataFrame) -> None:
        self._found = {(reward, figure, other): rest for reward, figure, other, *rest in table.iter_rows()}

    def text(self, reward: str, figure: str, other: str | None, form: Callable[[float], str] | None = None) -> str:
        """A figure, with half its interval's width where it has one; ``-`` where it is unknown."""
        value, low, high = self._found.get((reward, figure, other), (None, None, None))
        if value is None or value != value:
            return "-"
        said = (form or _digits)(value)
        return said if low is None else f"{value:.3f} ±{(high - low) / 2:.3f}"

    def mark(self, reward: str, judge: str) -> str:
        """``*`` where a reward is not worse than the judge's own, within noise, and a space in its place elsewhere."""
        _, _, high = self._found.get((reward, "pairwise_minus_own", judge), (None, None, None))
        return "*" if high is not None and high >= 0 else " "


def _digits(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"


def _columns(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, the first to the left and the others to the right."""
    width = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(width[0]), *(text.rjust(wide) for text, wide in zip(row[1:], width[1:], strict=True))])
        for row in (header, *rows)
    ]
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])
