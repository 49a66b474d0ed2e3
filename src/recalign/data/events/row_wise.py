"""Restrict expressions to their own row: none reads other rows, integers do not overflow, and nulls stay nulls."""

import json
import re
from contextlib import suppress
from typing import Any

import polars as pl

from recalign.data.events.expression import RULES
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

ROW_WISE = frozenset(
    {
        *("Abs", "Atan2", "Bitwise", "Ceil", "Coalesce", "Exp", "FillNull", "Floor", "ListExpr", "Log", "Log1p"),
        *("MaxHorizontal", "MinHorizontal", "Mul", "Pow", "Sign", "Sql", "StringExpr", "StructExpr", "TemporalExpr"),
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

MOMENT = re.compile(r"\b(now\s*\(|(current_(date|time|timestamp)|localtime(stamp)?)\b)", re.IGNORECASE)
"""Functions of the current time. Polars evaluates them while parsing, so its tree does not show them."""

NARROW = frozenset({pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64})


def row_wise(
    parsed: pl.Expr, frame: pl.DataFrame, expression: str, key: str, rows: SourceRows, null_safe: bool
) -> pl.Expr:
    """The expression, computed in 64 bits and by the null rules of `recalign.data.events.evaluate`.

    Raises:
        InputError: it reads other rows, or the clock, or integers overflow.
    """
    if found := MOMENT.search(re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "''", expression)):
        what = f"{expression!r} reads the clock ({found[1]}), so the same log would give other events on another day"
        raise InputError(what, where=key, remedy="write a fixed time, as in TIMESTAMP '2026-01-31 00:00:00'")
    tree, needed = _row_wise(_node(parsed), frame, expression, key, rows, null_safe)
    return _expr(_guarded(tree, needed) if null_safe else tree)


RULES.append(row_wise)


def _row_wise(
    node: Any, frame: pl.DataFrame, expression: str, key: str, rows: SourceRows, null_safe: bool
) -> tuple[Any, list[dict[str, Any]]]:
    """Check that a node of Polars's expression tree depends on no other row; widen it and make it null-safe.

    Integers become Int64 and decimals Float64: in the eight bits of a column of grades ``stars - 3`` wraps around to
    254, and quotients of decimals lose digits.

    Returns:
        The node, and the nodes below it that must not be null by the rule of `evaluate`.

    Raises:
        InputError: it reads other rows, or a sum, product or power of integers does not fit in 64 bits.
    """
    if not isinstance(node, dict):
        node = {node: {}}
    kind, content = next(iter(node.items()))
    if kind == "Literal":
        scalar = content.get("Scalar")
        if isinstance(scalar, dict) and "Decimal" in scalar:  # 0.5 in SQL, whose quotients would lose digits
            mantissa, _, scale = scalar["Decimal"]
            node = {"Literal": {"Dyn": {"Float": float(f"{mantissa}e-{scale}")}}}
        return node, []
    function = content.get("function") if kind == "Function" else None
    if isinstance(function, dict):  # for Boolean functions, use the inner name
        function, options = next(iter(function.items()))
        function = str(options) if function == "Boolean" else "Mul" if options == {"Binary": "Mul"} else function
    if kind != "Column" and not (kind in CHILDREN and (function is None or function in ROW_WISE)):
        what = f"{expression!r} reads other rows than its own, so it could leak the future into training"
        remedy = "compute the value from the row's own columns, without averages, ranks or windows"
        raise InputError(what, where=key, remedy=remedy)
    needed = []
    for name in CHILDREN.get(kind, ()):
        many = isinstance(content[name], list)
        parts = content[name] if many else [content[name]]
        made = [_row_wise(part, frame, expression, key, rows, null_safe) for part in parts]
        parts = [_guarded(*one) if null_safe and function == "Coalesce" else one[0] for one in made]
        needed += [deeper for one in made for deeper in one[1] if function != "Coalesce"]
        needed += parts * (function in ("MinHorizontal", "MaxHorizontal"))
        content = content | {name: parts if many else parts[0]}
    node = {kind: content}
    with suppress(pl.exceptions.PolarsError):  # not computable: evaluating it raises the error
        dtype = frame.lazy().select(_expr(node)).collect_schema().dtypes()[0]
        wide = "Float64" if dtype.is_decimal() else "Int64" if dtype in NARROW else None
        if dtype == pl.Int64 and (kind == "BinaryExpr" or function in ("Mul", "Pow")):
            _refuse_overflow(kind, content, frame, expression, key, rows)
        if wide:
            node = _cast(node, wide)
    return node, [node] if kind == "Column" else needed


def _refuse_overflow(
    kind: str, content: dict[str, Any], frame: pl.DataFrame, expression: str, key: str, rows: SourceRows
) -> None:
    """Refuse arithmetic of integers that would wrap around: in floats, its result is beyond 64 bits."""
    for name in CHILDREN[kind]:
        part = content[name]
        content = content | {name: [_cast(one) for one in part] if isinstance(part, list) else _cast(part)}
    values = frame.with_columns(_expr({kind: content}).alias("value"))["value"]
    if (large := (values.abs() >= 2.0**63).fill_null(False)).any():
        found = f"{values.filter(large)[0]:.3g} in {rows.describe(large)}"
        what = f"{expression!r} computes {found}, beyond 64-bit integers"
        raise InputError(what, where=key, remedy="compute in floats, as in CAST(a AS DOUBLE) * b")


def _cast(node: Any, dtype: str = "Float64") -> dict[str, Any]:
    return {"Cast": {"expr": node, "dtype": {"Literal": dtype}, "options": "Strict"}}


def _guarded(node: Any, needed: list[dict[str, Any]]) -> Any:
    """A node that is null where any of the nodes ``needed`` is."""
    if not needed:
        return node
    return _node(pl.when(pl.all_horizontal(_expr(one).is_not_null() for one in needed)).then(_expr(node)))


def _expr(node: Any) -> pl.Expr:
    return pl.Expr.deserialize(json.dumps(node).encode(), format="json")


def _node(expr: pl.Expr) -> Any:
    return json.loads(expr.meta.serialize(format="json"))
