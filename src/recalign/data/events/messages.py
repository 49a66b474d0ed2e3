"""Name rows in messages, and suggest near misses."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import polars as pl

from recalign.errors import nearest

EXAMPLE_ROWS, LISTED = 5, 30
"""How many rows a message names (the others are counted), and how many names it lists."""


@dataclass(frozen=True)
class SourceRows:
    """Where the rows of a frame come from.

    Attributes:
        number: u32, row number, counted from 1 through all files, headers excluded.
        files: number of rows of each file, in order; empty if unknown.
        headed: files with a header row.
    """

    number: pl.Series
    files: dict[str, int] = field(default_factory=dict)
    headed: list[str] = field(default_factory=list)

    def filter(self, mask: pl.Series) -> "SourceRows":
        return replace(self, number=self.number.filter(mask))

    def describe(self, mask: pl.Series) -> str:
        """Describe the rows of a mask: ``rows 3, 8 of log.csv (header not counted) and 12 more``."""
        numbers = self.number.filter(mask)
        return self.name(numbers.head(EXAMPLE_ROWS).sort().to_list(), len(numbers))

    def name(self, first: list[int], count: int) -> str:
        """Describe `count` rows, given the numbers of the first ones."""
        parts, start = [], 0
        for file, height in self.files.items() or [("", max(first))]:
            in_file = [str(number - start) for number in first if start < number <= start + height]
            start += height
            if in_file:
                where = f" of {file}" if file else ""
                if file in self.headed:
                    where += " (header not counted)"
                parts.append(f"{'rows' if len(in_file) > 1 else 'row'} {', '.join(in_file)}{where}")
        return "; ".join(parts) + (f" and {count - EXAMPLE_ROWS:,} more" if count > EXAMPLE_ROWS else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, else list the known names."""
    known = list(known)
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    return f"there is: {', '.join(known[:LISTED]) or 'nothing'}{', ...' if len(known) > LISTED else '.'}"
