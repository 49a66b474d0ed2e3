"""Evaluate Polars SQL over the columns of a table, one value per row, with strict null handling.

In Polars SQL ``least`` and ``greatest`` skip nulls and NaN: in ``least(play / duration, 1.0)`` a missing play time
would become the best possible reward.
"""

from collections.abc import Callable, Collection
from contextlib import suppress

import polars as pl
import polars.selectors as cs

from recalign.data.events.messages import SourceRows, did_you_mean
from recalign.errors import InputError

RULES: list[Callable[[pl.Expr, pl.DataFrame, str, str, SourceRows, bool], pl.Expr]] = []
"""Transformations of a parsed expression: `recalign.data.events.row_wise` refuses other rows, and guards nulls."""
AS_NUMBER = "text becomes a number or null by TRY_CAST(x AS DOUBLE), 3,50 by TRY_CAST(REPLACE(x, ',', '.') AS DOUBLE)"
"""Part of the remedies for text."""


def evaluate(
    frame: pl.DataFrame, expression: str, key: str, rows: SourceRows | None = None, *, null_safe: bool = True
) -> pl.Series:
    """Compute an expression on every row.

    A value is null if a column that the expression reads is null, or an argument of ``least`` or ``greatest`` is.
    ``coalesce`` is exempt: it gives its first argument that is not null by the same rule.

    ``key`` is the setting that holds the expression, for errors. ``rows``: where the rows come from; None: numbered by
    the column ``row`` if there is one, else from 1. Without ``null_safe``, nulls are handled as in SQL.

    Raises:
        InputError: the expression does not parse, reads an unknown column or other rows (``avg``, windows), cannot be
            computed, overflows 64-bit integers, reads a NaN, or gives a value that is NaN, infinite or beyond float32.
    """
    if rows is None:
        rows = SourceRows(frame["row"] if "row" in frame.columns else pl.int_range(1, frame.height + 1, eager=True))
    parsed = _parse(frame, expression, key, rows, null_safe)
    for name in set(parsed.meta.root_names()):
        if frame.schema[name].is_float() and (nan := frame[name].is_nan().fill_null(False)).any():
            what = f"{expression!r} reads the column {name}, which is NaN in {rows.describe(nan)}"
            remedy = f"""leave the field empty (null), or leave the rows out: data.log.where: '"{name}" is not null'"""
            raise InputError(what, where=key, remedy=remedy)
    try:
        values = frame.with_columns(parsed.alias("value"))["value"]
    except pl.exceptions.PolarsError as error:
        types = (f"; {name} holds {kind_of(frame[name], rows)}" for name in dict.fromkeys(parsed.meta.root_names()))
        what = f"{expression!r} cannot be computed: {str(error).splitlines()[0]}{''.join(types)}"
        raise InputError(what, where=key, remedy=f"compare like with like; {AS_NUMBER}") from error
    if values.dtype.is_float() and (bad := ~values.cast(pl.Float32).is_finite().fill_null(True)).any():
        what = f"{expression!r} gives {values.filter(bad)[0]} in {rows.describe(bad)}"
        remedy = "guard divisions, as in a / nullif(b, 0), which gives null; bound large values, as in least(a, 9)"
        raise InputError(what, where=key, remedy=remedy)
    return values


def condition(frame: pl.DataFrame, expression: str, key: str, rows: SourceRows) -> pl.Series:
    """Whether each row of a table meets a condition.

    NaN counts as null, and null as false, as in SQL's WHERE. Polars would put NaN above every number.
    """
    values = evaluate(frame.with_columns(cs.float().fill_nan(None)), expression, key, rows, null_safe=False)
    return as_bool(values, expression, key)


def as_bool(values: pl.Series, expression: str, key: str) -> pl.Series:
    """Convert the values of a condition to bools. Null counts as false.

    Raises:
        InputError: a value is not true, false, 1 or 0.
    """
    if values.dtype != pl.Boolean and not (values.dtype.is_numeric() and ((values == 0) | (values == 1)).all()):
        remedy = f"compare it with something: {expression} >= 4, say"
        raise InputError(f"{expression!r} is of type {values.dtype}, not a condition", where=key, remedy=remedy)
    return values.cast(pl.Boolean).fill_null(False)


def refuse_names(expression: str, names: Collection[str], key: str) -> None:
    """Refuse an expression, or column, that reads a name which recalign gives to its own columns in prepared events.

    Raises:
        InputError: it reads one of the names, such as ``item``, which is an index there.
    """
    reads = {expression}
    with suppress(pl.exceptions.PolarsError):  # not an expression: evaluating it raises the error
        reads |= {*pl.sql_expr(expression).meta.root_names()}
    if taken := reads & {*names}:
        what = f"{expression!r} reads {', '.join(sorted(taken))}, which recalign reserves for its own columns"
        remedy = "rename that column in data.log.columns, as in {shown: timestamp}, and use the new name"
        raise InputError(what, where=key, remedy=remedy)


def kind_of(column: pl.Series, rows: SourceRows) -> str:
    """Describe the type of a column; for text, quote the first value that is not a number."""
    if column.dtype != pl.String:
        return str(column.dtype)
    text = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
    return f"text, such as {column.filter(text)[0]!r} in {rows.describe(text)}" if text.any() else "numbers as text"


def _parse(frame: pl.DataFrame, expression: str, key: str, rows: SourceRows, null_safe: bool) -> pl.Expr:
    try:
        parsed = pl.sql_expr(expression).meta.undo_aliases()
        for rule in RULES:
            parsed = rule(parsed, frame, expression, key, rows, null_safe)
    except (pl.exceptions.PolarsError, RecursionError) as error:
        remedy = "write one expression over the table's columns, such as least(seconds / 60, 1.0) or item in (1, 2)"
        raise InputError(f"{expression!r} is not a Polars SQL expression: {error}", where=key, remedy=remedy) from error
    for name in parsed.meta.root_names():
        if name not in frame.columns:
            what = f"{expression!r} reads a column {name!r} that the table does not have"
            remedy = did_you_mean(name, frame.columns) + " Write text in 'single quotes'."
            raise InputError(what, where=key, remedy=remedy)
    return parsed
