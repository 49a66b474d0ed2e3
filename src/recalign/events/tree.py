"""Walk the tree of a Polars expression: refuse what is not row-wise, and handle columns named like patterns."""

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
    if kind in ("Column", "Literal"):
        return node
    if kind == "Selector":  # a quoted "*" or "^...$" in SQL
        return {"Column": plain_name("*" if content == "Wildcard" else str(content.get("Matches")))}
    if kind not in CHILDREN or (kind == "Function" and _function_name(content["function"]) not in ROW_WISE):
        raise InputError(
            f"{expression!r} reads other rows than its own, so it would carry the future into training",
            where=key,
            remedy="compute the value from its own columns, without averages, ranks or windows",
        )
    parts = {part: _check_node(content[part], expression, key) for part in CHILDREN[kind]}
    return {kind: content | parts}


def _function_name(function: Any) -> str:
    """The name of a function; for kind Boolean, of the condition."""
    name, options = next(iter(function.items())) if isinstance(function, dict) else (function, None)
    return str(options) if name == "Boolean" else str(name)
