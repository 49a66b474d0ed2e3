"""Find a log's files under the data root. A file is a path, or the URL of Parquet in an object store."""

import glob
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from recalign.data.events.log import LogMapping, data_root
from recalign.data.events.messages import did_you_mean
from recalign.errors import InputError
from recalign.files import digest, sha256

DIGEST_ROWS = 100
"""Rows at each end of a Parquet in an object store that its digest covers."""

CONVERT = "import polars as pl; pl.read_csv('old.csv', encoding='latin-1').write_parquet('new.parquet')"
RULE = (
    "text must be UTF-8 with separators of one byte, plain or as .gz, and quotes within quoted fields doubled; "
    f'convert anything else, as in: python -c "{CONVERT}"'
)


def is_text(file: str) -> bool:
    return not file.endswith(".parquet")


def file_digest(file: str) -> str:
    """Digest of a file's bytes. In an object store: of the schema, the number of rows, and the first and last rows."""
    if "://" not in file:
        return sha256(Path(file))
    with reading_parquet(file):
        rows = pl.scan_parquet(file)
        ends = [part.collect().write_json() for part in (rows.head(DIGEST_ROWS), rows.tail(DIGEST_ROWS))]
        return digest(str(rows.collect_schema()), rows.select(pl.len()).collect().item(), ends)


def locate(log: LogMapping, root: Path | None) -> tuple[list[str], str | None]:
    """Find the files of a log. If one is missing, look under ``RECALIGN_DATA``, then make them (``data.log.fetch``).

    Returns:
        The event files, in order, and the item table, if the log has one.

    Raises:
        InputError: a file is missing, or the item table is several files.
    """
    keys = dict.fromkeys(log.files, "data.log.files")
    if log.items is not None:
        keys[log.items.file] = "data.log.items.file"
    root, moved = root or data_root(None), data_root(None)
    found = {entry: find(root, entry) for entry in keys}
    if not all(found.values()) and os.environ.get("RECALIGN_DATA"):
        elsewhere = {entry: find(moved, entry) for entry in keys}
        if all(elsewhere.values()) and root != moved:
            print(f"recalign: the log is not under {root}; that under RECALIGN_DATA, {moved}, is read", file=sys.stderr)
            found = elsewhere
    folders = {entry.split("/")[0].replace("-", "_") for entry in keys}
    if not all(found.values()) and log.fetch and folders == {log.fetch.rpartition(".")[2]}:
        root = pkgutil.resolve_name(log.fetch)(root)
        found = {entry: find(root, entry) for entry in keys}
    for entry, files in found.items():
        if not files:
            here = [str(path.relative_to(root)) for one in ("*", "*/*") for path in root.glob(one) if path.is_file()]
            near = f"{did_you_mean(entry, here)} Else " if here else ""
            text = f"there is no file {entry!r} under the data root {root.resolve()}"
            remedy = f"{near}put it there, or name its folder with --data.root or RECALIGN_DATA"
            raise InputError(text, where=keys[entry], remedy=remedy)
    items = found[log.items.file] if log.items is not None else []
    if len(items) > 1:
        what = f"{log.items.file!r} is {len(items)} files, and the table of the items is one"  # type: ignore[union-attr]
        raise InputError(what, where="data.log.items.file", remedy="write them into one file, and name that")
    return [file for entry in log.files for file in found[entry]], items[0] if items else None


def find(root: Path, entry: str) -> list[str]:
    """Find the files of an entry of ``log.files``; an empty list if there are none.

    A folder gives the Parquet in it and below, a wildcard files and such folders, sorted by name. A file whose name
    equals the entry takes precedence over a wildcard. A URL (``s3://...``) is passed on to Polars.
    """
    if "://" in entry:
        return [entry if entry.endswith(".parquet") else f"{entry.rstrip('/')}/**/*.parquet"]
    path = root / entry
    if path.is_dir():
        return [str(file) for file in sorted(path.rglob("*.parquet")) if file.is_file()]
    if path.is_file() or not any(sign in entry for sign in "*?["):
        return [str(path)] if path.is_file() else []
    matches = map(Path, sorted(glob.glob(os.path.join(glob.escape(str(root)), entry))))
    return [file for path in matches for file in (find(path, "") if path.is_dir() else [str(path)])]


def no_file(path: str) -> InputError:
    """Make the error for a file that was named on the command line and is not there."""
    there = [one.name for one in Path(path).parent.glob("*")]
    return InputError("there is no such file", where=path, remedy=did_you_mean(Path(path).name, there))


def unreadable(file: str, error: Exception) -> InputError:
    """Make the error for a file that cannot be read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "://" in file:
        remedy = "check the address, the network, and the credentials as Polars reads them (AWS_..., GOOGLE_...)"
        return InputError(f"cannot be reached or read: {reason}", where=file, remedy=remedy)
    kind, remedy = ("text", RULE) if is_text(file) else ("Parquet", "download or copy it again: it may be cut off")
    return InputError(f"cannot be read as {kind}: {reason}", where=file, remedy=remedy)


@contextmanager
def reading_parquet(file: Path | str) -> Iterator[None]:
    """Turn the errors of a Parquet that cannot be read into an InputError that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(str(file), error) from error
