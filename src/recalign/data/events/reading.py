"""Find a log's tables, read them, and concatenate them without changing what a value means."""

import csv
import gzip
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import polars.selectors as cs

from recalign.data.events.fields import MISSING
from recalign.data.events.log import LogMapping, data_root
from recalign.data.events.messages import EXAMPLE_ROWS, SourceRows, did_you_mean
from recalign.data.events.movielens import CONVERTED, convert
from recalign.data.events.queries import ask
from recalign.data.events.sources import KINDS, RULE, Source, find, read_errors
from recalign.data.events.table import LogReader
from recalign.errors import InputError
from recalign.seals import require_digest

CONVERT_LINES = (
    "import polars as pl; pl.scan_lines('old.dat').select(pl.col('line').str.split_exact('::', 3)).unnest('line')"
    ".sink_parquet('new.parquet')"
)
NULLS = ("NULL", "NaN", r"\N", "")
"""Text that is read as null."""

SEPARATORS = (",", "\t", ";", "|")
"""Separators that are recognised in text files."""

MAX_ROWS = 2**32 - 2
"""Row numbers have 32 bits."""


def locate(log: LogMapping, root: Path | None) -> tuple[list[Source], Source | None]:
    """Find the tables of a log. If one is missing, look under ``RECALIGN_DATA``, then convert MovieLens.

    Returns:
        The tables of events, in order, each once however its path is spelled, and the item table, if the log has one.

    Raises:
        InputError: a file is missing, or was altered since its SHA-256 was written, or is in a folder that is a table
            too; or the item table is several files.
    """
    keys = dict.fromkeys(log.files, "data.log.files") | ({log.items.file: "data.log.items.file"} if log.items else {})
    root, moved = root or data_root(None), data_root(None)
    options = {name: os.environ.get(value, value) for name, value in (log.storage_options or {}).items()}
    found = {entry: find(root, entry, options) for entry in keys}
    if not all(found.values()) and os.environ.get("RECALIGN_DATA") and root != moved:
        elsewhere = {entry: find(moved, entry, options) for entry in keys}
        if all(elsewhere.values()):
            print(f"recalign: the log is not under {root}; it is read from RECALIGN_DATA, {moved}", file=sys.stderr)
            found = elsewhere
    folders = {entry.split("/")[0] for entry in keys}
    if not all(found.values()) and len(folders) == 1 and (folder := folders.pop()) in CONVERTED:
        root = convert(root, folder)
        found = {entry: find(root, entry, options) for entry in keys}
    for entry, key in keys.items():
        if not found[entry] and "://" in entry:
            remedy = "name a file or a folder that the store has; a folder means the Parquet in it and below"
            raise InputError(f"there is nothing at {entry}", where=key, remedy=remedy)
        if not found[entry]:
            here = [str(path.relative_to(root)) for one in ("*", "*/*") for path in root.glob(one) if path.is_file()]
            near = f"{did_you_mean(entry, here)} Else " if here else ""
            what = f"there is no file {entry!r} under the data root {root.resolve()}"
            remedy = f"{near}put it there, or name its folder with --data.root or RECALIGN_DATA"
            raise InputError(what, where=key, remedy=remedy)
    items = found[log.items.file] if log.items else []
    if len(items) > 1:
        what = f"the item table must be one file, but this names {len(items)} files"
        raise InputError(what, where="data.log.items.file", remedy="join them into one file, and name that")
    tables: dict[str, Source] = {}
    for table in [ask(log)] if log.query else [table for entry in log.files for table in found[entry]]:
        tables.setdefault(table.place if table.remote else os.path.realpath(table.place), table)
    for table in tables.values():
        require_digest(Path(table.place))
    _require_apart(tables)
    return [*tables.values()], next(iter(items), None)


def _require_apart(tables: Mapping[str, Source]) -> None:
    """Refuse a file inside a folder that is a table too: its rows would be read twice. Keys: the real paths."""
    folders = {path: table for path, table in tables.items() if table.kind not in ("text", *KINDS.values())}
    for path, table in tables.items():
        if within := [folders[str(one)] for one in Path(path).parents if str(one) in folders and not table.remote]:
            what = f"{table.name} is in {within[0].name}, which is a table too: its rows would be read twice"
            raise InputError(what, where="data.log.files", remedy="name either the file or the folder")


class FileReader(LogReader):
    """Reads the files of a log in every supported format. Raises the errors of `locate`, `read` and `join`."""

    def digests(self) -> list[str]:
        """Digests of the log's files, and of the item table if items have features."""
        files, items = locate(self.log, self.root)
        tables = [items] if items and self.log.items and self.log.items.features else []
        return [table.identity() for table in [*files, *tables]]

    def rows(self) -> tuple[pl.DataFrame, SourceRows]:
        log, (files, _) = self.log, locate(self.log, self.root)
        ids = log.user, log.item
        joined, rows = join(log, {table: read(table, ids, log.header, log.separator).lazy() for table in files})
        raw = joined.collect()
        return raw, replace(rows, number=pl.int_range(1, raw.height + 1, dtype=pl.UInt32, eager=True))


LogReader.reader_class = FileReader


def join(log: LogMapping, sources: Mapping[Source, pl.LazyFrame]) -> tuple[pl.LazyFrame, SourceRows]:
    """Concatenate the tables of a log. Text ids become integers only if all ids of all files are integers.

    Returns:
        The rows of all tables, and how many each file has.

    Raises:
        InputError: a table cannot be read, there are no rows or too many, or the columns do not fit.
    """
    heights, schemas, tables = {}, {}, {str(source): table for source, table in sources.items()}
    for (file, table), source in zip(tables.items(), sources, strict=True):
        with read_errors(source.name, source.options):
            schemas[file] = schema = table.collect_schema()
            heights[file] = int(table.select(pl.len()).collect().item())
        for key in ("user", "item", "timestamp"):
            if (column := getattr(log, key)) is not None and column not in schema:
                raise no_column(f"data.log.{key}", column, source, schema.names())
    if not 0 < (total := sum(heights.values())) <= MAX_ROWS:
        what = f"the log has {total:,} rows, not 1 to {MAX_ROWS:,}" if total else "the log is empty"
        raise InputError(what, where=", ".join(heights), remedy="name other files in data.log.files, or other rows")
    texts = [file for file, source in zip(tables, sources, strict=True) if source.kind == "text"]
    if len(texts) not in (0, len(tables)):
        raise InputError("the log mixes text files with others, such as Parquet", where="data.log.files", remedy=RULE)
    for name in dict.fromkeys(name for schema in schemas.values() for name in schema):
        types = {file: schema[name] for file, schema in schemas.items() if schema.get(name, pl.Null) != pl.Null}
        found = {dtype: f"{dtype} in {file}" for file, dtype in types.items()}
        if len(found) > 1 and not _fit(found):
            what = f"the files do not fit together: the column {name} holds {' and '.join(found.values())}"
            raise InputError(what, where="data.log.files", remedy="write it in the same type in all files")
        if len(found) > 1:  # concat would round to the coarsest unit
            times = cs.by_name(name, require_all=False) & cs.datetime()
            tables = {file: table.with_columns(times.dt.cast_time_unit("us")) for file, table in tables.items()}
        for (file, table), source in zip(tables.items(), sources, strict=True):
            known = types.get(file, pl.String)
            if pl.String in found and known != pl.String and source.kind == "text":  # as text: keep 007
                tables[file] = table.with_columns(read(source, (name,), log.header, log.separator)[name])
    rows = pl.concat(tables.values(), how="diagonal_relaxed")
    for name in (log.user, log.item) if texts else ():
        text = pl.col(name).cast(pl.String).replace(MISSING, None)
        columns = (table.select(text).collect().to_series() for table in tables.values())
        if all(whole_numbers(column).dtype != pl.String for column in columns):
            rows = rows.with_columns(text.str.strip_suffix(".0").cast(pl.Int64))
    return rows, SourceRows(pl.Series([], dtype=pl.UInt32), heights, [] if log.header else texts)


def _fit(types: Collection[pl.DataType]) -> bool:
    """Whether columns of these types can be concatenated without changing what a value means."""
    try:
        pl.concat([pl.DataFrame(schema={"": dtype}) for dtype in types], how="vertical_relaxed")
    except pl.exceptions.PolarsError:  # times with and without a zone, two Enums
        return False
    kinds = {*map(_kind, types)}  # else times become numbers, and fractions text
    return len(kinds) == 1 or kinds <= {"whole number", "fraction"} or kinds <= {"whole number", "text"}


def _kind(dtype: pl.DataType) -> str:
    kinds = {
        "fraction": dtype.is_float(),
        "whole number": dtype.is_numeric() or dtype == pl.Boolean,
        "text": dtype in (pl.String, pl.Categorical, pl.Enum),
        "time": dtype in (pl.Datetime, pl.Date),
    }
    return next((kind for kind, fits in kinds.items() if fits), str(dtype))


def whole_numbers(ids: pl.Series) -> pl.Series:
    """Cast text ids to integers if all are 64-bit integers (written ``7`` or ``7.0``), else return them unchanged."""
    if not ids.str.contains(r"^(0|-?[1-9]\d*)(\.0)?$").all():
        return ids
    numbers = ids.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    return ids if numbers.null_count() > ids.null_count() else numbers


def read(
    source: Source, text: Collection[str] | None, header: Sequence[str] | None = None, separator: str | None = None
) -> pl.DataFrame:
    """Read a table.

    Args:
        source: text may be plain or ``.gz``, and is copied from a store first.
        text: columns that stay text in text files, such as ids, so that ``007`` does not become 7; None: all do.
        header, separator: as in `LogMapping`.

    Raises:
        InputError: it cannot be reached, is empty, damaged or of an unknown kind, its rows have different numbers of
            fields, or `header` does not have as many names as there are columns.
    """
    with read_errors(source.name, source.options):
        if source.kind != "text":
            return source.scan(text or ()).collect()
        if not source.remote:
            return _read_text(source.place, text, header, separator or _find_separator(source.place))
        with TemporaryDirectory() as folder:
            copied = os.path.join(folder, os.path.basename(source.place.removesuffix(".gz")))
            lines = pl.scan_lines(source.place, glob=False, storage_options=dict(source.options) or None)
            lines.sink_csv(copied, include_header=False, quote_style="never")
            try:
                return _read_text(copied, text, header, separator or _find_separator(copied))
            except InputError as error:
                what, where = (str(one).replace(copied, source.name) for one in (error.what, error.where))
                raise InputError(what, where=where, remedy=error.remedy) from error


def _read_text(file: str, text: Collection[str] | None, header: Sequence[str] | None, separator: str) -> pl.DataFrame:
    if len(separator.encode()) != 1:
        remedy = f'convert the file, as in: python -c "{CONVERT_LINES}"'
        raise InputError(f"{separator!r} is not one byte", where="data.log.separator", remedy=remedy)
    first = next(filter(None, _fields(file, separator)), [])
    if any("\0" in field or "\ufffd" in field for field in first):
        raise InputError("its first row is not UTF-8", where=file, remedy=RULE)
    if header is not None and first and not len({*header}) == len(header) == len(first):
        what = f"{len({*header})} columns are named, but {file} has {len(first)}"
        remedy = f"name every column, in order; the first row is: {', '.join(first)}"
        raise InputError(what, where="data.log.header", remedy=remedy)
    quoted = [name.replace('"', '""') for name in text or ()]  # as Polars names them
    try:
        frame = pl.read_csv(
            file,
            separator=separator,
            has_header=header is None,
            new_columns=header,
            schema_overrides=dict.fromkeys([*(text or ()), *quoted], pl.String),
            infer_schema=text is not None,
            infer_schema_length=None,
            null_values=[*NULLS],
            glob=False,
        )
    except pl.exceptions.PolarsError:
        _refuse_bad_rows(file, separator, header is None)
        raise
    several = (one.alias("").str.contains("\n", literal=True).any() for one in frame if one.dtype == pl.String)
    last = pl.scan_lines(file, glob=False).tail(1).collect().to_series()
    open_quote = last.str.count_matches('"', literal=True).sum() % 2  # in a last line without LF, Polars closes it
    if frame.width != len(first) or frame.to_series(-1).null_count() or any(several) or open_quote:
        _refuse_bad_rows(file, separator, header is None)  # Polars pads short rows, and joins lines within quotes
        if frame.width != len(first):
            raise InputError("its lines do not all end in LF or CR LF", where=file, remedy=RULE)
    if header is None and frame.width == len(set(first)):
        frame.columns = first
    void = [] if text is None else [column.name for column in frame if column.null_count() == frame.height]
    return frame.with_columns(pl.lit(None).alias(name) for name in void)  # nulls have no type of their own


def _find_separator(file: str) -> str:
    """The usual one (a tab in .tsv, else a comma) if the first row contains it, else the most frequent one."""
    line = re.sub(r'"[^"]*"', "", next((line for line in _lines(file) if line.strip()), ""))
    usual = "\t" if file.removesuffix(".gz").endswith(".tsv") else ","
    return usual if usual in line else max((usual, *SEPARATORS), key=line.count)


def _lines(file: str) -> Iterator[str]:
    opened = gzip.open if file.endswith(".gz") else open
    with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as lines:
        yield from lines


def _fields(file: str, separator: str) -> Iterator[list[str]]:
    """The text fields of each row, header included; empty for a blank row. ``csv.Error`` for a bad quote."""
    csv.field_size_limit(2**31 - 1)  # Polars reads fields of any length
    return csv.reader(_lines(file), delimiter=separator, strict=True)


def _refuse_bad_rows(file: str, separator: str, headed: bool) -> None:
    """Raise an InputError that names rows with a bad quote, or not as many fields as the first."""
    where = f"{file} (header not counted)" if headed else file
    number, width, odd = 0 if headed else 1, 0, []
    try:
        for fields in _fields(file, separator):
            width = width or len(fields)
            if len(fields) not in (0, width):
                odd.append(f"row {number} has {len(fields)}")
            number += bool(width)  # as Polars skips blank lines before the first row
    except csv.Error as error:
        what = f"row {number} has a quote that is not doubled, or ends inside quotes ({error})"
        raise InputError(what, where=where, remedy=RULE) from error
    if odd:
        more = f" and {len(odd) - EXAMPLE_ROWS:,} more rows" if len(odd) > EXAMPLE_ROWS else ""
        remedy = f"put fields that hold {separator!r} in double quotes; correct or remove these rows"
        what = f"{width} fields a row are expected, but {', '.join(odd[:EXAMPLE_ROWS])}{more}"
        raise InputError(what, where=where, remedy=remedy)


def no_column(key: str, column: str, source: Source, found: list[str]) -> InputError:
    """Make the error for a table without the column that the setting `key` names."""
    what, remedy = f"there is no column {column!r} in {source.name}", did_you_mean(column, found)
    if source.kind == "text":
        remedy += " If the file has no header row, set data.log.header: [user, item, ...], all columns in order, or "
        remedy += f"run `recalign init FILE`. If all columns are read as one, leave data.log.separator out. {RULE}"
    return InputError(what, where=key, remedy=remedy)
