"""Read tables: Parquet, and text with or without a header row."""

import csv
import functools
import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from recalign.data.events.files import TABLES, Source, damaged
from recalign.data.events.log import EXPOSURE_COLUMNS, LogMapping
from recalign.data.events.messages import SHOWN, did_you_mean
from recalign.data.events.tree import plain_name, without_patterns
from recalign.errors import InputError

NULLS = ("NULL", "NaN", r"\N")
"""What databases write for a missing value. An empty field is missing too."""

SEPARATORS = (",", "\t", ";", "|", "::")
"""Separators that are recognised in text files."""

UNIT_SEPARATOR = "\x1f"
"""Stands in for a separator of several characters, which Polars cannot read."""


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out.

    Attributes:
        separator: between fields.
        header: names of the columns of a file without a header row; null: the first row is the header.
        quote: quote character; None: fields are not quoted.
        encoding: of the text.
        types: of the columns; empty: inferred from all rows.
    """

    separator: str
    header: Sequence[str] | None = None
    quote: str | None = '"'
    encoding: str = "utf8"
    types: Mapping[str, Any] = field(default_factory=dict)


RATING = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}  # ids as in other text
FILM = ("item", "title", "released", "video_released", "url", *(f"genre_{number}" for number in range(19)))
MOVIELENS = {
    "u.data": Layout("\t", tuple(RATING), None, types=RATING),
    "ratings.dat": Layout("::", tuple(RATING), None, types=RATING),
    "u.item": Layout("|", FILM, None, "latin-1"),
    "movies.dat": Layout("::", ("item", "title", "genres"), None, "latin-1"),
}
"""Layouts of MovieLens's files, which have no header row, by file name."""


def read(
    source: Source, ids: Sequence[str], header: Sequence[str] | None = None, separator: str | None = None
) -> pl.DataFrame:
    """Read a table of any supported layout. Columns are named as by `without_patterns`.

    Args:
        source: the file.
        ids: names of id columns. In text files they stay text, so that ``007`` does not become 7.
        header, separator: as in `LogMapping`.

    Raises:
        InputError: the file is empty, damaged or of an unknown kind, its rows have different numbers of fields, or
            `header` does not have as many names as there are columns.
    """
    try:
        if not is_text(source):
            return scan(source).collect()
        return without_patterns(_read_text(source, ids, _layout(source, header, separator)))
    except pl.exceptions.NoDataError as error:
        raise InputError("the file is empty", where=str(source), remedy="name a file with rows") from error
    except (pl.exceptions.PolarsError, OSError, csv.Error) as error:
        raise damaged(source, PurePosixPath(source.name).suffix.removeprefix("."), error) from error


def scan(source: Source) -> pl.LazyFrame:
    """Scan a Parquet file lazily; a URL may name several, with wildcards. Columns are named as by `read`."""
    return without_patterns(pl.scan_parquet(source.data(), glob=source.url is not None))


def is_text(source: Source) -> bool:
    return not source.name.endswith(".parquet")


def has_header(source: Source, header: Sequence[str] | None) -> bool:
    """Whether the first row of a file is its header."""
    return header is None and source.name not in MOVIELENS and is_text(source)


def plain_names(log: LogMapping) -> LogMapping:
    """Rename the columns of a log's settings as `read` names them."""
    mapped = {key: getattr(log, key) for key in ("user", "item", "timestamp", *EXPOSURE_COLUMNS)}
    names: dict[str, Any] = {key: name and plain_name(name) for key, name in mapped.items()}
    return replace(log, columns={plain_name(name): one for name, one in log.columns.items()}, **names)


def require_columns(log: LogMapping, file: str, columns: list[str]) -> None:
    """Refuse a file without a column that the log maps. `log` is the result of `plain_names`."""
    for key in ("user", "item", "timestamp", *EXPOSURE_COLUMNS):
        column = getattr(log, key)
        computed = key in EXPOSURE_COLUMNS and column in log.columns
        if column is not None and not computed and column not in columns:
            raise no_column(f"data.log.{key}", column, file, columns)


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether a column name is a number or a date, as if the first row were data."""
    return any(re.fullmatch(r"[-+]?\d+([-.:/T ]\d+)*(Z|[eE+]\d.*)?(_duplicated_\d+)?", name) for name in names)


def no_column(key: str, column: str, file: str, found: list[str]) -> InputError:
    """Make the error for a file without the column that the setting `key` names."""
    if looks_like_data(found):
        return InputError(
            f"there is no column {column!r} in {file}, whose first row looks like data, not names: {', '.join(found)}",
            where=key,
            remedy="name its columns in order, data.log.header: [user, item, ...], or let `recalign init FILE` do it",
        )
    remedy = did_you_mean(column, found)
    if len(found) == 1:
        remedy = f"the first row was read as one name, {found[0]!r}: leave data.log.separator out, and it is found"
    return InputError(f"there is no column {column!r} in {file}", where=key, remedy=remedy)


def find_separator(source: Source) -> str:
    """Find the separator of a text file from its first row.

    The usual one (a tab in .tsv, else a comma) if the row contains it, else the most frequent of `SEPARATORS`.
    """
    line = re.sub(r'"[^"]*"', "", next((line for line in source.lines() if line.strip()), ""))
    usual = "\t" if source.name.endswith(".tsv") else ","
    return usual if usual in line else max((usual, *SEPARATORS), key=line.count)


def _layout(source: Source, header: Sequence[str] | None, separator: str | None) -> Layout:
    if source.name in MOVIELENS and header is None and separator is None:
        layout = MOVIELENS[source.name]
        return replace(layout, encoding="utf8") if layout.encoding != "utf8" and _is_utf8(source) else layout
    if not (source.name.endswith(TABLES) or header or separator):
        raise InputError(
            f"files named {source.name!r} cannot be read",
            where=str(source),
            remedy=f"give a {', '.join(TABLES)}, plain, as .gz or in a .zip, or a file of MovieLens; unpack what is "
            "compressed otherwise; for text of another name set data.log.separator",
        )
    return Layout(separator or find_separator(source), header)


def _is_utf8(source: Source) -> bool:
    data = source.data()
    try:
        (data if isinstance(data, bytes) else Path(data).read_bytes()).decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_text(source: Source, ids: Sequence[str], layout: Layout) -> pl.DataFrame:
    """Read a text file. Ids are read as text."""
    first = next(_split_rows(source, layout), [])
    if any("\0" in field for field in first):
        raise InputError("it holds zero bytes, as UTF-16 does", where=str(source), remedy="save it as UTF-8")
    if next(source.lines(), "").endswith("\r") and not any(line.endswith("\n") for line in source.lines()):
        remedy = "end them in LF: tr '\\r' '\\n' < old.csv > new.csv"
        raise InputError("its lines end in CR alone", where=str(source), remedy=remedy)
    if layout.header is not None and len(layout.header) != len(first) > 0:
        text = f"{len(layout.header)} columns are named, but {source} has {len(first)}"
        remedy = f"name every column, in order; the first row is: {', '.join(first)}"
        raise InputError(text, where="data.log.header", remedy=remedy)
    try:
        frame = _parse(source, layout, ids)
    except pl.exceptions.PolarsError:
        _refuse_ragged(source, layout, len(first))
        raise
    if frame.width != len(first) or frame.to_series(-1).null_count():  # Polars pads short rows with nulls
        _refuse_ragged(source, layout, len(first))
    if layout.quote and _spans_lines(frame):
        _refuse_open_quotes(source, layout)
    if layout.header is None and frame.width == len(set(first)):
        frame.columns = first
    void = [column.name for column in frame if column.null_count() == frame.height]  # an empty column is read as text
    return frame.with_columns(pl.lit(None).alias(name) for name in void)


def _parse(source: Source, layout: Layout, ids: Sequence[str]) -> pl.DataFrame:
    data, separator = source.data(), layout.separator
    if len(separator) > 1:
        data = data if isinstance(data, bytes) else Path(data).read_bytes()
        data, separator = data.replace(separator.encode(), UNIT_SEPARATOR.encode()), UNIT_SEPARATOR
    read_csv = functools.partial(
        pl.read_csv,
        data,
        separator=separator,
        has_header=layout.header is None,
        new_columns=layout.header and list(layout.header),
        quote_char=layout.quote,
        encoding=layout.encoding,
        null_values=[*NULLS, ""],  # a quoted empty field too
        glob=False,
    )
    if layout.types:
        try:
            return read_csv(schema=layout.types)
        except pl.exceptions.PolarsError:
            pass  # a field has another type: the checks of the event table report it
    # Polars keeps doubled quotes in column names. A separator within quotes is text, of a name or a value.
    kept = [name.replace('"', '""').replace(layout.separator, separator) for name in ids]
    frame = read_csv(schema_overrides=dict.fromkeys([*ids, *kept], pl.String), infer_schema_length=None)
    if separator == layout.separator:
        return frame
    return frame.with_columns(pl.col(pl.String).str.replace_all(separator, layout.separator, literal=True))


def _split_rows(source: Source, layout: Layout, *, strict: bool = False) -> Iterator[list[str]]:
    """Iterate over rows as lists of text fields, header included. ``strict``: refuse text after a closing quote."""
    lines, separator = source.lines("utf-8-sig" if layout.encoding == "utf8" else layout.encoding), layout.separator
    if len(separator) > 1:
        lines, separator = (line.replace(layout.separator, UNIT_SEPARATOR) for line in lines), UNIT_SEPARATOR
    csv.field_size_limit(2**31 - 1)  # of all readers, as Python has it: Polars reads fields of any length
    rows: Iterator[list[str]]
    if layout.quote is None:
        rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, delimiter=separator, strict=strict)
    if separator != layout.separator:
        rows = ([field.replace(separator, layout.separator) for field in fields] for fields in rows)  # within quotes
    # Polars passes over blank lines before a header too.
    return rows if layout.header is not None else itertools.dropwhile(operator.not_, rows)


def _spans_lines(frame: pl.DataFrame) -> bool:
    text = (column.alias("") for column in frame if column.dtype == pl.String)  # a name such as "*" is a pattern
    return any(column.str.contains("\n", literal=True).any() for column in text)


def _refuse_open_quotes(source: Source, layout: Layout) -> None:
    """Refuse quotes that are not doubled: a field of several lines may then be several rows.

    Raises:
        InputError: it names the row.
    """
    row = 0 if layout.header is None else 1
    try:
        for _ in _split_rows(source, layout, strict=True):
            row += 1
    except csv.Error as error:
        raise InputError(
            f"row {row} has text after the closing quote of a field, and fields of several lines: {error}",
            where=f"{source} (header not counted)" if layout.header is None else str(source),
            remedy="write a quote within a quoted field twice, or export the table again",
        ) from error


def _refuse_ragged(source: Source, layout: Layout, width: int) -> None:
    """Raise an InputError if rows have another number of fields than the first, and name them."""
    numbered = zip(itertools.count(0 if layout.header is None else 1), _split_rows(source, layout), strict=False)
    ragged = [(number, len(fields)) for number, fields in numbered if len(fields) not in (0, width)]
    if ragged:
        first = ", ".join(f"row {number} has {count}" for number, count in ragged[:SHOWN])
        more = f" and {len(ragged) - SHOWN:,} more rows" if len(ragged) > SHOWN else ""
        raise InputError(
            f"{width} fields a row are expected, but {first}{more}",
            where=f"{source} (header not counted)" if layout.header is None else str(source),
            remedy=f"put fields that hold {layout.separator!r} in double quotes; correct or remove these rows",
        )
