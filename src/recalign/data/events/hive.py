"""Hive partitions: columns in the paths of Parquet files, such as ``day=1/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import unquote

import polars as pl

from recalign.errors import InputError

WHOLE = re.compile(r"0|-?[1-9]\d*|__HIVE_DEFAULT_PARTITION__")
"""Whole numbers, and `NO_VALUE`."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The text for null in a path."""


def scan(
    place: str, above: Iterable[str], below: Iterable[str] | None, ids: Collection[str], **how: Any
) -> pl.LazyFrame:
    """Rows of Parquet, with the columns of its path. If the files have them too, their type counts.

    Args:
        place: a file or a folder of files.
        above: the path to it, from where partitions may begin.
        below: the paths of the folder's files; None: it is a file.
        ids: columns in which 007 and 1e3 in a path stay as they are.
        **how: further arguments of `polars.scan_parquet`.

    Raises:
        InputError: the values in the files are others than in the path.
    """
    scanned = pl.scan_parquet(place, hive_partitioning=below is not None, **how)
    outer, inner = partitions(above), partitions(below or ())
    if not (values := outer | inner):
        return scanned
    plain, guessed = pl.scan_parquet(place, hive_partitioning=False, **how), scanned.collect_schema()
    stored = plain.collect_schema()
    types: dict[str, Any] = {name: pl.String for name in ids if not all(map(WHOLE.fullmatch, values.get(name, ())))}
    types |= {name: stored[name] for name in values if name in stored}
    if inner.keys() & types.keys():
        schema = {name: types.get(name, guessed[name]) for name in guessed if name in inner or name not in stored}
        scanned = pl.scan_parquet(place, hive_schema=schema, **how)
    scanned = scanned.with_columns(_literal(name, value, types.get(name)) for name, (value, *_) in outer.items())
    for name in stored.keys() & values.keys():
        _require_equal(plain, scanned, name, place)
    return scanned


def partitions(paths: Iterable[str]) -> dict[str, list[str]]:
    """Values by name of the folders ``name=value`` in paths of files."""
    values: dict[str, list[str]] = {}
    for part in (part for path in paths for part in path.split("/")[:-1] if part.count("=") == 1):
        name, value = map(unquote, part.split("="))
        values.setdefault(name, []).append(value)
    return values


def _literal(name: str, value: str, dtype: Any) -> pl.Expr:
    """A value of a path as a column of the type; None: of the type that Polars guesses, as below a folder."""
    text, types = f"{name}\n{value}".encode(), {name: dtype} if dtype else {}
    how: Any = {"separator": "\1", "quote_char": None, "null_values": NO_VALUE, "try_parse_dates": True}
    read = pl.read_csv(text, schema_overrides=types, **how)[name]
    return pl.lit(read.first(), read.dtype).alias(name)


def _require_equal(plain: pl.LazyFrame, scanned: pl.LazyFrame, name: str, place: str) -> None:
    """Refuse a column whose values in the files (``plain``) are others than in the path (``scanned``)."""
    of_path = pl.col(name).alias(f"{name}=")
    both = pl.concat([plain.select(name), scanned.select(of_path)], how="horizontal")
    if unlike := both.filter(pl.col(name).ne_missing(pl.col(f"{name}="))).head(1).collect().rows():
        what = f"the column {name} is {unlike[0][0]!r} in a file, but {unlike[0][1]!r} in its path"
        raise InputError(what, where=place, remedy="rename the column or the folders, or correct them")
