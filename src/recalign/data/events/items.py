"""The item table of a log: titles to show, and features to learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from recalign.data.events.audit import Section
from recalign.data.events.expression import evaluate, kind_of
from recalign.data.events.fields import EXACT, missing_as_null, refuse_rows
from recalign.data.events.log import Feature, FeatureKind, ItemTable, LogMapping
from recalign.data.events.messages import SourceRows
from recalign.data.events.reading import locate, no_column, read, whole_numbers
from recalign.data.events.sources import Source
from recalign.errors import InputError
from recalign.files import digest

KEY = "data.log.items"
UNUSABLE = "rows without an id, or with one that is not of the log's type"
EMPTY = {"category": pl.String(), "number": pl.Float64(), "vector": pl.List(pl.Float32)}
"""The type of a column without values, by the kind of the feature that reads it."""
KEPT = 64 * 2**20
"""Largest size in bytes of an item table that is cached, until another one is read."""
_LAST: dict[tuple[Source, str, tuple[str, ...]], pl.DataFrame] = {}
"""The cached item table, by its file, the file's identity, and the columns read as text."""


@dataclass(frozen=True)
class ItemValues:
    """Feature values of items, from the item table.

    Attributes:
        ids: raw ids of the rows, of the log's type, each once.
        kinds: the kind of each feature, by name in order.
        values: one row per item, one column per feature. ``category``: lists of text; ``number``: float64;
            ``vector``: lists of float32 of one length. Null where an item has no value.
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
        return _rows_of(self.values, self.ids, ids)


def titles_digest(log: LogMapping, root: Path | None) -> str | None:
    """Digest of the item table and its settings; None if the log has none."""
    file = locate(log, root)[1]
    return digest(asdict(log.items) | {"file": file.identity()}) if log.items and file else None


def read_titles(log: LogMapping, root: Path | None, items: pl.Series) -> tuple[pl.Series, Section]:
    """Look up the titles of items by raw id. Without a column of titles the title is the id.

    Returns:
        Titles aligned with `items`, the id where there is none; and counts for ``recalign check``.

    Raises:
        InputError: the item table is missing or damaged, lacks a column, or has a title for none of the items.
    """
    if log.items is None or log.items.title is None or (file := locate(log, root)[1]) is None:
        return items.cast(pl.String).alias("title"), {}
    frame, key = _read(file, log.items, items, _coded(log.items))
    if log.items.title not in frame.columns:
        raise no_column(f"{KEY}.title", log.items.title, file, frame.columns)
    titles, found = _titles(frame[log.items.title], key, items)
    if not found:
        raise _none_of(file, frame[log.items.id], items, "a title")
    return titles, {
        "items with a title": found,
        "items without one, shown by their id": len(items) - found,
        "rows that repeat an id (the first title is used)": key.count() - key.drop_nulls().n_unique(),
        UNUSABLE: key.null_count(),
    }


def read_features(log: LogMapping, root: Path | None, items: pl.Series) -> ItemValues | None:
    """Read and check the features of a log's items, whose raw ids are ``items``; None if it has none.

    Raises:
        InputError: the item table cannot be used: an id twice, no row for any item, or a feature that cannot be
            computed, is missing everywhere, or whose values do not fit together.
    """
    if log.items is None or not log.items.features or (file := locate(log, root)[1]) is None:
        return None
    return table_values(file, log.items, items, items)


def features_of(table: ItemTable) -> dict[str, Feature]:
    """The features of an item table, by name in order."""
    return {name: Feature(x) if isinstance(x, str) else x for name, x in sorted(table.features.items())}


def table_rows(file: Source, table: ItemTable, ids: pl.Series, types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Titles of the items ``ids``, and the columns ``types`` of an item table, cast to these types.

    Where an item has no row, columns are null, and the title is the id as text.

    Raises:
        InputError: the table lacks a column, or its values cannot be cast.
    """
    frame, key = _read(file, table, ids, [name for name, dtype in types.items() if dtype == pl.String])
    titles = _titles(frame[table.title], key, ids)[0] if table.title in frame.columns else ids.cast(pl.String)
    columns = []
    for name, dtype in types.items():
        if name not in frame.columns:
            remedy = "add it as in the log's item table: requests can boost by it"
            raise InputError(f"there is no column {name!r}, which the bundle has", where=file.name, remedy=remedy)
        column = frame[name] if frame[name].count() else pl.Series(name, [None] * frame.height, dtype=dtype)
        try:
            columns.append(column.cast(dtype))
        except pl.exceptions.PolarsError as error:
            what = f"the column {name!r} holds {column.dtype}, which cannot all be {dtype} as in the bundle"
            raise InputError(what, where=file.name, remedy="write it as the log's item table does") from error
    rows = _rows_of(pl.DataFrame(columns, schema=list(types)), key, ids)
    return pl.DataFrame([titles.alias("title"), *rows])  # without columns, rows have no height


def table_values(file: Source, table: ItemTable, known: pl.Series, items: pl.Series | None = None) -> ItemValues:
    """`read_features` of one file. ``known``: ids of the log, for their type.

    Without ``items``, rows may be of any items, but each needs a valid id; a feature may be null everywhere.
    """
    features = features_of(table)
    frame, key = _read(file, table, known, _coded(table))
    usable, repeated = key.is_not_null(), key.is_not_null() & key.is_duplicated()
    headed = [file.name] if file.kind == "text" else []
    rows = SourceRows(pl.int_range(1, frame.height + 1, dtype=pl.UInt32, eager=True), {file.name: frame.height}, headed)
    if repeated.any():
        what = f"ids such as {key.filter(repeated)[0]} are in several rows: {rows.describe(repeated)}"
        remedy = "leave one row per item: else it is unclear which features are the item's"
        raise InputError(what, where=f"{KEY}.file", remedy=remedy)
    if items is None and not (len(usable) and usable.all()):
        what = f"there is no item id of the log's type, {known.dtype}, in {rows.describe(~usable)}"
        remedy = f"give each item a row with its id in the column {table.id}, of the log's type"
        raise InputError(what if len(usable) else "it has no rows", where=file.name, remedy=remedy)
    if items is not None and not key.is_in(items.implode()).any():
        raise _none_of(file, frame[table.id], items, "features")
    kinds, columns = {}, []
    for name, feature in features.items():
        kinds[name], column = feature_values(frame, name, feature, rows)
        if items is not None and column.null_count() == len(column):
            what, where = f"{feature.value!r} has no value in any row of {file.name}", f"{KEY}.features.{name}"
            raise InputError(what, where=where, remedy="name a column that has values, or leave the feature out")
        columns.append(column)
    return ItemValues(key.filter(usable), kinds, pl.DataFrame(columns).filter(usable), features, int((~usable).sum()))


def feature_figures(features: ItemValues | None, items: pl.Series) -> Section:
    """For ``recalign check``: how many of the log's items have features, and how many distinct values."""
    if features is None:
        return {}
    rows, own = int(features.ids.is_in(items.implode()).sum()), features.of(items)
    found: Section = {
        "items with a row": rows,
        "items without one": len(items) - rows,
        "rows of items that the log does not have": len(features.ids) - rows,
        UNUSABLE: features.unusable,
    }
    for name, kind in features.kinds.items():
        known = own[name].drop_nulls()
        found[f"{name}: share of items that have it"] = len(known) / len(items)
        found[f"{name}: different values"] = (known.explode() if kind == "category" else known).n_unique()
    return found


def log_ids(raw: pl.Series, known: pl.Series) -> pl.Series:
    """Cast a table's ids to the type of the log's ids, ``known``, as `fields.read_ids` reads them; null if impossible.

    Text that equals one of the log's ids is that id. Else ``7.0`` becomes 7; ``007`` and 7.5 do not.
    """
    numbers = whole_numbers(raw) if raw.dtype == pl.String else raw
    if numbers.dtype.is_float():
        exact = (numbers.floor() == numbers) & (numbers.abs() < EXACT[numbers.dtype.base_type()])
        numbers = numbers.set(~exact, None).cast(pl.Int64)
    text = numbers.cast(pl.String)
    if raw.dtype == pl.String == known.dtype:
        return raw.zip_with(raw.is_in(known.implode()), text)
    ids = text.cast(known.dtype, strict=False)
    return ids.set(ids.cast(pl.String) != text, None)


def _read(file: Source, table: ItemTable, known: pl.Series, text: Sequence[str] = ()) -> tuple[pl.DataFrame, pl.Series]:
    """The table, and its ids as `log_ids` casts them. ``text``: columns read as text."""
    asked = file, file.identity(), (table.id, *text)
    frame = read(file, asked[2]) if asked not in _LAST else _LAST[asked]
    _LAST.clear()
    if frame.estimated_size() <= KEPT:
        _LAST[asked] = frame
    if table.id not in frame.columns:
        raise no_column(f"{KEY}.id", table.id, file, frame.columns)
    return frame, log_ids(missing_as_null(frame[table.id]), known)


def _coded(table: ItemTable) -> list[str]:
    """Columns of categories: they are read as text, so that codes such as 001 stay 001."""
    features = features_of(table).values()
    return [one.value.strip('"') for one in features if one.kind == "category" or one.separator]


def _rows_of(values: pl.DataFrame, key: pl.Series, ids: pl.Series) -> pl.DataFrame:
    """The rows of some ids, null for those that have none. ``key``: the id of each row of the values."""
    rows = key.alias("id").to_frame().with_row_index("row").drop_nulls("id").unique("id", keep="first")
    row = ids.alias("id").to_frame().join(rows, on="id", how="left", maintain_order="left")["row"]
    return values.select(pl.all().gather(row))


def _titles(titles: pl.Series, key: pl.Series, ids: pl.Series) -> tuple[pl.Series, int]:
    found = _rows_of(titles.cast(pl.String).replace("", None).alias("title").to_frame(), key, ids)["title"]
    return found.fill_null(ids.cast(pl.String)), found.count()


def _none_of(file: Source, raw: pl.Series, items: pl.Series, what: str) -> InputError:
    ids = (whole_numbers(raw) if raw.dtype == pl.String else raw).head(3).to_list()
    text = f"{file.name} has {what} for none of the {len(items):,} items; its ids are like {ids}, the log's like "
    remedy = f"name the column of the log's item ids in {KEY}.id, or set {KEY} to null"
    return InputError(f"{text}{items.head(3).to_list()}", where=KEY, remedy=remedy)


def feature_values(frame: pl.DataFrame, name: str, feature: Feature, rows: SourceRows) -> tuple[FeatureKind, pl.Series]:
    """The kind of a feature, and its values as in `ItemValues.values`: one for each row of an item table.

    Raises:
        InputError: it cannot be computed, or its values are not of its kind.
    """
    where = f"{KEY}.features.{name}"
    raw = evaluate(frame, feature.value, where, rows).alias(name)
    listed = isinstance(raw.dtype, pl.List | pl.Array)
    inner = raw.dtype.inner if listed else raw.dtype  # type: ignore[attr-defined]
    measured = inner.is_float() if listed else inner.is_numeric()
    by_type = ("vector" if listed else "number") if measured else "category"
    kind: FeatureKind = feature.kind or by_type  # type: ignore[assignment]
    if raw.null_count() == len(raw):  # nulls have no type of their own
        raw = pl.Series(name, [None] * len(raw), dtype=EMPTY[kind])
    return kind, {"category": _categories, "number": _numbers, "vector": _vectors}[kind](raw, feature, where, rows)


def _categories(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    """Lists of distinct non-empty text; null if nothing is left. 36.0 becomes 36, and True true, whatever the type."""
    listed = isinstance(raw.dtype, pl.List | pl.Array)
    inner = raw.dtype.inner if listed else raw.dtype  # type: ignore[attr-defined]
    if inner.is_nested() or inner in (pl.Binary, pl.Duration) or (listed and inner.is_float()):
        what = f"{feature.value!r} gives {'lists of ' * listed}{inner}, but categories are text, integers or booleans"
        remedy = "give one flat list per item, name a part of a struct (a.b), or set the kind of vectors to vector"
        raise InputError(what, where=where, remedy=remedy)
    if listed:
        lists = raw.cast(pl.List(pl.String))
    else:
        text = raw.cast(pl.String).str.strip_chars()
        bracketed = text.str.contains(r"(?s)^\[.*\]$").fill_null(False)
        remedy = 'write the categories with a separator, "Action|Drama", or give a list column in Parquet'
        refuse_rows(text, bracketed, where, rows, ", which is a list written as text", remedy)
        lists = text.str.split(feature.separator) if feature.separator else text.reshape((-1, 1)).arr.to_list()
    one = pl.element().str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "$1")
    one = pl.when(one.str.contains(r"(?i)^(true|false)$")).then(one.str.to_lowercase()).otherwise(one)
    filled = lists.list.eval(one).list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))
    filled = filled.list.unique(maintain_order=True)
    return pl.select(pl.when(filled.list.len() > 0).then(filled)).to_series().alias(raw.name)


def _numbers(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    if not (raw.dtype.is_numeric() or raw.dtype == pl.Boolean):
        remedy = "correct the values; or, in a log's YAML, set the kind to category, or write TRY_CAST(... AS DOUBLE)"
        raise InputError(f"{feature.value!r} gives {kind_of(raw, rows)}, not numbers", where=where, remedy=remedy)
    return raw.cast(pl.Float64)


def _vectors(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    inner = raw.dtype.inner if isinstance(raw.dtype, pl.List | pl.Array) else None
    if inner is None or not (inner.is_numeric() or inner == pl.Null):
        what = f"{feature.value!r} gives {raw.dtype}, not lists of numbers"
        raise InputError(what, where=where, remedy="give vectors as a list column of floats in Parquet")
    lists = raw.cast(pl.List(pl.Float32))
    lists = pl.select(pl.when(lists.list.len() > 0).then(lists)).to_series().alias(raw.name)
    usual = lists.list.len().drop_nulls().mode().min() or 0
    finite = lists.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    if (odd := ((lists.list.len() != usual) | ~finite).fill_null(False)).any():
        what = f"in {rows.describe(odd)}, vectors hold a NaN or empty number, or are not {usual!r} long as elsewhere"
        raise InputError(what, where=where, remedy="give every item a whole vector of the same length, or none (null)")
    return lists
