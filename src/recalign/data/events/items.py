"""The item table of a log: titles to show, and features to learn from."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from recalign.data.events.audit import Section
from recalign.data.events.feature_values import KEY, coded, feature_values, names_items, typed
from recalign.data.events.fields import EXACT, missing_as_null
from recalign.data.events.files import file_digest, is_text, locate
from recalign.data.events.log import Feature, FeatureKind, ItemTable, LogMapping
from recalign.data.events.messages import SourceRows
from recalign.data.events.reading import no_column, read, whole_numbers
from recalign.data.events.tree import plain_name
from recalign.errors import InputError
from recalign.files import digest

SECOND_ID = "categories, so many that they are a second item id"
UNUSABLE = "rows without an id, or with one that is not of the log's type"


@dataclass(frozen=True)
class ItemValues:
    """What is known of items beforehand.

    Attributes:
        ids: raw ids of the rows, of the log's type, each once.
        kinds: of the features, by name in order.
        values: a row an item, a column a feature: ``category``: lists of text; ``number``: float64; ``vector``: lists
            of float32 of one length. Null where an item has no value.
        specified: the features' settings, by name.
        unusable: rows of the table whose id is missing, or not of the log's type.
    """

    ids: pl.Series
    kinds: dict[str, FeatureKind]
    values: pl.DataFrame
    specified: dict[str, Feature]
    unusable: int = 0

    def known(self) -> pl.Series:
        """Whether a row has a value at all. Shape: bool (rows,)."""
        return self.values.select(pl.any_horizontal(pl.all().is_not_null())).to_series()

    def of(self, ids: pl.Series) -> pl.DataFrame:
        """The values of some items, null for those that have no row."""
        rows = self.ids.alias("id").to_frame().with_row_index("row")
        row = ids.alias("id").to_frame().join(rows, on="id", how="left", maintain_order="left")["row"]
        return self.values.select(pl.all().gather(row))


def titles_digest(log: LogMapping, root: Path | None) -> str | None:
    """Digest of the item table and of what its columns mean; None where the log has none."""
    source = locate(log, root)[1]
    return digest(asdict(log.items) | {"file": file_digest(source)}) if log.items and source else None


def read_titles(log: LogMapping, root: Path | None, items: pl.Series) -> tuple[pl.Series, Section]:
    """Look up the titles of items by raw id. Without a column of titles the title is the id.

    Returns:
        Titles aligned with `items`, the id where there is none; and counts for ``recalign check``.

    Raises:
        InputError: the item table is missing or damaged, lacks a column, or has a title of none of the items.
    """
    ids = items.cast(pl.String).alias("title")
    if log.items is None or log.items.title is None or (source := locate(log, root)[1]) is None:
        return ids, {}
    frame, raw, key = _read(source, log.items, items)
    named = pl.DataFrame({"id": key, "title": _column(source, frame, log.items.title, "title").cast(pl.String)})
    first = named.drop_nulls("id").unique("id", keep="first")
    found = items.replace_strict(first["id"], first["title"].replace("", None), default=None, return_dtype=pl.String)
    if found.null_count() == len(items):
        raise _none_of(source, raw, items, "a title")
    return found.fill_null(ids), {
        "items with a title": len(items) - found.null_count(),
        "items without one, shown by their id": found.null_count(),
        "rows that repeat an id (the first title is used)": named["id"].count() - len(first),
        UNUSABLE: named["id"].null_count(),
    }


def read_features(log: LogMapping, root: Path | None, items: pl.Series) -> ItemValues | None:
    """Read and check the features of a log's items; None where the log has none.

    Args:
        log: its ``items`` say which.
        root: the data root.
        items: raw ids of the log's items.

    Raises:
        InputError: the item table cannot be used: an id twice, no row for any item, or a feature that cannot be
            computed, is missing everywhere, or whose values do not fit together.
    """
    if log.items is None or not log.items.features or (source := locate(log, root)[1]) is None:
        return None
    return table_values(source, log.items, items, items)


def table_titles(source: str, table: ItemTable, ids: pl.Series) -> pl.Series:
    """The titles of some items of a table; the id as text where there is none."""
    frame, _, key = _read(source, table, ids)
    text = ids.cast(pl.String)
    if table.title is None or plain_name(table.title) not in frame.columns:
        return text
    title = frame[plain_name(table.title)].cast(pl.String).replace("", None)
    first = pl.DataFrame({"id": key, "title": title}).drop_nulls("id").unique("id", keep="first")
    return ids.replace_strict(first["id"], first["title"], default=None, return_dtype=pl.String).fill_null(text)


def table_columns(
    source: str, table: ItemTable, ids: pl.Series, types: Mapping[str, pl.DataType]
) -> dict[str, pl.Series]:
    """Columns of a table for some items, by name, each of its type in ``types``; null where an item has no row.

    Raises:
        InputError: the table lacks one, or its values cannot be of the type.
    """
    frame, _, key = _read(source, table, ids)
    text = [name for name, dtype in types.items() if dtype == pl.String]
    frame = read(source, (table.id, *text)) if text and is_text(source) else frame  # so that 001 stays 001
    rows = key.alias("id").to_frame().with_row_index("row").drop_nulls("id").unique("id", keep="first")
    row = ids.alias("id").to_frame().join(rows, on="id", how="left", maintain_order="left")["row"]
    found = {}
    for name, dtype in types.items():
        if name not in frame.columns:
            remedy = "add it, as the log's item table has it: requests boost by it"
            raise InputError(f"there is no column {name!r}, which the bundle has", where=source, remedy=remedy)
        if (column := _cast(frame[name], dtype)) is None:
            what = f"the column {name!r} holds {frame[name].dtype}, which cannot all be {dtype} as in the bundle"
            raise InputError(what, where=source, remedy="write it as the log's item table does")
        found[name] = column.gather(row)
    return found


def _cast(raw: pl.Series, dtype: pl.DataType) -> pl.Series | None:
    """In another type; None if its values would not come back from there."""
    raw = typed(raw, dtype)
    with suppress(pl.exceptions.PolarsError):
        made = raw.cast(dtype)
        return made if made.cast(raw.dtype).equals(raw) else None
    return None


def table_values(source: str, table: ItemTable, known: pl.Series, items: pl.Series | None = None) -> ItemValues:
    """`read_features` of one file, for a log with ids such as ``known``.

    Without ``items`` its rows may be of any items, but each is of one, and a feature may have no value.
    """
    frame, raw_ids, key = _read(source, table, known)
    usable = key.is_not_null()
    repeated = usable & key.is_duplicated()
    rows = SourceRows(
        pl.int_range(1, frame.height + 1, dtype=pl.UInt32, eager=True),
        {source: frame.height},
        frozenset([source] if is_text(source) else []),
    )
    if repeated.any():
        text = f"ids such as {key.filter(repeated)[0]} are in several rows: {rows.describe(repeated)}"
        remedy = "leave one row an item: nobody can tell which features are the item's"
        raise InputError(text, where=f"{KEY}.file", remedy=remedy)
    if items is None and not (len(usable) and usable.all()):
        unlike = f"no item id of the log's type, {known.dtype}, in {rows.describe(~usable)}"
        remedy = f"give each item a row with its id in the column {table.id}, of the log's type"
        raise InputError(unlike if len(usable) else "holds no items", where=source, remedy=remedy)
    if items is not None and not key.is_in(items.implode()).any():
        raise _none_of(source, raw_ids, items, "features")
    specified, kinds, columns = table.specified, {}, []
    as_written = coded(table) if is_text(source) else {}
    written = read(source, list(as_written.values())) if as_written else frame
    for name, feature in specified.items():
        kinds[name], column = feature_values(written if name in as_written else frame, name, feature, rows)
        if items is not None and column.null_count() == len(column):
            what, where = f"{feature.value!r} has no value in any row of {source}", f"{KEY}.features.{name}"
            raise InputError(what, where=where, remedy="name a column that has values, or leave the feature out")
        columns.append(column)
    return ItemValues(key.filter(usable), kinds, pl.DataFrame(columns).filter(usable), specified, int((~usable).sum()))


def feature_figures(features: ItemValues | None, items: pl.Series) -> Section:
    """For ``recalign check``: how many of the log's items have features, of how many values."""
    if features is None:
        return {}
    own = features.of(items)
    rows = int(features.ids.is_in(items.implode()).sum())
    found: Section = {
        "items with a row": rows,
        "items without one": len(items) - rows,
        "rows of further items": len(features.ids) - rows,
        UNUSABLE: features.unusable,
    }
    for name, kind in features.kinds.items():
        known = own[name].drop_nulls()
        found[f"{name}: share of items that have it"] = len(known) / len(items)
        if kind == "category":
            said = SECOND_ID if names_items(known) else "categories"
            found[f"{name}: {said}"] = known.explode().n_unique()
        elif kind == "number":
            found[f"{name}: different values"] = known.n_unique()
        else:
            found[f"{name}: numbers of a vector"] = int(known.list.len().max() or 0)  # type: ignore[arg-type]
    return found


def _read(source: str, table: ItemTable, known: pl.Series) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """The table, its ids, and these in the type of the log's, null where a value is none."""
    frame = read(source, (table.id,))
    raw = missing_as_null(_column(source, frame, table.id, "id"))
    return frame, whole_numbers(raw) if raw.dtype == pl.String else raw, log_ids(raw, known)


def _column(source: str, frame: pl.DataFrame, name: str, key: str) -> pl.Series:
    if (column := plain_name(name)) not in frame.columns:
        error = no_column(f"{KEY}.{key}", column, source, frame.columns)
        if key == "title":
            error.remedy = f"{error.remedy} Or give null: items are shown by their ids"
        raise error
    return frame[column]


def _none_of(source: str, raw: pl.Series, items: pl.Series, what: str) -> InputError:
    return InputError(
        f"{source} has {what} of none of the {len(items):,} items; its ids are like {raw.head(3).to_list()}, those of "
        f"the log like {items.head(3).to_list()}",
        where=KEY,
        remedy=f"name the column of the log's item ids in {KEY}.id, or set {KEY} to null",
    )


def log_ids(raw: pl.Series, known: pl.Series) -> pl.Series:
    """Ids of a table in the type of a log's, ``known``, as `fields.read_ids` reads those; null where a value is none.

    Text that is one of the log's ids is that id. Else ``7.0`` is 7; ``007`` and 7.5 are not.
    """
    if raw.dtype == pl.String == known.dtype:
        numbers = whole_numbers(raw).cast(pl.String)
        own = pl.when(raw.is_in(known.implode())).then(raw).otherwise(numbers)
        return pl.select(own).to_series().alias(raw.name)
    dtype = known.dtype
    raw = whole_numbers(raw) if raw.dtype == pl.String else raw
    if raw.dtype.is_float():
        exact = (raw.floor() == raw) & (raw.abs() < EXACT[raw.dtype.base_type()])
        raw = pl.select(pl.when(exact).then(raw)).to_series().cast(pl.Int64)
    text = raw.cast(pl.String)
    ids = text.cast(dtype, strict=False)
    return pl.select(pl.when(ids.cast(pl.String) == text).then(ids)).to_series().alias(raw.name)
