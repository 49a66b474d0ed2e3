"""Make the tables of a log's files fit together without changing what a value means."""

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from recalign.data.events.fields import EXACT, MISSING, missing_as_null
from recalign.errors import InputError

Tables = dict[str, pl.LazyFrame]
"""The table of each file, by name."""


def matched(tables: Tables, ids: Sequence[str], text: Collection[str]) -> tuple[Tables, pl.DataFrame]:
    """Give ids the same type in every file, and check that all columns can be concatenated.

    Ids of text files become integers only if all ids of all text files are written as integers.

    Args:
        tables: of all files.
        ids: id columns; text files hold them as text.
        text: names of the text files.

    Returns:
        The tables, and the columns of all of them as a frame without rows.

    Raises:
        InputError: a column has types in two files that cannot be combined.
    """
    parts = dict(tables)
    for name in ids:
        _refuse_inexact(tables, name)
        written = [file for file in text if parts[file].collect_schema()[name] == pl.String]
        columns = (missing_as_null(parts[file].select(name).collect().to_series()) for file in written)
        if all(whole_numbers(column).dtype != pl.String for column in columns):
            number = pl.col(name).replace(list(MISSING), None).str.strip_suffix(".0").cast(pl.Int64)
            parts |= {file: parts[file].with_columns(number) for file in written}
    schemas = {file: part.collect_schema() for file, part in parts.items()}
    for name in dict.fromkeys(name for schema in schemas.values() for name in schema):
        _refuse_mixture({file: schema[name] for file, schema in schemas.items() if name in schema}, name)
    try:
        empty = pl.concat([pl.DataFrame(schema=schema) for schema in schemas.values()], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"the files do not fit together: {str(error).splitlines()[0]}",
            where="data.log.files",
            remedy="write columns of the same name in the same type in all files",
        ) from error
    return parts, empty


def _refuse_inexact(tables: Tables, name: str) -> None:
    """Refuse ids that a file's short floats do not hold exactly: beside another file they would become a wider type."""
    for file, table in tables.items():
        kind = table.collect_schema()[name].base_type()
        if len(tables) > 1 and kind in EXACT:
            largest = table.select(pl.col(name).fill_nan(None).abs().max()).collect().item()
            if largest is not None and largest >= EXACT[kind]:
                what, remedy = f"{largest:.0f}: {kind} holds no such id exactly", "write ids as integers or strings"
                raise InputError(what, where=f"{file}, column {name}", remedy=remedy)


def whole_numbers(ids: pl.Series) -> pl.Series:
    """Cast text ids to integers if all are 64-bit integers (written ``7`` or ``7.0``), else return them unchanged."""
    if not ids.str.contains(r"^(0|-?[1-9]\d*)(\.0)?$").all():
        return ids
    numbers = ids.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    return ids if numbers.null_count() > ids.null_count() else numbers


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


def _refuse_mixture(types: Mapping[str, pl.DataType], name: str) -> None:
    """Refuse mixed types: times beside other types would become numbers, and floats beside text would become "7.0"."""
    known = {file: kind for file, kind in types.items() if kind != pl.Null}
    kinds = {_type_group(kind): file for file, kind in reversed(known.items())}
    if len(kinds) > 1 and ("time" in kinds or {"text", "fraction"} <= set(kinds) or "other" in kinds):
        text = f"the files do not fit together: the column {name} holds " + " and ".join(
            f"{known[file]} in {file}" for file in kinds.values()
        )
        raise InputError(text, where="data.log.files", remedy="write it in the same type in all files")


def _type_group(of: pl.DataType) -> str:
    if of.is_temporal():
        return "time"
    if of in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if of.is_float():
        return "fraction"
    return "number" if of.is_numeric() or of == pl.Boolean else "other"
