"""Walk the tree of a Polars expression: refuse what is not row-wise, compute in 64 bits, handle names like patterns."""

import json
from typing import Any, TypeVar

import polars as pl

from recalign.errors import InputError

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

ROW_WISE = frozenset(
    {
        *("Abs", "Atan2", "Bitwise", "Ceil", "Coalesce", "Exp", "FillNull", "Floor", "ListExpr", "Log", "Log1p"),
        *("MaxHorizontal", "MinHorizontal", "Pow", "Sign", "Sql", "StringExpr", "StructExpr", "TemporalExpr"),
        *("Trigonometry", "Truncate", "IsNotNull", "IsNull", "Not"),
    }
)
"""Row-wise functions, by the names in Polars's expression tree. Others are refused: aggregates, ranks, windows."""

CHILDREN = {
    "BinaryExpr": ("left", "right"),
    "Ternary": ("predicate", "truthy", "falsy"),
    "Cast": ("expr",),
    "Function": ("input",),
}
"""Fields that hold the children of a node, by kind of node."""

NARROW = frozenset({pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32})


def row_wise(parsed: pl.Expr, expression: str, key: str) -> pl.Expr:
    """Check that an expression is row-wise: a row's value depends on no other row.

    Args:
        parsed: the expression.
        expression: its SQL, for errors.
        key: the setting that holds it, for errors.

    Returns:
        The expression over the column names of `without_patterns`.

    Raises:
        InputError: it reads other rows.
    """
    tree = _check_node(json.loads(parsed.meta.serialize(format="json")), expression, key)
    return pl.Expr.deserialize(json.dumps(tree).encode(), format="json")


def in_64_bits(parsed: pl.Expr, frame: pl.DataFrame) -> pl.Expr:
    """Compute integers as Int64, and decimals as Float64.

    In the eight bits of a column of grades ``stars - 3`` wraps around to 254, and quotients of decimals lose digits.

    Args:
        parsed: as `row_wise` returns it; its columns are the frame's.
        frame: that it is computed on. A column of UInt64 that Int64 cannot hold becomes Int128.
    """
    tree = _widened(json.loads(parsed.meta.serialize(format="json")), frame)
    return pl.Expr.deserialize(json.dumps(tree).encode(), format="json")


def _widened(node: Any, frame: pl.DataFrame) -> Any:
    if isinstance(node, list):
        return [_widened(part, frame) for part in node]
    kind, content = next(iter(node.items()))
    if kind == "Literal":
        return node
    if kind in CHILDREN:
        node = {kind: content | {part: _widened(content[part], frame) for part in CHILDREN[kind]}}
    try:
        own = pl.Expr.deserialize(json.dumps(node).encode(), format="json")
        dtype = frame.lazy().select(own).collect_schema().dtypes()[0]
    except pl.exceptions.PolarsError:
        return node  # it cannot be computed, which running it will say
    if dtype.is_decimal():
        return _cast(node, "Float64")
    if kind == "Column" and dtype == pl.UInt64:
        return _cast(node, "Int64" if (frame[content].max() or 0) < 2**63 else "Int128")
    return _cast(node, "Int64") if dtype in NARROW else node


def _cast(node: Any, dtype: str) -> dict[str, Any]:
    return {"Cast": {"expr": node, "dtype": {"Literal": dtype}, "options": "Strict"}}


def without_patterns(frame: Frame) -> Frame:
    """Rename columns named ``*`` or ``^...$``, which Polars would take for patterns."""
    return frame.rename({name: plain_name(name) for name in frame.collect_schema().names() if _is_pattern(name)})


def _is_pattern(name: str) -> bool:
    return name == "*" or (name.startswith("^") and name.endswith("$"))


def plain_name(name: str) -> str:
    """The name that `without_patterns` gives to a column."""
    return f"column {name}" if _is_pattern(name) else name


def _check_node(node: Any, expression: str, key: str) -> Any:
    """Check a node and its children. Patterns become columns."""
    if isinstance(node, list):
        return [_check_node(part, expression, key) for part in node]
    kind, content = next(iter(node.items())) if isinstance(node, dict) else (node, {})
    if kind == "Literal":
        return _float(content) or node
    if kind == "Column":
        return node
    if kind == "Selector":  # a quoted "*" or "^...$" in SQL
        return {"Column": plain_name("*" if content == "Wildcard" else str(content.get("Matches")))}
    if kind not in CHILDREN or (kind == "Function" and _function_name(content["function"]) not in ROW_WISE):
        text = f"{expression!r} reads other rows than its own, so it would carry the future into training"
        remedy = "compute the value from its own columns, without averages, ranks or windows"
        raise InputError(text, where=key, remedy=remedy)
    parts = {part: _check_node(content[part], expression, key) for part in CHILDREN[kind]}
    return {kind: content | parts}


def _float(literal: Any) -> dict[str, Any] | None:
    """A literal such as ``0.5`` as a float; None for others. SQL's are decimals, whose quotients lose digits."""
    scalar = literal.get("Scalar")
    if not isinstance(scalar, dict) or "Decimal" not in scalar:
        return None
    mantissa, _, scale = scalar["Decimal"]
    return {"Literal": {"Dyn": {"Float": float(f"{mantissa}e-{scale}")}}}


def _function_name(function: Any) -> str:
    """The name of a function; for kind Boolean, of the condition."""
    name, options = next(iter(function.items())) if isinstance(function, dict) else (function, None)
    return str(options) if name == "Boolean" else str(name)
