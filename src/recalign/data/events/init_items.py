"""Describe a second table for `recalign init`: the log's items, their titles and what may be features."""

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import polars as pl

from recalign.data.events import files, guess, reading
from recalign.data.events.feature_values import feature_values, names_items
from recalign.data.events.log import Feature, FeatureKind
from recalign.data.events.messages import SourceRows, did_you_mean
from recalign.data.events.reading import whole_numbers
from recalign.errors import InputError, printable
from recalign.keys import yaml_text

TITLES, IDS = ("title", "name"), ("id", "key", "sku", "asin", "isbn", "item", "product")
"""Words of a title's column, and of an id's."""
SEPARATORS = ("|", ";")
"""What may stand between several categories in one text,"""
OFTEN = 0.1
"""if so many of the texts have it."""
ENOUGH = 0.5
"""A column may hold the ids if it has this share of the most ids that any column has, and of different values."""
MOST_OF = 0.9
"""With this share of those ids, a column of the log's name holds them."""
LONG = 100
"""Letters of a reason, which may quote a value."""


def describe_items(table: str, root: Path, items: pl.Series, name: str) -> dict[str, Any]:
    """Guess what the columns of an item table mean: ``data.log.items``, and in ``left_out`` why others are no features.

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
    source = found[0]
    frame = reading.read(source, ())
    as_text = reading.read(source, frame.columns) if files.is_text(source) else frame  # 007 stays 007
    shares = _shares(frame, as_text, items)
    keys = _keys(frame, shares)
    enough = shares.get(name, 0) >= MOST_OF * max(shares.values(), default=0)
    named = [name] if name in keys and enough else [one for one in keys if _last_word(one) in IDS] or keys
    if not keys:
        what = f"no column has ids of the log, which are like {items.head(3).to_list()}: {', '.join(frame.columns)}"
        raise InputError(what, where=table, remedy="give the table of the log's own items")
    if len(named) > 1:
        what = f"the columns {', '.join(map(repr, named))} may all be the log's ids"
        raise InputError(what, where=table, remedy=f"call the right one {name}, as in the log, or leave the others out")
    key = named[0]
    numbers = [one.name for one in frame if one.dtype.is_integer() and _numbers_rows(one)]
    rest = [one for one in frame if one.name and one.name not in (key, *numbers)]
    titles = [one for one in rest if _last_word(one.name) in TITLES]
    title = max(titles, key=lambda one: (one.name.lower() in TITLES, one.n_unique())).name if titles else None
    features, left_out = _features([one for one in rest if one.name != title and not one.dtype.is_temporal()])
    file = os.path.relpath(path, root)
    return {"file": file, "id": key, "title": title, "features": features, "left_out": left_out}


def _shares(frame: pl.DataFrame, as_text: pl.DataFrame, items: pl.Series) -> dict[str, int]:
    """How many of the log's ids each column has that may hold ids, by name; ``as_text``: its columns as written."""
    ids = items.cast(pl.String).implode()
    written = (pl.String, pl.Categorical, pl.Enum)
    columns = [as_text[one.name] for one in frame if one.dtype in written or one.dtype.is_integer()]
    text = {one.name: (whole_numbers(one) if one.dtype == pl.String else one).cast(pl.String) for one in columns}
    return {column: int(one.unique().is_in(ids).sum()) for column, one in text.items()}


def _keys(frame: pl.DataFrame, shares: dict[str, int]) -> list[str]:
    """The columns that may hold the log's ids: that with most of them, and others with half as many that vary by row.

    The number of a row may look like an id, and then there are several.
    """
    most = max(shares.values(), default=0)
    varied = {one.name for one in frame if one.name in shares and one.n_unique() >= ENOUGH * len(one)}
    enough = {one for one in varied if shares[one] >= ENOUGH * most}
    return [one for one, share in shares.items() if share and (share == most or one in enough)]


def _numbers_rows(column: pl.Series) -> bool:
    """Whether a column counts the rows, from 0 or from 1."""
    numbers = column.cast(pl.Int64, strict=False)
    return any(numbers.equals(pl.int_range(first, first + len(column), eager=True)) for first in (0, 1))


def _last_word(column: str) -> str:
    """``id`` of itemId, item_id and "Item ID"."""
    return re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", column)[-1].lower()


def _features(columns: list[pl.Series]) -> tuple[dict[str, Any], list[str]]:
    """The columns that may be features, and why others that have values cannot be used."""
    features, left_out = {}, []
    for one in columns:
        given = _feature(one)
        feature = Feature(**given) if isinstance(given, dict) else Feature(given)
        rows = SourceRows(pl.int_range(1, len(one) + 1, eager=True))
        try:
            if _is_feature(*feature_values(one.to_frame(), one.name, feature, rows)):
                features[one.name] = given
        except InputError as error:
            left_out.append(textwrap.shorten(f"{one.name}: {error.what}", LONG, placeholder=" ..."))
    return features, left_out


def _is_feature(kind: FeatureKind, values: pl.Series) -> bool:
    """Whether values may say something of a new item: they differ, and do not name the items one by one."""
    known = values.drop_nulls()
    return known.n_unique() > 1 and not (kind == "category" and names_items(known))


def _feature(column: pl.Series) -> Any:
    """The column, with its separator where it has one."""
    value = guess.quote(column.name)
    if column.dtype == pl.String:
        for separator in SEPARATORS:
            if (column.str.contains(separator, literal=True).mean() or 0) > OFTEN:  # type: ignore[operator]
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
        *(f"        # left out: {printable(why)}" for why in items["left_out"]),
    ]


def yaml_scalar(value: Any) -> str:
    """Format a value as one line of YAML."""
    text = yaml_text(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
