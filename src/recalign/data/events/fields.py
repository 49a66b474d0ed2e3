"""Read the ids and times of events. Ids never pass through floats."""

import numpy as np
import polars as pl

from recalign.data.events.log import TimeUnit
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "datetime": 1_000_000}
LAST_SECOND = 253_402_300_799
"""End of the year 9999. Later timestamps are most likely milliseconds read as seconds."""

EXACT: dict[type[pl.DataType], int] = {pl.Float64: 2**53, pl.Float32: 2**24, pl.Float16: 2**11}
"""Floats represent all integers below this size exactly."""

MISSING = ("", "nan", "NaN", "NULL", r"\N")
"""Text that pandas and databases write for a missing id or time."""

MAX_SPAN = 2**20
"""Integer ids within a range of this size are indexed by a lookup table."""


def missing_as_null(column: pl.Series) -> pl.Series:
    """Replace NaN, and the text in `MISSING`, by null."""
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        return column.replace(list(MISSING), None)
    return column.fill_nan(None) if column.dtype.is_float() else column


def read_ids(column: pl.Series, key: str, rows: SourceRows) -> pl.Series:
    """Read ids as integers (64 bits, or 128 as in the file) or strings.

    Floats become integers if all are whole numbers and small enough to be exact: pandas writes integers as floats if
    one is missing. `key` names the setting in errors.

    Raises:
        InputError: an id is missing, or the column's type cannot hold ids.
    """
    _require_present(column, key, rows)
    remedy = "name a column of ids, or write them as integers or strings"
    if column.dtype.is_float():
        refuse_rows(column, column.floor() != column, key, rows, "; ids are not fractions", remedy)
        return _exact(column, key, rows).cast(pl.Int64)
    if column.dtype.is_integer():
        return column if column.dtype in (pl.UInt64, pl.Int128, pl.UInt128) else column.cast(pl.Int64)
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    raise _wrong_type(column, key, "integers or strings", remedy)


def index_ids(ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Index ids in sorted order. Return the u32 index of each id, and the distinct ids."""
    if ids.dtype == pl.Int64 and len(ids) and (span := int(ids.max() - ids.min()) + 1) <= max(len(ids), MAX_SPAN):  # type: ignore
        least = ids.min()
        exists = np.zeros(span, bool)  # a lookup table is faster than hashing
        place = (ids - least).to_numpy()
        exists[place] = True
        index = exists.cumsum(dtype=np.uint32) - np.uint32(1)
        return pl.Series(ids.name, index[place]), pl.Series(ids.name, np.flatnonzero(exists)) + least
    distinct = ids.unique().sort()
    number = pl.int_range(len(distinct), dtype=pl.UInt32, eager=True)
    return ids.replace_strict(distinct, number, return_dtype=pl.UInt32).cast(pl.UInt32), distinct  # cast: for no ids


def read_timestamps(
    column: pl.Series, unit: TimeUnit, rows: SourceRows, time_format: str | None = None
) -> tuple[pl.Series, int]:
    """Read timestamps as integers, at the file's own resolution.

    `unit` applies to numbers and text. `time_format`, if given, parses text instead. Dates and datetimes need neither.

    Returns:
        i64 units since 1970, and the number of units per second.

    Raises:
        InputError: a timestamp is missing, cannot be read, or lies before 1970 or after the year 9999.
    """
    key, per_second = "data.log.timestamp", PER_SECOND[unit]
    _require_present(column, key, rows)
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ms":  # Polars panics beyond its calendar
        column = column.to_physical().clip(-1, (LAST_SECOND + 1) * PER_SECOND["ms"]).cast(column.dtype)
    written = column.cast(pl.String) if column.dtype.is_temporal() else column  # Python has no year above 9999
    if column.dtype.is_temporal() or time_format is not None or unit == "datetime":
        time, per_second = _read_datetimes(column, rows, time_format), PER_SECOND["us"]
    else:
        if column.dtype == pl.String:
            whole = column.cast(pl.Int64, strict=False)
            column = whole if not whole.null_count() else column.cast(pl.Float64, strict=False)
        if column.dtype.is_float():  # seconds with fractions
            column = (_exact(column, key, rows) * (PER_SECOND["us"] // per_second)).round()
            per_second = PER_SECOND["us"]
        elif not column.dtype.is_integer():
            remedy = "name the column of the event's time"
            raise _wrong_type(column, "data.log.time_unit", f"numbers (time_unit: {unit})", remedy)
        time = column.cast(pl.Int64, strict=False)
        remedy = f"give numbers ({unit} since 1970); for dates set data.log.time_unit to datetime"
        refuse_rows(written, time.is_null(), key, rows, ", which is not a timestamp", remedy)
    remedy = f"correct the timestamps, or set data.log.time_unit (now {unit}: 10 digits are s, 13 ms, 16 us; divide "
    remedy += "nanoseconds, of 19, by 1,000). How text is read: data.log.time_format (%y: years of two digits)"
    outside = (time < 0) | (time > LAST_SECOND * per_second)
    refuse_rows(written, outside, key, rows, ", which is before 1970 or after the year 9999", remedy)
    return time.alias(column.name), per_second


def _read_datetimes(column: pl.Series, rows: SourceRows, time_format: str | None) -> pl.Series:
    """Microseconds since 1970 of datetimes, or of text in ``time_format``; None: ISO 8601."""
    if not column.dtype.is_temporal() and (time_format is not None or column.dtype == pl.String):
        key = "data.log.timestamp" if time_format is None else "data.log.time_format"
        try:
            read = _parse_datetimes(column.cast(pl.String), time_format)
        except pl.exceptions.PolarsError:  # not a valid format
            read = pl.repeat(None, len(column), dtype=pl.Datetime("us"), eager=True)
        why = ", which is not " + ("a timestamp" if time_format is None else f"written as {time_format!r}")
        remedy = "give ISO 8601 (2026-11-24T15:00:00+01:00), or say how times are written in data.log.time_format "
        remedy += "(--time_format of recalign init), such as '%d/%m/%Y %H:%M' (day first) or '%m/%d/%Y %H:%M' "
        refuse_rows(column, read.is_null(), key, rows, why, remedy + "(month first); %y is a year of two digits")
        column = read
    if not isinstance(column.dtype, (pl.Datetime, pl.Date)):
        raise _wrong_type(column, "data.log.time_unit", "datetimes", "set it to s, ms or us: numbers since 1970")
    return column.cast(pl.Datetime("us")).to_physical()


def _parse_datetimes(text: pl.Series, time_format: str | None) -> pl.Series:
    """Parse text as datetimes in UTC, by a format or, if None, as ISO 8601; null where that fails."""
    if time_format is not None:
        return text.str.to_datetime(time_format, time_unit="us", time_zone="UTC", strict=False)
    text = text.str.replace(r" ?UTC$", "Z")
    text = text.set(~text.str.contains(r"^\d{4}-\d{2}-\d{2}").fill_null(False), None)
    has_offset = text.str.contains(r"\d:\d{2}.*(Z|[+-]\d{2}:?\d{2})$").fill_null(False)
    parts = text.set(~has_offset, None), text.set(has_offset, None)  # Polars infers one format from the first value
    with_offset, without = (part.str.to_datetime(time_unit="us", time_zone="UTC", strict=False) for part in parts)
    return with_offset.zip_with(has_offset, without)


def refuse_rows(column: pl.Series, bad: pl.Series, key: str, rows: SourceRows, why: str, remedy: str) -> None:
    """If any value is bad, raise an InputError with the first bad value and the rows of all bad ones."""
    if bad.any():
        what = f"the column {column.name} holds {column.filter(bad)[0]!r} in {rows.describe(bad)}{why}"
        raise InputError(what, where=key, remedy=remedy)


def _require_present(column: pl.Series, key: str, rows: SourceRows) -> None:
    if column.null_count():
        what = f"the column {column.name} is empty, null or NaN in {rows.describe(column.is_null())}"
        remedy = f"""fill in the values, or leave the rows out: data.log.where: '"{column.name}" is not null'"""
        raise InputError(what, where=key, remedy=remedy)


def _exact(column: pl.Series, key: str, rows: SourceRows) -> pl.Series:
    """Return floats unchanged; refuse those too large to represent integers exactly."""
    why = f", which {column.dtype} cannot hold exactly"
    bad = column.abs() >= EXACT[column.dtype.base_type()]
    refuse_rows(column, bad, key, rows, why, "write the column as integers or 64-bit floats")
    return column


def _wrong_type(column: pl.Series, key: str, wanted: str, remedy: str) -> InputError:
    return InputError(f"the column {column.name} holds {column.dtype}, not {wanted}", where=key, remedy=remedy)
