"""Evaluate Polars SQL over the columns of a log, one value per row, with strict null handling.

In Polars SQL ``least`` and ``greatest`` skip nulls and NaN: in ``least(play / duration, 1.0)`` a missing play time
would become the best possible reward. Here a value is null if any of its inputs is null. Use ``coalesce`` to replace
nulls explicitly.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from recalign.data.events.messages import SourceRows, did_you_mean
from recalign.data.events.tree import in_64_bits, row_wise, without_patterns
from recalign.errors import InputError


@dataclass(frozen=True)
class Columns:
    """A table whose columns an expression reads, as errors call it.

    Attributes:
        name: of the table.
        example: an expression over its columns.
        or_else: what else can be done about a row than to leave its field empty; ``{}`` is its column.
    """

    name: str
    example: str
    or_else: str = ""


LOG = Columns("the log", "least(seconds / 60, 1.0)", """, or leave the rows out: data.log.where: '"{}" is not null'""")
ITEM_TABLE = Columns("the item table", "lower(brand)")


def evaluate(
    frame: pl.DataFrame, expression: str, key: str, rows: SourceRows | None = None, of: Columns = LOG
) -> pl.Series:
    """Compute an expression on every row.

    A value is null if a column that the expression reads is null, or if an argument of ``least`` or ``greatest`` is
    null (``nullif`` makes such nulls). ``coalesce(a, b, ...)`` is exempt: it returns its first argument that is not
    null. The rule applies within each argument.

    Args:
        frame: the rows.
        expression: Polars SQL over the frame's columns.
        key: the setting that holds the expression, for errors: ``data.reward``.
        rows: where the rows come from; None: numbered by the column ``row`` if there is one, else from 1.
        of: what the columns are of, for errors.

    Raises:
        InputError: the expression does not parse, reads an unknown column or other rows (``avg``, windows), cannot be
            computed, reads a NaN, or gives a value that is NaN, infinite or outside the range of float32.
    """
    if rows is None:
        rows = SourceRows(frame["row"] if "row" in frame.columns else pl.int_range(1, frame.height + 1, eager=True))
    frame = without_patterns(frame)
    parsed = _parse(frame, expression, key, of)
    for name in set(parsed.meta.root_names()):
        if frame.schema[name].is_float() and frame[name].is_nan().any():
            text = f"{expression!r} reads the column {name}, which is NaN in {rows.describe(frame[name].is_nan())}"
            remedy = f"leave the field empty (null) where a value is missing{of.or_else.format(name)}"
            raise InputError(text, where=key, remedy=remedy)
    values = _run(frame, _null_safe(parsed, key), expression, key, rows)
    finite = values.cast(pl.Float32).is_finite() if values.dtype.is_float() else values.is_not_null()
    if values.dtype.is_float() and not finite.all():
        bad = ~finite.fill_null(True)
        text = f"{expression!r} gives {values.filter(bad)[0]} in {rows.describe(bad)}"
        remedy = "guard divisions, as in a / nullif(b, 0), which gives null; bound large values, as in least(a, 9)"
        raise InputError(text, where=key, remedy=remedy)
    return values


def refuse_names(expression: str, names: Collection[str], key: str, reads: Collection[str] | None = None) -> None:
    """Refuse an expression that reads columns which prepared events have of their own, in place of the log's.

    ``reads`` names the columns of what is no SQL, such as a column's name alone.

    Raises:
        InputError: it reads one of the names, such as ``item``, which is a number of recalign's there.
    """
    if taken := (root_names(expression) if reads is None else {*reads}) & {*names}:
        text = f"{expression!r} reads {', '.join(sorted(taken))}, which is not the log's column of that name here"
        remedy = "rename that column in data.log.columns, as in {shown: timestamp}, and use the new name"
        raise InputError(text, where=key, remedy=remedy)


def root_names(expression: str) -> set[str]:
    """The columns that an expression reads; none of one that does not parse."""
    try:
        return set(pl.sql_expr(expression).meta.root_names())
    except pl.exceptions.PolarsError:
        return set()


def column_of(expression: str) -> str | None:
    """The column that an expression is; None: it computes something, or does not parse."""
    with suppress(pl.exceptions.PolarsError):
        parsed = pl.sql_expr(expression).meta.undo_aliases()
        return parsed.meta.root_names()[0] if parsed.meta.is_column() else None
    return None


def condition(frame: pl.DataFrame, expression: str, key: str, rows: SourceRows) -> pl.Series:
    """Whether each row of a table as `read` returns it meets a condition.

    NaN counts as null, and null as false, as in SQL's WHERE. Polars would put NaN above every number.
    """
    parsed = _parse(frame, expression, key)
    floats = [name for name in {*parsed.meta.root_names()} if frame.schema[name].is_float()]
    frame = frame.with_columns(pl.col(floats).fill_nan(None))
    return truth(_run(frame, parsed, expression, key, rows), expression, key)


def truth(values: pl.Series, expression: str, key: str) -> pl.Series:
    """Convert the values of a condition to bools. Null counts as false.

    Raises:
        InputError: a value is not true, false, 1 or 0.
    """
    if values.dtype != pl.Boolean and not (values.dtype.is_integer() and values.drop_nulls().is_in([0, 1]).all()):
        remedy = f"compare it with something: {expression} >= 4, say"
        raise InputError(f"{expression!r} is of type {values.dtype}, not a condition", where=key, remedy=remedy)
    return values.cast(pl.Boolean).fill_null(False)


def _parse(frame: pl.DataFrame, expression: str, key: str, of: Columns = LOG) -> pl.Expr:
    """Parse an expression. Check that it is row-wise and that the frame has its columns; widen whole numbers."""
    try:
        parsed = row_wise(pl.sql_expr(expression).meta.undo_aliases(), expression, key)
    except pl.exceptions.PolarsError as error:
        remedy = f"write one expression over {of.name}'s columns, such as {of.example}"
        raise InputError(f"{expression!r} is not a Polars SQL expression: {error}", where=key, remedy=remedy) from error
    for name in parsed.meta.root_names():
        if name not in frame.columns:
            text = f"{expression!r} reads a column {name!r} that {of.name} does not have"
            remedy = did_you_mean(name, frame.columns) + " Write text in 'single quotes'."
            raise InputError(text, where=key, remedy=remedy)
    return in_64_bits(parsed, frame)


def _run(frame: pl.DataFrame, parsed: pl.Expr, expression: str, key: str, rows: SourceRows) -> pl.Series:
    """Compute a parsed expression."""
    try:
        return frame.with_columns(parsed.alias("value"))["value"]
    except pl.exceptions.PolarsError as error:
        read = dict.fromkeys(parsed.meta.root_names())
        types = "".join(f"; {name} holds {kind_of(frame[name], rows)}" for name in read)
        text = f"{expression!r} cannot be computed: {str(error).splitlines()[0]}{types}"
        remedy = "compare like with like; TRY_CAST(x AS DOUBLE) turns text into numbers or null"
        raise InputError(text, where=key, remedy=remedy) from error


def _null_safe(expr: pl.Expr, key: str) -> pl.Expr:
    """Apply the null rule of `evaluate` to an expression."""
    if _is(expr, pl.coalesce):
        return pl.coalesce([_null_safe(part, key) for part in _parts(expr)])
    needed = _needed(expr, key)
    return pl.when(pl.all_horizontal([part.is_not_null() for part in needed])).then(expr) if needed else expr


def _needed(expr: pl.Expr, key: str) -> list[pl.Expr]:
    """Subexpressions that must not be null."""
    parts = _parts(expr)
    if _is(expr, pl.coalesce):
        if any(map(_skips_nulls, parts)):
            text = "least or greatest inside a coalesce that is itself part of an expression would skip nulls"
            remedy = "coalesce the columns: least(coalesce(a, 0), b); or make coalesce the outermost call"
            raise InputError(text, where=key, remedy=remedy)
        return []
    if not parts:
        return [expr] if expr.meta.root_names() else []
    needed = [deeper for part in parts for deeper in _needed(part, key)]
    return needed + parts if _is(expr, pl.min_horizontal, pl.max_horizontal) else needed


def _skips_nulls(expr: pl.Expr) -> bool:
    return _is(expr, pl.min_horizontal, pl.max_horizontal) or any(map(_skips_nulls, _parts(expr)))


def _parts(expr: pl.Expr) -> list[pl.Expr]:
    """Arguments of the outermost operation, in order."""
    return expr.meta.pop()[::-1]


def _is(expr: pl.Expr, *functions: Callable[..., pl.Expr]) -> bool:
    """Whether the outermost operation is one of the functions."""
    parts = _parts(expr)
    return bool(parts) and any(expr.meta.eq(function(*parts)) for function in functions)


def kind_of(column: pl.Series, rows: SourceRows) -> str:
    """Describe the type of a column; for text, quote the first value that is not a number."""
    if column.dtype != pl.String:
        return str(column.dtype)
    text = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
    if not text.any():
        return "numbers written as text"
    return f"text, such as {column.filter(text)[0]!r} in {rows.describe(text)}"
