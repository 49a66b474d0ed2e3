"""Finding a log's files under the data root, unpacked or in the publisher's zip, and reading them."""

import csv
import functools
import glob
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import polars as pl

from recalign.errors import InputError
from recalign.events.messages import SHOWN, nearest

TABLES = (".csv", ".tsv", ".parquet")
MOVIELENS = {"u.data": "\t", "ratings.dat": ":"}
"""MovieLens's own layouts, without a header: file name -> separator. ``::`` is read as ``:`` with empty columns."""

RATING = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}


@dataclass(frozen=True)
class Source:
    """A file that holds events, or a member of a zip that does."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The bare file name, which says how to read it."""
        return PurePosixPath(self.member or self.path.name).name

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def data(self) -> Path | bytes:
        """What Polars reads from: the path, or the member's bytes."""
        if self.member is None:
            return self.path
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise _broken(self, "zip", error) from error

    def text(self) -> IO[str]:
        """The file as lines of text."""
        data = self.data()
        binary = io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
        return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="")


def find(root: Path, entry: str) -> list[Source]:
    """The files that an entry of ``log.files`` names, none if there are none.

    Args:
        root: the data root.
        entry: a path under it; with wildcards, in the order of the names. ``folder/file`` is also looked for in the
            zips ``folder.zip`` and ``folder/folder.zip``, and ``folder.zip`` in its folder.

    Raises:
        InputError: a zip is damaged, or does not hold a log.
    """
    if any(sign in entry for sign in "*?["):
        found = sorted(glob.glob(os.path.join(glob.escape(str(root)), entry)))
        return [_source(path) for path in map(Path, found) if path.is_file()]
    path = root / entry
    folder = entry.split("/")[0].removesuffix(".zip")
    wanted = None if path.suffix == ".zip" else path.name
    for place in (path, root / f"{folder}.zip", root / folder / f"{folder}.zip"):
        if place.is_file():
            return [_source(place, wanted)]
    return []


def missing(root: Path, entry: str) -> InputError:
    """The error that an entry of ``log.files`` is not there."""
    here = [str(path.relative_to(root)) for pattern in ("*", "*/*") for path in root.glob(pattern) if path.is_file()]
    near = f"{nearest(entry, here)} Else " if here else ""
    return InputError(
        f"there is no file {entry!r} under the data root {root.resolve()}",
        where="data.log.files",
        remedy=f"{near}put it there, or say by --data.root or RECALIGN_DATA where it is",
    )


def read(source: Source, ids: tuple[str, str]) -> pl.DataFrame:
    """Read a file of events, whatever its layout.

    Args:
        source: the file.
        ids: names of the columns of ids. In text they are integers if every one of them is written as one (``7``, or
            ``7.0`` as spreadsheets and pandas do), else they stay strings, so that ``007`` is not 7.

    Raises:
        InputError: the file is damaged, its rows have different numbers of fields, or its kind is not known.
    """
    try:
        if source.name in MOVIELENS:
            return _read_movielens(source)
        if source.name.endswith(".parquet"):
            return pl.read_parquet(source.data(), glob=False)
        if source.name.endswith((".csv", ".tsv")):
            return _read_text(source, ids)
    except pl.exceptions.NoDataError as error:
        raise InputError("the file is empty", where=str(source), remedy="name a file with events") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _broken(source, PurePosixPath(source.name).suffix.removeprefix("."), error) from error
    raise InputError(
        f"files named {source.name!r} cannot be read",
        where=str(source),
        remedy=f"give a {', '.join(TABLES)}, u.data or ratings.dat, or a .zip that holds one",
    )


def _read_movielens(source: Source) -> pl.DataFrame:
    separator = MOVIELENS[source.name]
    names = list(RATING) if separator == "\t" else ["user", "-", "item", "--", "rating", "---", "timestamp"]
    schema = {name: RATING.get(name, pl.String()) for name in names}
    plain = functools.partial(pl.read_csv, separator=separator, has_header=False, quote_char=None, glob=False)
    try:
        frame = plain(source.data(), schema=schema)
    except pl.exceptions.ComputeError:  # some field is not what it should be: the checks of the table say which
        _refuse_ragged(source, separator, len(names), header=False)
        frame = plain(source.data(), new_columns=names, infer_schema_length=None)
    if frame.to_series(-1).null_count():
        _refuse_ragged(source, separator, len(names), header=False)
    return frame.select(list(RATING))


def _read_text(source: Source, ids: tuple[str, str]) -> pl.DataFrame:
    separator = "\t" if source.name.endswith(".tsv") else ","
    read_csv = functools.partial(pl.read_csv, separator=separator, infer_schema_length=None, glob=False)
    try:
        frame = read_csv(source.data(), schema_overrides=dict.fromkeys(ids, pl.String))
    except pl.exceptions.ComputeError:
        with source.text() as lines:
            width = len(next(csv.reader(lines, delimiter=separator)))
        _refuse_ragged(source, separator, width, header=True)
        raise
    if frame.to_series(-1).null_count():  # so a row may be short: Polars fills it up with nulls
        _refuse_ragged(source, separator, frame.width, header=True)
    void = [column.name for column in frame if column.null_count() == frame.height]  # read as text, for want of a value
    frame = frame.with_columns(pl.lit(None).alias(name) for name in void)
    return frame.with_columns(_whole_numbers(frame[name]) for name in ids if name in frame.columns and name not in void)


def _whole_numbers(ids: pl.Series) -> pl.Series:
    """Ids read as text, as integers if all of them are written as integers of 64 bits."""
    if not ids.str.contains(r"^(0|-?[1-9]\d*)(\.0)?$").all():
        return ids
    numbers = ids.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    return ids if numbers.null_count() > ids.null_count() else numbers


def _refuse_ragged(source: Source, separator: str, width: int, header: bool) -> None:
    """Say which rows do not have as many fields as the first, if any."""
    with source.text() as lines:
        rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if header else csv.QUOTE_NONE)
        fields = enumerate(map(len, rows), start=0 if header else 1)
        ragged = [(number, count) for number, count in fields if count not in (0, width)]
    if ragged:
        first = ", ".join(f"row {number} has {count}" for number, count in ragged[:SHOWN])
        more = f" and {len(ragged) - SHOWN:,} more rows" if len(ragged) > SHOWN else ""
        raise InputError(
            f"{width} fields a row are expected, but {first}{more}",
            where=f"{source} (header not counted)" if header else str(source),
            remedy=f"fields that hold {separator!r} stand in double quotes; mend or remove these rows",
        )


def _source(path: Path, wanted: str | None = None) -> Source:
    """A file, or the member of a zip that holds the log: the one wanted, else MovieLens's, else the only table."""
    return Source(path, _member(path, wanted)) if path.suffix == ".zip" else Source(path)


def _member(archive: Path, wanted: str | None) -> str:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {name: PurePosixPath(name).name for name in opened.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise _broken(archive, "zip", error) from error
    known = [wanted] if wanted else [*MOVIELENS, "ratings.csv"]
    for choice in known:
        for member, name in members.items():
            if name == choice:
                return member
    tables = [member for member, name in members.items() if name.endswith(TABLES) and not name.startswith(".")]
    if wanted is None and len(tables) == 1:
        return tables[0]
    raise InputError(
        f"the zip holds {'no ' + wanted if wanted else f'{len(tables)} tables'}",
        where=str(archive),
        remedy=f"unpack it and name the file; it holds: {', '.join(list(members)[:10])}",
    )


def _broken(source: Source | Path, kind: str, error: Exception) -> InputError:
    return InputError(
        f"cannot be read as {kind}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        where=str(source),
        remedy="it may be cut off or damaged: download or copy it again (text must be UTF-8)",
    )
