"""Concatenate the tables of a log's files without changing what a value means."""

from collections.abc import Mapping, Sequence

import polars as pl

from recalign.errors import InputError


def join(frames: Mapping[str, pl.DataFrame], ids: Sequence[str], text: frozenset[str]) -> pl.DataFrame:
    """Concatenate the rows of all files. A column that a file lacks is null in its rows.

    Ids of text files become integers only if all ids of all text files are written as integers, so that an id has the
    same type in every file.

    Args:
        frames: a table per file.
        ids: id columns; text files hold them as text.
        text: names of the text files.

    Raises:
        InputError: a column has types in two files that cannot be combined.
    """
    parts = dict(frames)
    for name in ids:
        written = {file: parts[file][name] for file in text if parts[file].schema[name] == pl.String}
        numbers = {file: whole_numbers(column) for file, column in written.items()}
        if all(column.dtype != pl.String for column in numbers.values()):
            parts |= {file: parts[file].with_columns(column) for file, column in numbers.items()}
    for name in dict.fromkeys(name for part in parts.values() for name in part.columns):
        _refuse_mixture({file: part.schema[name] for file, part in parts.items() if name in part.columns}, name)
    try:
        return pl.concat(parts.values(), how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"the files do not fit together: {str(error).splitlines()[0]}",
            where="data.log.files",
            remedy="write columns of the same name in the same type in all files",
        ) from error


def whole_numbers(ids: pl.Series) -> pl.Series:
    """Cast text ids to integers if all are 64-bit integers (written ``7`` or ``7.0``), else return them unchanged."""
    if not ids.str.contains(r"^(0|-?[1-9]\d*)(\.0)?$").all():
        return ids
    numbers = ids.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    return ids if numbers.null_count() > ids.null_count() else numbers


def _refuse_mixture(types: Mapping[str, pl.DataType], name: str) -> None:
    """Refuse mixed types: times beside other types would become numbers, and floats beside text would become "7.0"."""
    known = {file: kind for file, kind in types.items() if kind != pl.Null}
    kinds = {_type_group(kind): file for file, kind in reversed(known.items())}
    if len(kinds) > 1 and ("time" in kinds or {"text", "fraction"} <= set(kinds) or "other" in kinds):
        raise InputError(
            f"the files do not fit together: the column {name} holds "
            + " and ".join(f"{known[file]} in {file}" for file in kinds.values()),
            where="data.log.files",
            remedy="write it in the same type in all files",
        )


def _type_group(of: pl.DataType) -> str:
    if of.is_temporal():
        return "time"
    if of in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if of.is_float():
        return "fraction"
    return "number" if of.is_numeric() or of == pl.Boolean else "other"
