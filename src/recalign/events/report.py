"""What was read of a log, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from recalign.errors import InputError, printable
from recalign.events.messages import SHOWN, SourceRows

LeftOut = tuple[str, int, list[int]]
"""Why rows are no events, or in no loss; how many there are; the least of their numbers."""


@dataclass(frozen=True)
class Note:
    """Rows that are left out, or are not in every loss."""

    reason: str
    count: int
    rows: str  # the first of them, in words

    def __str__(self) -> str:
        return printable(f"{self.count:,} rows {self.reason}: {self.rows}")


@dataclass(frozen=True)
class Report:
    """What was read of a log: the rows of each file, and the events that are used."""

    files: dict[str, int]
    used: int
    notes: tuple[Note, ...]

    def __str__(self) -> str:
        lines = [printable(f"{count:,} rows read from {file}") for file, count in self.files.items()]
        return "\n".join([*lines, *map(str, self.notes), f"{self.used:,} events used"])


@dataclass(frozen=True)
class Found:
    """What the check of some rows of a log found, in plain values.

    Attributes:
        used: rows that are events.
        left_out: why other rows are not, or have no reward; of every part of a log for the same reasons in order.
        rewards: the least and the greatest; null where there is none.
    """

    used: int
    left_out: list[LeftOut]
    rewards: tuple[float | None, float | None]


def count_rows(reason: str, mask: pl.Series, rows: SourceRows) -> LeftOut:
    """Count the rows of a mask, also if there are none."""
    return reason, int(mask.sum()), rows.number.filter(mask).bottom_k(SHOWN).sort().to_list()


def make_report(parts: Sequence[Found], rows: SourceRows, reward: str | None) -> Report:
    """The report of a log whose rows were checked in parts. Only the files of `rows` are read.

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
        raise InputError(
            f"no row of {', '.join(rows.files)} can be used: {'; '.join(note.reason for note in notes)}",
            where="data.log.where",
            remedy="mend the condition, or the file",
        )
    values = {end for part in parts for end in part.rewards if end is not None}
    if reward is not None and len(values) < 2:
        raise InputError(
            f"{reward!r} is {f'{values.pop():g}' if values else 'null'} for every event of {', '.join(rows.files)}",
            where="data.reward",
            remedy="name a column that tells good events from bad ones, or set data.reward to null for a log without",
        )
    return Report(rows.files, used, tuple(notes))
