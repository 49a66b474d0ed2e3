"""Read the fields of an event: user, item, time and exposure. Ids never pass through floats."""

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
    """Read ids as 64-bit integers or strings.

    Floats become integers if all are whole numbers (pandas stores integers as floats if one is missing) and small
    enough to be exact: below 2^53 in float64, below 2^24 in float32. `key` names the setting in errors.

    Raises:
        InputError: an id is missing, or the column's type cannot hold ids.
    """
    _require_present(column, key, rows)
    if column.dtype.is_float():
        remedy, inexact = "write ids as integers or strings", column.abs() >= EXACT[column.dtype.base_type()]
        _refuse(column, column.floor() != column, key, rows, "; ids are not fractions", remedy)
        _refuse(column, inexact, key, rows, f", and {column.dtype} holds no such id exactly", remedy)
        return column.cast(pl.Int64)
    if column.dtype.is_integer():
        return column if column.dtype in (pl.UInt64, pl.Int128, pl.UInt128) else column.cast(pl.Int64)
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    raise _wrong_type(column, key, "integers or strings", "name a column of ids, or write them as integers or strings")


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
    return ids.replace_strict(distinct, number, return_dtype=pl.UInt32).cast(pl.UInt32), distinct  # if there are none


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
    key = "data.log.timestamp"
    written = column.cast(pl.String) if column.dtype.is_temporal() else column  # Python has no year above 9999
    _require_present(column, key, rows)
    per_second = PER_SECOND[unit]
    if column.dtype.is_temporal() or time_format is not None or unit == "datetime":
        per_second = PER_SECOND["datetime"]
        time = _parse_datetimes(column, rows, time_format)
    else:
        if column.dtype == pl.String:
            whole = column.cast(pl.Int64, strict=False)
            column = whole if not whole.null_count() else column.cast(pl.Float64, strict=False)
        if column.dtype.is_float():  # seconds with fractions
            exact, remedy = EXACT[column.dtype.base_type()], "write times as integers or 64-bit floats"
            _refuse(
                column, column.abs() >= exact, key, rows, f", and {column.dtype} holds no such time exactly", remedy
            )
            per_second = PER_SECOND["us"]
            column = (column * (per_second // PER_SECOND[unit])).round()
        elif not column.dtype.is_integer():
            remedy = "name the column of the time of the event"
            raise _wrong_type(column, "data.log.time_unit", f"numbers of {unit}", remedy)
        time = column.cast(pl.Int64, strict=False)
        remedy = f"give a number of {unit}; for dates set data.log.time_unit to datetime"
        _refuse(written, time.is_null(), key, rows, ", which is not a timestamp", remedy)
    remedy = f"correct the timestamps, or set data.log.time_unit (now {unit}: 10 digits are s, 13 ms, 16 us)"
    remedy += "; nanoseconds (19) have to be divided by 1,000, which gives us. How text is read: data.log.time_format"
    late = time // per_second > LAST_SECOND
    for bad, why in ((time < 0, ", which is before 1970"), (late, ", which is after the year 9999")):
        _refuse(written, bad, key, rows, why, remedy)
    return time.alias(column.name), per_second


def _parse_datetimes(column: pl.Series, rows: SourceRows, time_format: str | None) -> pl.Series:
    """Microseconds since 1970 of datetimes, or of text in ISO 8601 or in a format of its own."""
    if time_format is not None and not column.dtype.is_temporal():
        key = "data.log.time_format"
        try:
            values = column.cast(pl.String).str.to_datetime(time_format, time_unit="us", strict=False)
        except pl.exceptions.PolarsError as error:
            what = f"{time_format!r} is not a time format: {str(error).splitlines()[0]}"
            raise InputError(what, where=key, remedy="write it as strftime does: %d/%m/%Y %H:%M:%S") from error
        why, remedy = f", which is not written as {time_format!r}", "correct the format or the file"
        _refuse(column, values.is_null(), key, rows, why, remedy)
        column = values
    elif column.dtype == pl.String:
        values = _parse_iso_8601(column)
        remedy = "give ISO 8601 (2026-11-24T15:00:00+01:00), or say how times are written in data.log.time_format "
        remedy += (
            "(--time-format of recalign init), such as '%d/%m/%Y %H:%M' (day first) or '%m/%d/%Y %H:%M' (month first)"
        )
        _refuse(column, values.is_null(), "data.log.timestamp", rows, ", which is not a timestamp", remedy)
        column = values
    if not isinstance(column.dtype, (pl.Datetime, pl.Date)):
        raise _wrong_type(column, "data.log.time_unit", "datetimes", "set it to s, ms or us: numbers since 1970")
    return column.cast(pl.Datetime("us")).to_physical()


def _parse_iso_8601(column: pl.Series) -> pl.Series:
    """Parse ISO 8601 text as datetimes in UTC; null where that fails.

    A trailing ``UTC`` counts as an offset. Polars applies the format of the first value to all, so values with and
    without an offset are parsed separately.
    """
    column = column.str.replace(r" ?UTC$", "Z")
    is_one = column.str.contains(r"^\d{4}-\d{2}-\d{2}").fill_null(False)
    has_offset = column.str.contains(r"\d:\d{2}.*(Z|[+-]\d{2}:?\d{2})$").fill_null(False)
    read = pl.Series(column.name, [None], pl.Datetime("us", "UTC")).new_from_index(0, len(column))
    for mask in (is_one & has_offset, is_one & ~has_offset):
        if mask.any():
            text = column.filter(mask)
            read = read.scatter(mask.arg_true(), text.str.to_datetime(time_unit="us", time_zone="UTC", strict=False))
    return read


def read_exposure(column: pl.Series, name: str, rows: SourceRows) -> pl.Series:
    """Read how items were shown: ``is_random`` (bool, null counts as false) or ``propensity`` (f64 in (0, 1], or null).

    Raises:
        InputError: a value is not true, false, 1 or 0; or not a probability above 0.
    """
    key, values = f"data.log.{name}", column.cast(pl.Float64, strict=False)
    if name == "is_random":
        fine, wanted, why = values.is_in([0.0, 1.0]), "true and false (or 1 and 0)", ", not only true and false"
        remedy = "name such a column, or make one in data.log.columns: drawn: arm = 'random'"
    else:
        fine, wanted, why = (values > 0) & (values <= 1), "probabilities", ", which is not a probability"
        remedy = "give numbers above 0 and up to 1, and null (an empty field) where unknown"
    if not (column.dtype.is_numeric() or column.dtype in (pl.Null, pl.Boolean)):
        raise _wrong_type(column, key, wanted, remedy)
    _refuse(column, ~fine.fill_null(True), key, rows, why, remedy)
    return values.cast(pl.Boolean).fill_null(False) if name == "is_random" else values


def _require_present(column: pl.Series, key: str, rows: SourceRows) -> None:
    if column.null_count():
        what = f"the column {column.name} is empty, null or NaN in {rows.describe(column.is_null())}"
        remedy = f"""fill in the values, or leave the rows out: data.log.where: '"{column.name}" is not null'"""
        raise InputError(what, where=key, remedy=remedy)


def _refuse(column: pl.Series, bad: pl.Series, key: str, rows: SourceRows, why: str, remedy: str) -> None:
    """If any value is bad, raise an InputError with the first bad value and the rows of all."""
    if bad.any():
        what = f"the column {column.name} holds {column.filter(bad)[0]!r} in {rows.describe(bad)}{why}"
        raise InputError(what, where=key, remedy=remedy)


def _wrong_type(column: pl.Series, key: str, wanted: str, remedy: str) -> InputError:
    return InputError(f"the column {column.name} holds {column.dtype}, not {wanted}", where=key, remedy=remedy)
