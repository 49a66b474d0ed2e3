"""Report what was read of a log."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from recalign.data.events.messages import SHOWN, SourceRows
from recalign.errors import InputError, printable

LeftOut = tuple[str, int, list[int]]
"""Reason, number of rows, and the first row numbers."""


@dataclass(frozen=True)
class Note:
    """Rows that are left out, or count in some losses only."""

    reason: str
    count: int
    rows: str  # description of the first ones

    def __str__(self) -> str:
        return printable(f"{self.count:,} rows {self.reason}: {self.rows}")


@dataclass(frozen=True)
class Report:
    """Rows read from each file, events used, and notes on the other rows.

    Attributes:
        tied: events at the same time as another of their user, at the file's own resolution.
        repeats: events whose row equals an earlier one in every column of the file.
    """

    files: dict[str, int]
    used: int
    notes: tuple[Note, ...]
    tied: int = 0
    repeats: int = 0

    def __str__(self) -> str:
        lines = [printable(f"{count:,} rows read from {file}") for file, count in self.files.items()]
        return "\n".join([*lines, *map(str, self.notes), f"{self.used:,} events used"])


@dataclass(frozen=True)
class CheckResult:
    """Result of checking some rows of a log, in plain values.

    Attributes:
        used: number of rows that are events.
        left_out: counts of the other rows, and of rows without a reward, by reason. All parts of a log list the same
            reasons in the same order.
        rewards: smallest and largest reward; None if there is none.
        tied, repeats: as in `Report`.
    """

    used: int
    left_out: list[LeftOut]
    rewards: tuple[float | None, float | None]
    tied: int
    repeats: int


def count_rows(reason: str, mask: pl.Series, rows: SourceRows) -> LeftOut:
    """Count the rows of a mask; 0 is listed too."""
    return reason, int(mask.sum()), rows.number.filter(mask).bottom_k(SHOWN).sort().to_list()


def make_report(parts: Sequence[CheckResult], rows: SourceRows, reward: str | None) -> Report:
    """Combine the check results of a log's parts. Of `rows` only the files are used.

    Raises:
        InputError: no row can be used, or the reward is the same for every event.
    """
    notes = []
    for same in zip(*(part.left_out for part in parts), strict=True):
        count = sum(one[1] for one in same)
        first = sorted(number for one in same for number in one[2])[:SHOWN]
        if count:
            notes.append(Note(same[0][0], count, rows.name(first, count)))
    used = sum(part.used for part in parts)
    if not used:
        text = f"no row of {', '.join(rows.files)} can be used: {'; '.join(note.reason for note in notes)}"
        raise InputError(text, where="data.log.where", remedy="correct the condition or the file")
    values = {end for part in parts for end in part.rewards if end is not None}
    if reward is not None and len(values) < 2:
        raise InputError(
            f"{reward!r} is {f'{values.pop():g}' if values else 'null'} for every event of {', '.join(rows.files)}",
            where="data.reward",
            remedy="name a column that tells good events from bad ones. Without one there is nothing to align to: "
            "data.reward: null is for training a recommender alone",
        )
    tied, repeats = sum(part.tied for part in parts), sum(part.repeats for part in parts)
    return Report(rows.files, used, tuple(notes), tied, repeats)
