"""Values of item features: categories, numbers and vectors, made of the columns of an item table."""

import polars as pl

from recalign.data.events.expression import evaluate
from recalign.data.events.log import Feature, FeatureKind
from recalign.data.events.messages import SourceRows
from recalign.errors import InputError

KEY = "data.log.items"
SECOND_ID_SHARE, FEW_CATEGORIES = 0.5, 20
"""Share of the items without a category that another has too, above which a feature names items rather than describing
them; no more than a few categories describe them anyway."""


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
    if raw.null_count() == len(raw):  # no type can be told of nothing
        raw = pl.Series(name, [None] * len(raw), dtype=EMPTY[kind])
    return kind, _MAKE[kind](raw, feature, where, rows)


def names_items(categories: pl.Series) -> bool:
    """Whether categories, a list an item, are a second item id: most items have none that another has too."""
    every = categories.alias("one").to_frame().with_row_index("item").explode("one").drop_nulls()
    alone = every.with_columns(own=pl.col("one").is_unique()).group_by("item").agg(pl.col("own").all())["own"]
    return every["one"].n_unique() > FEW_CATEGORIES and alone.sum() > SECOND_ID_SHARE * len(alone)


def _categories(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    """Lists of text without gaps; null where there is none. 36.0 is 36, and True true, whatever type the file gave."""
    listed = isinstance(raw.dtype, pl.List | pl.Array)
    inner = raw.dtype.inner if listed else raw.dtype  # type: ignore[attr-defined]
    if inner.is_nested() or inner in (pl.Binary, pl.Duration) or (listed and inner.is_float()):
        what = f"{feature.value!r} gives {'lists of ' * listed}{inner}, and categories are text, integers or booleans"
        remedy = "write one flat list an item, name a part of a struct (a.b), or set the kind of vectors to vector"
        raise InputError(what, where=where, remedy=remedy)
    if listed:
        lists = raw.cast(pl.List(pl.String))
    else:
        text = raw.cast(pl.String).str.strip_chars()
        if (bracketed := text.str.contains(r"(?s)^\[.*\]$").fill_null(False)).any():
            what = (
                f"{feature.value!r} gives {text.filter(bracketed)[0]!r} in {rows.describe(bracketed)}, a list as text"
            )
            remedy = 'write the categories with a separator, "Action|Drama", or give a list column in Parquet'
            raise InputError(what, where=where, remedy=remedy)
        lists = text.str.split(feature.separator) if feature.separator else text.reshape((-1, 1)).arr.to_list()
    one = pl.element().str.strip_chars().str.replace(r"^(-?\d+)\.0+$", "$1")
    one = pl.when(one.str.contains(r"(?i)^(true|false)$")).then(one.str.to_lowercase()).otherwise(one)
    filled = lists.list.eval(one).list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))
    filled = filled.list.unique(maintain_order=True)
    return pl.select(pl.when(filled.list.len() > 0).then(filled)).to_series().alias(raw.name)


def _numbers(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    if not (raw.dtype.is_numeric() or raw.dtype == pl.Boolean):
        what = f"{feature.value!r} gives {raw.dtype}, not numbers"
        if raw.dtype == pl.String and (text := raw.is_not_null() & raw.cast(pl.Float64, strict=False).is_null()).any():
            what += f": {raw.filter(text)[0]!r} in {rows.describe(text)}"
        remedy = "correct the values; or, in a log's YAML, set the kind to category, or write TRY_CAST(... AS DOUBLE)"
        raise InputError(what, where=where, remedy=remedy)
    return raw.cast(pl.Float64)


def _vectors(raw: pl.Series, feature: Feature, where: str, rows: SourceRows) -> pl.Series:
    inner = raw.dtype.inner if isinstance(raw.dtype, pl.List | pl.Array) else None
    if inner is None or not (inner.is_numeric() or inner == pl.Null):
        what = f"{feature.value!r} gives {raw.dtype}, not lists of numbers"
        raise InputError(what, where=where, remedy="give vectors as a list column of floats in Parquet")
    lists = raw.cast(pl.List(pl.Float32))
    lists = pl.select(pl.when(lists.list.len() > 0).then(lists)).to_series().alias(raw.name)
    width = lists.list.len()
    usual = width.drop_nulls().mode().min() or 0
    odd = width != usual
    odd |= ~lists.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    if (odd := odd.fill_null(False)).any():
        what = f"{rows.describe(odd)} hold vectors with a NaN or empty number, or not of {usual!r} numbers as elsewhere"
        raise InputError(what, where=where, remedy="give every item a whole vector of the same length, or none (null)")
    return lists


EMPTY = {"category": pl.String(), "number": pl.Float64(), "vector": pl.List(pl.Float32)}
_MAKE = {"category": _categories, "number": _numbers, "vector": _vectors}
