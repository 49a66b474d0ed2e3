"""The three fields that make an event: who, what, when. Checked, and never by way of floats."""

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.events.log import TimeUnit
from recalign.events.messages import Rows

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "datetime": 1_000_000}
LAST_SECOND = 253_402_300_799
"""The end of the year 9999. Later moments are milliseconds read as seconds."""

EXACT = 2**53
"""From here on a float does not hold every whole number."""

SPAN = 2**20
"""Integers within so small a span are numbered by a table of it, however few they are."""


def read_ids(column: pl.Series, key: str, rows: Rows) -> pl.Series:
    """Ids as 64-bit integers or strings.

    Integers stay integers, strings stay strings, and floats that are all whole numbers below 2^53 (as pandas makes of
    integers where one was missing) are taken as integers.

    Raises:
        InputError: an id is missing, or is of a type that does not name things.
    """
    absent = column.is_null()
    if column.dtype.is_float():
        absent = absent | column.is_nan().fill_null(False)
    if column.dtype == pl.String:
        absent = absent | column.is_in(["", "nan", "NaN"]).fill_null(False)  # pandas writes str(nan) into text
    if absent.any():
        raise InputError(
            f"the column {column.name} is empty, null or NaN in {rows.name(absent)}",
            where=key,
            remedy=f'fill in the ids, or leave the rows out: data.log.where: "{column.name} is not null"',
        )
    if column.dtype.is_float():
        broken = (column.floor() != column) | (column.abs() >= EXACT)
        if broken.any():
            raise InputError(
                f"the column {column.name} holds {column.filter(broken)[0]} in {rows.name(broken)}; ids are not floats",
                where=key,
                remedy="write ids as integers or strings",
            )
        return column.cast(pl.Int64)
    if column.dtype.is_integer():
        return column if column.dtype in (pl.UInt64, pl.Int128, pl.UInt128) else column.cast(pl.Int64)
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    raise InputError(f"the column {column.name} holds {column.dtype}", where=key, remedy="ids are integers or strings")


def index_ids(ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Number ids in their own order.

    Returns:
        u32 index of each id, and the distinct ids by index.
    """
    if ids.dtype == pl.Int64 and (span := int(ids.max()) - int(ids.min()) + 1) <= max(len(ids), SPAN):  # type: ignore[arg-type]
        return _index_by_place(ids, span)
    distinct = ids.unique().sort()
    number = pl.int_range(len(distinct), dtype=pl.UInt32, eager=True)
    return ids.replace_strict(distinct, number, return_dtype=pl.UInt32), distinct


def _index_by_place(ids: pl.Series, span: int) -> tuple[pl.Series, pl.Series]:
    """`index_ids` of integers that lie close together: a table over all of their span is faster than hashing."""
    least = int(ids.min())  # type: ignore[arg-type]
    place = (ids - least).to_numpy()
    there = np.zeros(span, bool)
    there[place] = True
    index = there.cumsum(dtype=np.uint32) - np.uint32(1)
    return pl.Series(ids.name, index[place]), pl.Series(ids.name, np.flatnonzero(there) + least)


def read_moments(column: pl.Series, unit: TimeUnit, rows: Rows) -> tuple[pl.Series, int]:
    """Moments as integers, as fine as the file has them.

    Returns:
        i64 moments since 1970, and how many of their units make a second.

    Raises:
        InputError: a moment is missing, cannot be read, or lies before 1970 or after the year 9999.
    """
    if column.null_count():
        raise InputError(
            f"the column {column.name} is null in {rows.name(column.is_null())}",
            where="data.log.timestamp",
            remedy=f'fill in the moments, or leave the rows out: data.log.where: "{column.name} is not null"',
        )
    moments, per_second = _datetimes(column, rows) if unit == "datetime" else _numbers(column, unit, rows)
    impossible = (moments < 0) | (moments // per_second > LAST_SECOND)
    if impossible.any():
        raise InputError(
            f"the column {column.name} holds {column.filter(impossible)[0]} in {rows.name(impossible)}, "
            f"which is {'before 1970' if moments.filter(impossible)[0] < 0 else 'after the year 9999'}",
            where="data.log.timestamp",
            remedy=f"mend the moments, or set data.log.time_unit (now {unit}: 10 digits are s, 13 ms, 16 us)",
        )
    return moments, per_second


def _numbers(column: pl.Series, unit: TimeUnit, rows: Rows) -> tuple[pl.Series, int]:
    if column.dtype == pl.String:
        whole = column.cast(pl.Int64, strict=False)
        column = whole if not whole.null_count() else _parsed(column, column.cast(pl.Float64, strict=False), unit, rows)
    if column.dtype.is_integer():
        return _parsed(column, column.cast(pl.Int64, strict=False), unit, rows), PER_SECOND[unit]
    if column.dtype.is_float():  # of seconds, they carry fractions
        micro = (column * (PER_SECOND["us"] // PER_SECOND[unit])).round().cast(pl.Int64, strict=False)
        return _parsed(column, micro, unit, rows), PER_SECOND["us"]
    raise InputError(
        f"the column {column.name} holds {column.dtype}, not a number of {unit}",
        where="data.log.time_unit",
        remedy="set it to datetime" if column.dtype.is_temporal() else "name the column of the moment",
    )


def _datetimes(column: pl.Series, rows: Rows) -> tuple[pl.Series, int]:
    if column.dtype == pl.String:
        column = _parsed(column, _iso_8601(column), "datetime", rows)
    if not isinstance(column.dtype, (pl.Datetime, pl.Date)):
        raise InputError(
            f"the column {column.name} holds {column.dtype}, not datetimes",
            where="data.log.time_unit",
            remedy="set it to s, ms or us: numbers since 1970",
        )
    return column.cast(pl.Datetime("us")).to_physical(), PER_SECOND["datetime"]


def _iso_8601(column: pl.Series) -> pl.Series:
    """Text as datetimes in UTC, null where it is none; with and without an offset each by itself, since Polars takes
    the format of the first for that of all."""
    is_one = column.str.contains(r"^\d{4}-\d{2}-\d{2}").fill_null(False)
    has_offset = column.str.contains(r"\d:\d{2}.*(Z|[+-]\d{2}:?\d{2})$").fill_null(False)
    read = pl.Series(column.name, [None], pl.Datetime("us", "UTC")).new_from_index(0, len(column))
    for mask in (is_one & has_offset, is_one & ~has_offset):
        if mask.any():
            text = column.filter(mask)
            read = read.scatter(mask.arg_true(), text.str.to_datetime(time_unit="us", time_zone="UTC", strict=False))
    return read


def _parsed(column: pl.Series, values: pl.Series, unit: TimeUnit, rows: Rows) -> pl.Series:
    """The values read from a column, all of them."""
    unread = values.is_null()
    if unread.any():
        raise InputError(
            f"the column {column.name} holds {column.filter(unread)[0]!r} in {rows.name(unread)}, which is no moment",
            where="data.log.timestamp",
            remedy="give ISO 8601 (2026-11-24T15:00:00+01:00)" if unit == "datetime" else f"give a number of {unit}",
        )
    return values.alias(column.name)
