"""Describe a second table for `recalign init`: the log's items, their titles and what may be features."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from recalign.errors import InputError
from recalign.events import files, guess, reading
from recalign.events.items import FEW, SECOND
from recalign.events.joining import whole_numbers
from recalign.events.messages import did_you_mean

TITLES = ("title", "name")
"""Words of a title's column."""
SEPARATORS = ("|", ";")
"""What may stand between several categories in one text,"""
OFTEN = 0.1
"""if so many of the texts have it."""


def describe_items(table: str, root: Path, items: pl.Series, name: str) -> dict[str, Any]:
    """Guess what the columns of an item table mean: ``data.log.items``.

    Args:
        table: the file.
        root: the folder of the log's files.
        items: raw ids of the log's items.
        name: the log's column of the item.

    Raises:
        InputError: there is no such file, or no column has the log's ids.
    """
    path = Path(table)
    found = files.find(path.parent, path.name)
    if not found:
        remedy = did_you_mean(path.name, [one.name for one in path.parent.glob("*")])
        raise InputError("there is no such file", where=table, remedy=remedy)
    frame = reading.read(found[0], ())
    key = _key(frame, items, name)
    if key is None:
        what = f"no column has ids of the log, which are like {items.head(3).to_list()}: {', '.join(frame.columns)}"
        raise InputError(what, where=table, remedy="give the table of the log's own items")
    title = next((one for one in frame.columns if one != key and one.lower().split("_")[-1] in TITLES), None)
    features = {one.name: _feature(one) for one in frame if one.name not in (key, title) and _is_feature(one)}
    return {"file": os.path.relpath(path, root), "id": key, "title": title, "features": features}


def _key(frame: pl.DataFrame, items: pl.Series, name: str) -> str | None:
    """The column with most of the log's ids; of several the one that is called as in the log, then the first."""
    ids = items.cast(pl.String).implode()
    columns = [one for one in frame if not (one.dtype.is_nested() or one.dtype.is_float() or one.dtype.is_temporal())]
    text = {one.name: (whole_numbers(one) if one.dtype == pl.String else one).cast(pl.String) for one in columns}
    shares = {column: one.unique().is_in(ids).sum() for column, one in text.items()}
    best = max(shares, key=lambda column: (shares[column], column == name), default=None)
    return best if best is not None and shares[best] else None


def _is_feature(column: pl.Series) -> bool:
    """Whether a column may say something of a new item: it has values, and does not name the items one by one."""
    known = column.drop_nulls()
    if known.is_empty() or column.dtype.is_temporal():
        return False
    if column.dtype.is_nested() or column.dtype.is_float():
        return True
    return known.n_unique() > 1 and (column.dtype.is_integer() or known.n_unique() <= max(SECOND * len(known), FEW))


def _feature(column: pl.Series) -> Any:
    """The column, with its separator where it has one."""
    value = guess.quote(column.name)
    if column.dtype == pl.String:
        for separator in SEPARATORS:
            if column.drop_nulls().str.contains(separator, literal=True).mean() > OFTEN:  # type: ignore[operator]
                return {"value": value, "separator": separator}
    return value


def items_text(items: dict[str, Any]) -> list[str]:
    """Write a log's item table as commented lines of YAML."""
    features = items["features"].items()
    return [
        "    items: # the items: titles to show, features to learn from",
        f"      file: {yaml_scalar(items['file'])} # under the same folder",
        f"      id: {yaml_scalar(items['id'])} # the item's id, as in the log",
        f"      title: {yaml_scalar(items['title'])} # null: items are shown by their ids",
        f"      features: {'' if features else '{} '}# delete those that say nothing of a new item",
        *(f"        {yaml_scalar(name)}: {yaml_scalar(one)}" for name, one in features),
    ]


def yaml_scalar(value: Any) -> str:
    """Format a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
