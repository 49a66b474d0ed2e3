"""The tree of a Polars expression: whether it reads its own row only, and columns that are named like patterns."""

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
"""Polars's functions of one row, as its SQL names them. All others are refused: aggregates, ranks, shifts, windows."""

PARTS = {
    "BinaryExpr": ("left", "right"),
    "Ternary": ("predicate", "truthy", "falsy"),
    "Cast": ("expr",),
    "Function": ("input",),
}
"""Kinds of node, and where they keep their parts."""


def row_wise(parsed: pl.Expr, expression: str, key: str) -> pl.Expr:
    """The expression, over the columns of `without_patterns`, if the value of a row depends on no other row.

    Args:
        parsed: the expression.
        expression: its SQL, for errors.
        key: the setting that holds it, for errors.

    Raises:
        InputError: it reads other rows.
    """
    tree = _checked(json.loads(parsed.meta.serialize(format="json")), expression, key)
    return pl.Expr.deserialize(json.dumps(tree).encode(), format="json")


def without_patterns(frame: Frame) -> Frame:
    """The frame with other names for columns named ``*`` or ``^...$``, which Polars would take for patterns."""
    return frame.rename({name: plain(name) for name in frame.collect_schema().names() if _is_pattern(name)})


def _is_pattern(name: str) -> bool:
    return name == "*" or (name.startswith("^") and name.endswith("$"))


def plain(name: str) -> str:
    """The name under which `without_patterns` keeps a column."""
    return f"column {name}" if _is_pattern(name) else name


def _checked(node: Any, expression: str, key: str) -> Any:
    """A node of the tree, with columns in place of patterns."""
    if isinstance(node, list):
        return [_checked(part, expression, key) for part in node]
    kind, content = next(iter(node.items())) if isinstance(node, dict) else (node, {})
    if kind in ("Column", "Literal"):
        return node
    if kind == "Selector":  # what SQL makes of a quoted "*" or "^...$"
        return {"Column": plain("*" if content == "Wildcard" else str(content.get("Matches")))}
    if kind not in PARTS or (kind == "Function" and _function(content["function"]) not in ROW_WISE):
        raise InputError(
            f"{expression!r} reads other rows than its own, so it would carry the future into training",
            where=key,
            remedy="write what a row is worth by its own columns, without averages, ranks or windows",
        )
    parts = {part: _checked(content[part], expression, key) for part in PARTS[kind]}
    return {kind: content | parts}


def _function(function: Any) -> str:
    """The name of a function; of a condition, which one it is."""
    name, options = next(iter(function.items())) if isinstance(function, dict) else (function, None)
    return str(options) if name == "Boolean" else str(name)
