"""Digest of what features read of an item table, so that a title's edit trains nothing anew."""

import hashlib

import polars as pl

from recalign.data.events.expression import root_names
from recalign.data.events.feature_values import coded
from recalign.data.events.files import Source
from recalign.data.events.log import ItemTable
from recalign.data.events.reading import read
from recalign.data.events.tree import plain_name
from recalign.files import digest


def features_digest(source: Source, table: ItemTable) -> str:
    """Digest of the ids of an item table and of the columns that its features read: nothing else changes a figure.

    Columns that cannot be told are left out; `table_values` refuses them.
    """
    frame = read(source, (table.id, *coded(table).values()))  # as `table_values` reads them
    named = {plain_name(table.id), *(name for one in table.specified.values() for name in root_names(one.value))}
    return digest(*(part for name in frame.columns if name in named for part in (name, *_content(frame[name]))))


def _content(column: pl.Series) -> list[str]:
    """Digests of a column's values, the same under every version of Polars."""
    known = column.is_not_null()
    parts = [str(column.dtype), hashlib.sha256(known.to_numpy().tobytes()).hexdigest()]
    if isinstance(column.dtype, pl.List | pl.Array):
        lists = column.drop_nulls().cast(pl.List(column.dtype.inner))
        return [*parts, *_content(lists.list.len()), *_content(lists.explode(empty_as_null=False))]
    if isinstance(column.dtype, pl.Struct):
        return [*parts, *(part for one in column.struct.unnest() for part in (one.name, *_content(one)))]
    if column.dtype == pl.Duration:
        column = column.to_physical()
    if column.dtype == pl.Binary:
        column = column.bin.encode("hex")
    if column.dtype.is_decimal() or column.dtype in (pl.Int128, pl.UInt128) or not column.dtype.is_numeric():
        return [*parts, digest(column.drop_nulls().cast(pl.String).to_list())]
    return [*parts, hashlib.sha256(column.drop_nulls().to_numpy().tobytes()).hexdigest()]
