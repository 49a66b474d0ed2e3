"""Find a log's files under the data root, unpacked or in the publisher's zip."""

import glob
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import polars as pl

from recalign.errors import InputError
from recalign.events import fetch
from recalign.events.log import Log, data_root
from recalign.events.messages import did_you_mean
from recalign.files import digest, sha256

TABLES = (".csv", ".tsv", ".parquet")
MOVIELENS = ("u.data", "ratings.dat", "ratings.csv")
"""Files of events in MovieLens's zips, which hold other tables too."""

ENDS = 100
"""Rows at the beginning and at the end of Parquet in an object store that its digest covers."""


@dataclass(frozen=True)
class Source:
    """A file, a member of a zip, or Parquet in an object store."""

    path: Path
    member: str | None = None
    url: str | None = None

    @property
    def name(self) -> str:
        """The bare file name, which says how to read it."""
        return PurePosixPath(self.member or self.path.name).name

    def __str__(self) -> str:
        return self.url or (f"{self.path}:{self.member}" if self.member else str(self.path))

    def data(self) -> Path | str | bytes:
        """What Polars reads from: the path, the URL, or the member's bytes."""
        if self.url:
            return self.url
        if self.member is None:
            return self.path
        with self._open() as binary:
            return binary.read()

    def digest(self) -> str:
        """A digest of its bytes; in an object store, of the columns' names and types, the number of rows and the ends.

        Raises:
            InputError: an object store cannot be reached or read.
        """
        if not self.url:
            return sha256(self.path)
        try:
            rows = pl.scan_parquet(self.url)
            ends = [part.collect().write_json() for part in (rows.head(ENDS), rows.tail(ENDS))]
            return digest(str(rows.collect_schema()), rows.select(pl.len()).collect().item(), ends)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise damaged(self, "Parquet", error) from error

    def lines(self, encoding: str = "utf-8-sig") -> Iterator[str]:
        """Lines of text, read as they are asked for."""
        with self._open() as binary:
            yield from io.TextIOWrapper(binary, encoding, errors="replace", newline="")

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise damaged(self, "zip", error) from error


def locate(log: Log, root: Path | None) -> tuple[list[Source], Source | None]:
    """Find the files of a log; download those of a public log if one is missing.

    Returns:
        The files of its events, in order, and that of its items' titles, if it has one.

    Raises:
        InputError: a file is missing, or a zip is damaged.
    """
    keys = dict.fromkeys(log.files, "data.log.files")
    if log.titles is not None:
        keys[log.titles.file] = "data.log.titles.file"
    root = root or data_root(None)
    found = {entry: find(root, entry) for entry in keys}
    if log.fetch == log.name and not all(found.values()):
        root = fetch.ml_100k()
        found = {entry: find(root, entry) for entry in keys}
    for entry, sources in found.items():
        if not sources:
            here = [str(path.relative_to(root)) for one in ("*", "*/*") for path in root.glob(one) if path.is_file()]
            near = f"{did_you_mean(entry, here)} Else " if here else ""
            raise InputError(
                f"there is no file {entry!r} under the data root {root.resolve()}",
                where=keys[entry],
                remedy=f"{near}put it there, or name its folder with --data.root or RECALIGN_DATA",
            )
    events = [source for entry in log.files for source in found[entry]]
    return events, found[log.titles.file][0] if log.titles is not None else None


def find(root: Path, entry: str) -> list[Source]:
    """Find the files that an entry of ``log.files`` names; an empty list if there are none.

    With wildcards, and of a folder (its Parquet), they come in the order of their names. ``folder/file`` is also looked
    for in the zips ``folder.zip`` and ``folder/folder.zip``, and ``folder.zip`` in its folder. A URL (``s3://...``) is
    not looked for: Polars reads it.

    Raises:
        InputError: a zip is damaged, or does not hold a log.
    """
    if "://" in entry:
        return [
            Source(
                Path("log.parquet"), url=entry if entry.endswith(".parquet") else f"{entry.rstrip('/')}/**/*.parquet"
            )
        ]
    if (root / entry).is_dir():
        return [Source(path) for path in sorted((root / entry).rglob("*.parquet"))]
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


def damaged(source: Source | Path, kind: str, error: Exception) -> InputError:
    """The error that a file cannot be read."""
    if isinstance(source, Source) and source.url:
        remedy = "check the address, the network, and the credentials as Polars reads them (AWS_..., GOOGLE_...)"
        return InputError(f"cannot be reached or read: {str(error).splitlines()[0]}", where=source.url, remedy=remedy)
    return InputError(
        f"cannot be read as {kind}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        where=str(source),
        remedy="it may be cut off or damaged: download or copy it again (text must be UTF-8)",
    )


def _source(path: Path, wanted: str | None = None) -> Source:
    """A file, or the member of a zip: the one wanted, else MovieLens's, else the only table."""
    if path.suffix != ".zip":
        return Source(path)
    try:
        with zipfile.ZipFile(path) as opened:
            members = [Source(path, name) for name in opened.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise damaged(path, "zip", error) from error
    for choice in [wanted] if wanted else MOVIELENS:
        for source in members:
            if source.name == choice:
                return source
    tables = [source for source in members if source.name.endswith(TABLES) and not source.name.startswith(".")]
    if wanted is None and len(tables) == 1:
        return tables[0]
    raise InputError(
        f"the zip holds {'no ' + wanted if wanted else f'{len(tables)} tables'}",
        where=str(path),
        remedy=f"unpack it and name the file; it holds: {', '.join(str(one.member) for one in members[:10])}",
    )
