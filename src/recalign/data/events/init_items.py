"""Describe a second table for `recalign init`: the log's items, their titles and what may be features."""

import os
import re
from pathlib import Path
from typing import Any

import polars as pl

from recalign.data.events import guess
from recalign.data.events.feature_values import feature_values, names_items
from recalign.data.events.log import Feature
from recalign.data.events.messages import SourceRows
from recalign.data.events.reading import find, no_file, read, whole_numbers
from recalign.errors import InputError, printable
from recalign.files import yaml_text

TITLES = ("title", "name")
SEPARATORS, SEPARATED = ("|", ";"), 0.1
"""What may stand between several categories in one text, and the share of texts that must have it."""
LIKELY, SURE = 0.5, 0.9
"""Shares of the most ids of the log that any column has: a column with the first may hold the ids; one with the second
and the log's name holds them."""


def describe_items(table: str, root: Path, items: pl.Series, name: str) -> list[str]:
    """Guess what the columns of an item table mean: commented lines of YAML, ``data.log.items``.

    Args:
        table: the file.
        root: the folder of the log's files.
        items: raw ids of the log's items.
        name: the log's column of the item.

    Raises:
        InputError: there is no such file, or no column has the log's ids.
    """
    path = Path(table)
    if not (found := find(path.parent, path.name)):
        raise no_file(table)
    frame = read(found[0], ())
    key = _id_column(frame, read(found[0], None), items, name, table)
    rest = [one for one in frame if one.name not in ("", key) and not one.dtype.is_temporal() and not _counts_rows(one)]
    titles = [one for one in rest if _last_word(one.name) in TITLES]
    title = max(titles, key=lambda one: (one.name.lower() in TITLES, one.n_unique())).name if titles else None
    features = [line for one in rest if one.name != title for line in _feature(one)]
    return [
        "    items: # the items: titles to show, features to learn from",
        f"      file: {yaml_scalar(os.path.relpath(path, root))} # under the same folder",
        f"      id: {yaml_scalar(key)} # the item's id, as in the log",
        f"      title: {yaml_scalar(title)} # null: items are shown by their ids",
        f"      features: {'' if features else '{} '}# delete those that say nothing of a new item",
        *features,
    ]


def _id_column(frame: pl.DataFrame, as_text: pl.DataFrame, items: pl.Series, name: str, table: str) -> str:
    """The column that holds the log's ids. ``as_text``: the columns as written, so that 007 stays 007.

    Raises:
        InputError: there is none, or nobody can tell which.
    """
    ids, shares, varied = items.cast(pl.String).implode(), {}, set()
    for column in frame:
        if column.dtype in (pl.String, pl.Categorical, pl.Enum) or column.dtype.is_integer():
            written = as_text[column.name]
            text = (whole_numbers(written) if written.dtype == pl.String else written).cast(pl.String)
            shares[column.name] = int(text.unique().is_in(ids).sum())
            varied |= {column.name} if 2 * column.n_unique() >= len(column) else set()
    most = max(shares.values(), default=0)
    likely = [one for one, share in shares.items() if share == most or (share >= LIKELY * most and one in varied)]
    if most and name in likely and shares[name] >= SURE * most:
        return name
    likely = [one for one in likely if _last_word(one) == "id"] or likely
    if not most or len(likely) > 1:
        which = f"{', '.join(map(repr, likely))} may all be" if most else f"{', '.join(frame.columns)} hold none of"
        what = f"the columns {which} the log's ids, which are like {items.head(3).to_list()}"
        raise InputError(what, where=table, remedy=f"call the right one {name}, as in the log, or leave the others out")
    return likely[0]


def _counts_rows(column: pl.Series) -> bool:
    """Whether a column counts the rows, from 0 or from 1."""
    numbers = column.cast(pl.Int64, strict=False) if column.dtype.is_integer() else column
    return any(numbers.equals(pl.int_range(first, first + len(column), eager=True)) for first in (0, 1))


def _last_word(column: str) -> str:
    """``id`` of itemId, item_id and "Item ID"."""
    return re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", column)[-1].lower()


def _feature(column: pl.Series) -> list[str]:
    """The line of a column as a feature, if its values differ and do not name the items one by one."""
    value, text = guess.quote(column.name), column if column.dtype == pl.String else pl.Series([""])
    often = (one for one in SEPARATORS if (text.str.contains(one, literal=True).mean() or 0) > SEPARATED)  # type: ignore[operator]
    separator = next(often, None)
    rows = SourceRows(pl.int_range(1, len(column) + 1, eager=True))
    try:
        kind, values = feature_values(column.to_frame(), column.name, Feature(value, separator=separator), rows)
    except InputError as error:
        return [f"        # left out: {printable(f'{column.name}: {error.what}'[:100])}".replace("\n", " ")]
    if (known := values.drop_nulls()).n_unique() < 2 or (kind == "category" and names_items(known)):
        return []
    given = {"value": value, "separator": separator} if separator else value
    return [f"        {yaml_scalar(column.name)}: {yaml_scalar(given)}"]


def yaml_scalar(value: Any) -> str:
    """Format a value as one line of YAML."""
    text = yaml_text(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
