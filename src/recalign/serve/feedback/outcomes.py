"""Outcomes: what came of what was shown, from any table of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recalign.data.events import reading
from recalign.data.events.fields import missing_as_null, read_ids, read_timestamps
from recalign.data.events.guess import files_named
from recalign.data.events.log import TimeUnit
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

MICRO = 1_000_000


@dataclass(frozen=True)
class Columns:
    """Columns of a table of outcomes.

    Attributes:
        item: raw ids, as the server shows them.
        time: when it happened.
        time_unit, time_format: of that, as in `recalign.data.events.LogMapping`.
        user: raw ids, as requests name them; not read where ``decision`` is.
        decision: the ids of decisions that answers have; None: outcomes are attributed by user, item and time.
        reward: how good it was; None: each has the reward 1.
    """

    item: str = "item"
    time: str = "timestamp"
    time_unit: TimeUnit = "s"
    time_format: str | None = None
    user: str = "user"
    decision: str | None = None
    reward: str | None = None


def read(tables: Sequence[Path], columns: Columns, pseudonym: Callable[[str], str]) -> tuple[pl.DataFrame, int]:
    """Outcomes of some tables, in the order of time: ``decision`` or ``user`` (a pseudonym), ``item, time, reward``.

    Times are microseconds since 1970.

    Returns:
        The outcomes, and how many were left out: guests' have no user, and what no answer led to has no decision.

    Raises:
        InputError: a table or a column is not there, or holds what it cannot.
    """
    frames: dict[str, pl.DataFrame] = {}
    for path in tables:
        frames |= {source: _picked(source, columns) for source in files_named(str(path))}
    try:
        raw = pl.concat(frames.values(), how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        what = f"their columns differ in type: {str(error).splitlines()[0]}"
        raise InputError(what, where="--outcomes", remedy="give one kind of table at a time") from error
    if not raw.height:
        raise InputError("no table has rows", where="--outcomes", remedy="give a table with outcomes")
    heights = {source: frame.height for source, frame in frames.items()}
    rows = SourceRows(pl.int_range(1, raw.height + 1, eager=True, dtype=pl.UInt32), heights)
    who = "decision" if columns.decision else "user"
    named = raw["who"].is_not_null()
    nameless, raw, rows = raw["who"].null_count(), raw.filter(named), rows.filter(named)
    who_N = raw["who"].cast(pl.String) if raw["who"].dtype == pl.Null else raw["who"]  # if nobody is named
    ids = _ids(who_N.alias(columns.decision or columns.user), f"--{who}", rows).cast(pl.String)
    if who == "user":
        known = ids.unique()
        ids = ids.replace_strict(known, [pseudonym(one) for one in known], return_dtype=pl.String)
    outcomes = pl.DataFrame(
        {
            who: ids,
            "item": _ids(raw["item"].alias(columns.item), "--item", rows),
            "time": _micro(raw["time"].alias(columns.time), columns, rows),
            "reward": _rewards(raw, rows) if columns.reward else pl.repeat(1.0, raw.height, eager=True),
        }
    )
    return outcomes.sort("time", maintain_order=True), nameless


def _ids(column: pl.Series, key: str, rows: SourceRows) -> pl.Series:
    """Ids as those of a log."""
    if column.null_count():
        what = f"the column {column.name} is empty in {rows.describe(column.is_null())}"
        raise InputError(what, where=key, remedy="fill in the values, or leave these rows out of the table")
    return read_ids(column, key, rows)


def _picked(source: str, columns: Columns) -> pl.DataFrame:
    """The columns that are read of one file. Users in text that are whole numbers, as pandas' ``7.0``, are integers."""
    wanted = {
        "who": ("decision", columns.decision) if columns.decision else ("user", columns.user),
        "item": ("item", columns.item),
        "time": ("time", columns.time),
        **({"reward": ("reward", columns.reward)} if columns.reward else {}),
    }
    frame, picked = reading.read(source, [wanted["who"][1], wanted["item"][1]]), {}
    for name, (option, column) in wanted.items():
        if column not in frame.columns:
            raise reading.no_column(f"--{option}", column, source, frame.columns)
        values = missing_as_null(frame[column])
        user = name == "who" and values.dtype == pl.String and reading.is_text(source)  # items are matched later
        picked[name] = reading.whole_numbers(values) if user else values
    return pl.DataFrame(picked)


def _micro(column: pl.Series, columns: Columns, rows: SourceRows) -> pl.Series:
    try:
        time, per_second = read_timestamps(column, columns.time_unit, rows, columns.time_format)
    except InputError as error:
        remedy = "correct them, or say what they are: --time_unit s, ms, us or datetime, --time_format"
        raise InputError(error.what, where="--time", remedy=remedy) from error
    return time * (MICRO // per_second)


def _rewards(raw: pl.DataFrame, rows: SourceRows) -> pl.Series:
    column = raw["reward"]
    values = column.cast(pl.Float64, strict=False).fill_nan(None)
    bad = (values.is_null() & column.is_not_null()) | values.is_infinite().fill_null(False)
    if bad.any():
        what = f"the reward {column.filter(bad)[0]!r} in {rows.describe(bad)} is no finite number"
        raise InputError(what, where="--reward", remedy="name a column of numbers; empty where nothing is known")
    return values
