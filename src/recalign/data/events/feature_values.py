"""Values of item features: categories, numbers and vectors, made of the columns of an item table."""

import polars as pl

from recalign.data.events.expression import ITEM_TABLE, column_of, evaluate
from recalign.data.events.fields import EXACT
from recalign.data.events.log import Feature, FeatureKind, ItemTable
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

KEY = "data.log.items"
SECOND, FEW = 0.5, 20
"""Share of the items without a category that another has too, above which a feature names items rather than describing
them; no more than a few categories describe them anyway."""


def feature_values(frame: pl.DataFrame, name: str, feature: Feature, rows: SourceRows) -> tuple[FeatureKind, pl.Series]:
    """The kind of a feature, and its values as in `ItemValues.values`: one for each row of an item table.

    Raises:
        InputError: it cannot be computed, or its values are not of its kind.
    """
    where = f"{KEY}.features.{name}"
    raw = evaluate(frame, feature.value, where, rows, ITEM_TABLE).alias(name)
    kind = feature.kind or _kind(raw)
    return kind, _MAKE[kind](raw, feature, where, rows)


def coded(table: ItemTable) -> dict[str, str]:
    """The columns that are read as they are written, so that 001 stays 001, by the features that they are."""
    categories = {name: one for name, one in table.specified.items() if one.kind == "category" or one.separator}
    return {name: column for name, one in categories.items() if (column := column_of(one.value)) is not None}


def names_items(categories: pl.Series) -> bool:
    """Whether categories, a list an item, are a second item id: most items have none that another has too."""
    every = categories.alias("one").to_frame().with_row_index("item").explode("one").drop_nulls()
    alone = every.with_columns(own=pl.col("one").is_unique()).group_by("item").agg(pl.col("own").all())["own"]
    return every["one"].n_unique() > FEW and alone.sum() > SECOND * len(alone)


def typed(raw: pl.Series, dtype: pl.DataType) -> pl.Series:
    """In a type of its own where no item has a value: no type can be told of nothing."""
    return pl.Series(raw.name, [None] * len(raw), dtype=dtype) if raw.null_count() == len(raw) else raw


def _kind(raw: pl.Series) -> FeatureKind:
    """The kind of a feature, by the type of its values."""
    if isinstance(raw.dtype, pl.List | pl.Array):
        return "vector" if raw.dtype.inner.is_float() else "category"
    return "number" if raw.dtype.is_numeric() else "category"


def _categories(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    """Lists of text without gaps; null where there is none."""
    listed = isinstance(raw.dtype, pl.List | pl.Array)
    inner = raw.dtype.inner if listed else raw.dtype  # type: ignore[attr-defined]
    if inner.is_nested() or inner in (pl.Binary, pl.Duration, pl.Object) or (listed and inner.is_float()):
        what = f"{feature.value!r} gives {'lists of ' * listed}{inner}, and categories are text, integers or booleans"
        remedy = "write one flat list an item, name a part of a struct (a.b), or set the kind of vectors to vector"
        raise InputError(what, where=where, remedy=remedy)
    if listed:
        lists = raw.cast(pl.List(pl.String))
    else:
        text = (_whole(raw) if raw.dtype.is_float() else raw.cast(pl.String)).str.strip_chars()
        if (broken := _listed(text).fill_null(False)).any():
            raise InputError(
                f"{feature.value!r} gives {text.filter(broken)[0]!r} in {rows.describe(broken)}, a list as text",
                where=where,
                remedy='write the categories with a separator, "Action|Drama", and name it in the feature\'s '
                "separator; or give a list column in Parquet",
            )
        lists = text.str.split(feature.separator) if feature.separator else text.reshape((-1, 1)).arr.to_list()
    stripped = lists.list.eval(_plain(pl.element().str.strip_chars()))
    filled = stripped.list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))
    filled = filled.list.unique(maintain_order=True)
    return pl.select(pl.when(filled.list.len() > 0).then(filled)).to_series().alias(raw.name)


def _listed(text: pl.Series) -> pl.Series:
    """Whether text is a list: in brackets, or with a comma and brackets that are not all closed, as if cut off.

    In parentheses without a comma it is one category, such as MovieLens's "(no genres listed)".
    """
    opened, closed = text.str.count_matches(r"[\[\{\(]"), text.str.count_matches(r"[\]\}\)]")
    begun = text.str.contains(r"(?s)^[\[\{\(].*,")
    whole = text.str.contains(r"(?s)^[\[\{].*[\]\}]$|^\(.*,.*\)$")
    return whole | (begun & (opened > closed))


def _whole(raw: pl.Series) -> pl.Series:
    """Fractions as text, whole ones as integers are written."""
    exact = (raw.floor() == raw) & (raw.abs() < EXACT[raw.dtype.base_type()])
    whole = pl.select(pl.when(exact).then(raw)).to_series().cast(pl.Int64).cast(pl.String)
    return whole.zip_with(exact.fill_null(False), raw.cast(pl.String))


def _plain(text: pl.Expr) -> pl.Expr:
    """A category in one form, whatever type its file gave the column: 36 for 36.0, true for True."""
    whole = text.str.replace(r"^(-?\d+)\.0+$", "$1")
    return pl.when(text.str.contains(r"(?i)^(true|false)$")).then(text.str.to_lowercase()).otherwise(whole)


def _numbers(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    raw = typed(raw, pl.Float64())
    if not (raw.dtype.is_numeric() or raw.dtype == pl.Boolean):
        what = f"{feature.value!r} gives {raw.dtype}, not numbers"
        if raw.dtype == pl.String and (text := raw.is_not_null() & raw.cast(pl.Float64, strict=False).is_null()).any():
            what += f": {raw.filter(text)[0]!r} in {rows.describe(text)}"
        remedy = "correct the values; or, in a log's YAML, set the kind to category, or write TRY_CAST(... AS DOUBLE)"
        raise InputError(what, where=where, remedy=remedy)
    return raw.cast(pl.Float64)


def _vectors(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    raw = typed(raw, pl.List(pl.Float32))
    inner = raw.dtype.inner if isinstance(raw.dtype, pl.List | pl.Array) else None
    if inner is None or not (inner.is_numeric() or inner == pl.Null):
        what = f"{feature.value!r} gives {raw.dtype}, not lists of numbers"
        raise InputError(what, where=where, remedy="give vectors as a list column of floats in Parquet")
    lists = raw.cast(pl.List(pl.Float32))
    lists = pl.select(pl.when(lists.list.len() > 0).then(lists)).to_series().alias(raw.name)
    width = lists.list.len()
    usual = width.drop_nulls().mode().min() or 0
    if (other := (width != usual).fill_null(False)).any():
        text = f"vectors of {width.filter(other)[0]!r} numbers in {rows.describe(other)}, and of {usual!r} elsewhere"
        raise InputError(text, where=where, remedy="give every item a vector of the same length, or none (null)")
    finite = lists.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    if (bad := ~finite.fill_null(True)).any():
        text = f"a NaN, infinite or empty number in the vectors of {rows.describe(bad)}"
        raise InputError(text, where=where, remedy="make them whole, or leave the whole vector empty (null)")
    return lists


_MAKE = {"category": _categories, "number": _numbers, "vector": _vectors}
