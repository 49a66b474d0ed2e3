"""The exposure columns: which items were shown at random, and how probably each was shown."""

import polars as pl

from recalign.errors import InputError
from recalign.events.messages import Rows

COLUMNS = ("is_random", "propensity")
"""Of the event table, where the log's mapping names them."""


def read_is_random(column: pl.Series, rows: Rows) -> pl.Series:
    """Whether each item was shown at random; what is not known to be (null) was not.

    Raises:
        InputError: a value is neither true or false nor 1 or 0.
    """
    odd = pl.Series([], dtype=pl.Boolean)
    if column.dtype.is_numeric():
        odd = ~((column == 0) | (column == 1)).fill_null(True)
    if odd.any() or not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        held = f"{column.filter(odd)[0]} in {rows.name(odd)}" if odd.any() else str(column.dtype)
        raise InputError(
            f"the column {column.name} holds {held}, and not only true and false (or 1 and 0)",
            where="data.log.is_random",
            remedy="name such a column, or make one in data.log.columns, such as drawn: arm = 'random'",
        )
    return column.cast(pl.Boolean).fill_null(False)


def read_propensity(column: pl.Series, rows: Rows) -> pl.Series:
    """The probability with which each item was shown: f64 above 0 and up to 1, null where it is not known.

    Raises:
        InputError: a value is no number, NaN, 0 or less, or above 1.
    """
    if not column.dtype.is_numeric() and column.dtype != pl.Null:
        raise InputError(
            f"the column {column.name} holds {column.dtype}, not probabilities",
            where="data.log.propensity",
            remedy="name a column of numbers above 0 and up to 1",
        )
    values = column.cast(pl.Float64)
    impossible = ~((values > 0) & (values <= 1) & values.is_finite()).fill_null(True)
    if impossible.any():
        raise InputError(
            f"the column {column.name} holds {values.filter(impossible)[0]:g} in {rows.name(impossible)}, which is no "
            "probability that something was shown with",
            where="data.log.propensity",
            remedy="give numbers above 0 and up to 1, and leave the field empty (null) where it is not known",
        )
    return values
