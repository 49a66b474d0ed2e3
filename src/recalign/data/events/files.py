"""Find a log's files under the data root: plain, gzipped, or in a zip."""

import functools
import glob
import gzip
import io
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import polars as pl

from recalign.data.events import fetch
from recalign.data.events.log import LogMapping, data_root
from recalign.data.events.messages import did_you_mean
from recalign.errors import InputError
from recalign.files import digest, sha256

TABLES = (".csv", ".tsv", ".parquet")
MOVIELENS = ("u.data", "ratings.dat", "ratings.csv")
"""Event files in MovieLens's zips, which also contain other tables."""

MAX_UNPACKED, MAX_RATIO = 2**30, 200
"""A file that unpacks to more bytes than both `MAX_UNPACKED` and `MAX_RATIO` times its size is taken for a zip bomb."""

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)
"""Errors of a compressed file that is damaged, needs a password, or uses a compression that Python does not support."""

DIGEST_ROWS = 100
"""Rows at each end of a Parquet in an object store that its digest covers."""


@dataclass(frozen=True)
class Source:
    """A file, a member of a zip, or Parquet in an object store."""

    path: Path
    member: str | None = None
    url: str | None = None

    @property
    def name(self) -> str:
        """The file name without folder and ``.gz``. It says how to read the file."""
        return PurePosixPath(self.member or self.path.name).name.removesuffix(".gz")

    @property
    def is_gzip(self) -> bool:
        return (self.member or self.path.name).endswith(".gz")

    def __str__(self) -> str:
        return self.url or (f"{self.path}:{self.member}" if self.member else str(self.path))

    def data(self) -> Path | str | bytes:
        """What Polars reads from: the path, the URL, or the unpacked bytes.

        Raises:
            InputError: it cannot be unpacked, or looks like a zip bomb.
        """
        if self.url:
            return self.url
        if self.member is None and not self.is_gzip:
            return self.path
        most = max(MAX_UNPACKED, MAX_RATIO * self.path.stat().st_size)
        with self._open() as binary:
            content = binary.read(most + 1)
        if len(content) > most:
            what = f"{self.path.stat().st_size:,} bytes unpack to more than {most:,}"
            raise InputError(
                what, where=str(self), remedy="if that is expected, unpack the file and name what it holds"
            )
        return content

    def digest(self) -> str:
        """Digest of its bytes. In an object store: of the schema, the number of rows, and the first and last rows.

        Raises:
            InputError: an object store cannot be reached or read.
        """
        if not self.url:
            return sha256(self.path)
        with reading_parquet(self):
            rows = pl.scan_parquet(self.url)
            ends = [part.collect().write_json() for part in (rows.head(DIGEST_ROWS), rows.tail(DIGEST_ROWS))]
            return digest(str(rows.collect_schema()), rows.select(pl.len()).collect().item(), ends)

    def lines(self, encoding: str = "utf-8-sig") -> Iterator[str]:
        with self._open() as binary:
            yield from io.TextIOWrapper(binary, encoding, errors="replace", newline="")

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with ExitStack() as opened:
            try:
                if self.member is None:
                    file: IO[bytes] = opened.enter_context(self.path.open("rb"))
                else:
                    file = opened.enter_context(opened.enter_context(zipfile.ZipFile(self.path)).open(self.member))
                yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if self.is_gzip else file
            except UNREADABLE as error:
                raise damaged(self, "gzip" if self.is_gzip else self.path.suffix.removeprefix("."), error) from error


def locate(log: LogMapping, root: Path | None) -> tuple[list[Source], Source | None]:
    """Find the files of a log. Download a public log if one of its files is missing.

    Returns:
        The event files, in order, and the item table, if the log has one.

    Raises:
        InputError: a file is missing, or a zip is damaged.
    """
    keys = dict.fromkeys(log.files, "data.log.files")
    if log.items is not None:
        keys[log.items.file] = "data.log.items.file"
    root = root or data_root(None)
    found = {entry: find(root, entry) for entry in keys}
    if not all(found.values()) and os.environ.get("RECALIGN_DATA"):  # the log was moved
        elsewhere = {entry: find(data_root(None), entry) for entry in keys}
        if all(elsewhere.values()):
            _say_moved(root, data_root(None))
            found = elsewhere
    if not all(found.values()) and {entry.split("/")[0] for entry in keys} == {log.fetch}:
        root = fetch.ml_100k(root)
        found = {entry: find(root, entry) for entry in keys}
    for entry, sources in found.items():
        if not sources:
            here = [str(path.relative_to(root)) for one in ("*", "*/*") for path in root.glob(one) if path.is_file()]
            near = f"{did_you_mean(entry, here)} Else " if here else ""
            text = f"there is no file {entry!r} under the data root {root.resolve()}"
            remedy = f"{near}put it there, or name its folder with --data.root or RECALIGN_DATA"
            raise InputError(text, where=keys[entry], remedy=remedy)
    events = [source for entry in log.files for source in found[entry]]
    return events, sole(found[log.items.file], log.items.file) if log.items is not None else None


def sole(sources: list[Source], entry: str) -> Source:
    """The file of an item table.

    Raises:
        InputError: there are several.
    """
    if len(sources) > 1:
        what = f"{entry!r} is {len(sources)} files, and the table of the items is one"
        raise InputError(what, where="data.log.items.file", remedy="write them into one file, and name that")
    return sources[0]


@functools.cache
def _say_moved(root: Path, now: Path) -> None:
    print(f"recalign: the log is not under {root}: that of RECALIGN_DATA, {now}, is read", file=sys.stderr)


def find(root: Path, entry: str) -> list[Source]:
    """Find the files of an entry of ``log.files``; an empty list if there are none.

    A folder gives the Parquet in it and below, a wildcard files and such folders, sorted by name. A file whose name
    equals the entry takes precedence over a wildcard. ``folder/file`` is also searched in ``folder.zip`` and
    ``folder/folder.zip``, and ``folder.zip`` in ``folder``. A URL (``s3://...``) is passed on to Polars.

    Raises:
        InputError: a zip is damaged, or does not hold a log.
    """
    if "://" in entry:
        url = entry if entry.endswith(".parquet") else f"{entry.rstrip('/')}/**/*.parquet"
        return [Source(Path("log.parquet"), url=url)]
    path = root / entry
    if path.is_dir():
        return [Source(file) for file in sorted(path.rglob("*.parquet")) if file.is_file()]
    if any(sign in entry for sign in "*?[") and not path.is_file():
        found = map(Path, sorted(glob.glob(os.path.join(glob.escape(str(root)), entry))))
        return [file for path in found for file in (find(path, "") if path.is_dir() else [_source(path)])]
    folder = entry.split("/")[0].removesuffix(".zip")
    wanted = None if path.suffix == ".zip" else entry
    for place in (path, root / f"{folder}.zip", root / folder / f"{folder}.zip"):
        if place.is_file():
            return [_source(place, wanted)]
    return []


def damaged(file: Source | Path | str, kind: str, error: Exception) -> InputError:
    """Make the error for a file that cannot be read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "://" in str(file):
        remedy = "check the address, the network, and the credentials as Polars reads them (AWS_..., GOOGLE_...)"
        return InputError(f"cannot be reached or read: {reason}", where=str(file), remedy=remedy)
    remedy = "download or copy it again if it is cut off; text must be UTF-8, quotes closed, a zip without password"
    return InputError(f"cannot be read as {kind}: {reason}", where=str(file), remedy=remedy)


@contextmanager
def reading_parquet(file: Source | Path | str) -> Iterator[None]:
    """Turn the errors of a Parquet that cannot be read into an InputError that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise damaged(file, "Parquet", error) from error


def _source(path: Path, wanted: str | None = None) -> Source:
    """A file, or a member of a zip: the wanted one, else MovieLens's events, else the only table.

    Of several members with the wanted name it is the one whose folders are the wanted's too.
    """
    if path.suffix != ".zip":
        return Source(path)
    try:
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
    except UNREADABLE as error:
        raise damaged(path, "zip", error) from error
    for info in infos:
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        if is_link or info.filename.startswith("/") or ".." in PurePosixPath(info.filename).parts:
            what = f"its member {info.filename!r} points outside the zip"
            raise InputError(what, where=str(path), remedy="unpack it in an empty folder, and name the table")
    members = [Source(path, info.filename) for info in infos]
    plain = (wanted or "").removesuffix(".gz")
    choices = [PurePosixPath(plain).name] if wanted else MOVIELENS
    named = [source for choice in choices for source in members if source.name == choice]
    if wanted and len(named) > 1:
        inner = plain.partition("/")[2] or plain  # without the zip's own name
        alike = [one for one in named if f"/{one.member}".removesuffix(".gz").endswith(f"/{inner}")]
        if len(alike) != 1:
            text = f"the zip holds {len(named)} files named {choices[0]}, and {wanted!r} does not tell which"
            remedy = f"name its folder too; it holds: {', '.join(str(one.member) for one in named[:10])}"
            raise InputError(text, where=str(path), remedy=remedy)
        return alike[0]
    if named:
        return named[0]
    tables = [source for source in members if source.name.endswith(TABLES) and not source.name.startswith(".")]
    if wanted is None and len(tables) == 1:
        return tables[0]
    text = f"the zip holds {'no ' + wanted if wanted else f'{len(tables)} tables'}"
    remedy = f"unpack it and name the file; it holds: {', '.join(str(one.member) for one in members[:10])}"
    raise InputError(text, where=str(path), remedy=remedy)
