"""Look up titles of a log's items. They are for display only; nothing is trained on them."""

from dataclasses import asdict
from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.events.audit import Section
from recalign.events.files import locate
from recalign.events.joining import whole_numbers
from recalign.events.log import Log
from recalign.events.reading import no_column, read
from recalign.events.tree import plain_name
from recalign.files import digest


def titles_digest(log: Log, root: Path | None) -> str | None:
    """Digest of the file of titles and of what its columns mean; None where the log has no titles."""
    source = locate(log, root)[1]
    return digest(asdict(log.titles) | {"file": source.digest()}) if log.titles and source else None


def read_titles(log: Log, root: Path | None, items: pl.Series) -> tuple[pl.Series, Section]:
    """Look up the titles of items by raw id. Without ``log.titles`` the title is the id.

    Returns:
        Titles aligned with `items`, the id where there is none; and counts for ``recalign check``.

    Raises:
        InputError: the file of titles is missing or damaged, lacks a column, or has a title of none of the items.
    """
    ids = items.cast(pl.String).alias("title")
    if log.titles is None or (source := locate(log, root)[1]) is None:
        return ids, {}
    frame = read(source, (log.titles.id,))
    id_, title = plain_name(log.titles.id), plain_name(log.titles.title)
    for key, column in (("id", id_), ("title", title)):
        if column not in frame.columns:
            raise no_column(f"data.log.titles.{key}", column, str(source), frame.columns)
    raw = frame[id_]
    raw = whole_numbers(raw) if raw.dtype == pl.String else raw
    text = (raw.cast(pl.Int64, strict=False) if raw.dtype.is_float() else raw).cast(pl.String)
    named = frame.select(id=text.cast(items.dtype, strict=False), title=pl.col(title).cast(pl.String))
    first = named.drop_nulls("id").unique("id", keep="first")
    found = items.replace_strict(first["id"], first["title"].replace("", None), default=None, return_dtype=pl.String)
    if found.null_count() == len(items):
        raise InputError(
            f"{source} has a title of none of the {len(items):,} items; its ids are like "
            f"{raw.head(3).to_list()}, those of the log like {items.head(3).to_list()}",
            where="data.log.titles",
            remedy="name the column of the log's item ids in data.log.titles.id, or set data.log.titles to null",
        )
    return found.fill_null(ids), {
        "items with a title": len(items) - found.null_count(),
        "items without one, shown by their id": found.null_count(),
        "rows that repeat an id (the first title is used)": named["id"].count() - len(first),
    }
