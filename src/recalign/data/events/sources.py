"""Sources of a log's rows: files, local or in an object store; Delta Lake and Iceberg tables; a query's result."""

from __future__ import annotations

import csv
import glob
import gzip
import importlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl

from recalign.data.events import hive
from recalign.data.events.log import refuse_secret, without_secrets
from recalign.data.events.messages import did_you_mean
from recalign.errors import InputError
from recalign.files import digest, sha256

Kind = Literal["text", "parquet", "folder", "ndjson", "ipc", "delta", "iceberg"]
KINDS: dict[str, Kind] = {
    **{".parquet": "parquet", ".ndjson": "ndjson", ".jsonl": "ndjson"},
    **{".arrow": "ipc", ".ipc": "ipc", ".feather": "ipc"},
}
"""File formats by extension; any other is text."""

UNLIKE = (pl.exceptions.SchemaError, pl.exceptions.ColumnNotFoundError, pl.exceptions.ShapeError)
"""Errors of Polars if the files of one table have different columns."""

CONVERT = "import polars as pl; pl.read_csv('old.csv', encoding='latin-1').write_parquet('new.parquet')"
RULE = (
    "text must be UTF-8 with separators of one byte, plain or as .gz, and quotes within quoted fields doubled; "
    f'convert anything else, as in: python -c "{CONVERT}"'
)
"""Which text can be read, and how to convert other text."""
AGAIN = "download or copy it again: it may be cut off"
KINDS_READ = {
    **{"text": ("as text", RULE), "ndjson": ("as NDJSON", "write each event as a JSON object in a line of its own")},
    **{"ipc": ("as Arrow", AGAIN), "parquet": ("as Parquet", AGAIN), "iceberg": ("as a table of Iceberg", AGAIN)},
}
"""For messages, by kind: the format's name, and the remedy if a file cannot be read."""

ICEBERG = {
    **{"aws_endpoint_url": "s3.endpoint", "aws_region": "s3.region", "aws_session_token": "s3.session-token"},
    **{"aws_access_key_id": "s3.access-key-id", "aws_secret_access_key": "s3.secret-access-key"},
}
"""PyIceberg's names for the storage options of Polars."""

CLIENT = ("proxy_", "timeout", "connect_timeout", "allow_invalid_", "user_agent")
"""Prefixes of the options of the HTTP client; the others are the store's."""

DIGEST_ROWS = 100
"""Rows at each end of a table that identify it if the store has no ETag or time (``hf://``)."""

QUERY, URI = "data.log.query", "data.log.uri"


@dataclass(frozen=True)
class Source:
    """A table of a log.

    Attributes:
        name: its path, URL or pattern.
        kind: its format; ``folder``: all Parquet files below it are one table, with Hive partitions such as ``day=1``.
        options: storage options of its store (`LogMapping.storage_options`), secrets included.
        path: read in place of the name: the newest metadata of an Iceberg table, a copy of a query's rows.
        below: the folder in which the wildcard that found it begins: ``day=1`` in the path below is a column.
    """

    name: str
    kind: Kind
    options: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    path: str = ""
    below: str = field(default="", repr=False, compare=False)

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """A local file, of the kind that its name says."""
        return cls(str(path), kind_of_file(path.name))

    @property
    def place(self) -> str:
        """The path or URL to read."""
        return self.path or self.name

    @property
    def remote(self) -> bool:
        return "://" in self.place

    def __str__(self) -> str:
        """Its name, followed by its `identity` unless it is a local file or folder."""
        plain = not self.remote and self.kind not in ("delta", "iceberg") and self.name != QUERY
        return self.name if plain else f"{self.name} ({self.identity()})"

    def scan(self, ids: Collection[str] = ()) -> pl.LazyFrame:
        """A lazy frame of its rows; not for text. ``ids``: columns in which 007 and 1e3 in a path stay as they are."""
        options: Any = dict(self.options) or None
        if self.kind == "ndjson":
            return pl.scan_ndjson(glob.escape(self.place), infer_schema_length=None, storage_options=options)
        if self.kind == "ipc":
            return pl.scan_ipc(self.place, glob=False, storage_options=options)
        if self.kind == "delta":
            return pl.scan_delta(_delta(self), storage_options=options)
        if self.kind == "iceberg":
            return pl.scan_iceberg(_iceberg(self), storage_options=options)
        above = [os.path.relpath(self.place, self.below)] if self.below else []
        if self.kind != "folder":
            return hive.scan(self.place, above, None, ids, glob=False, storage_options=options)
        how: Any = {"glob": self.remote, "storage_options": options, "hidden_file_prefix": ["_", "."]}
        return hive.scan(self.place, [f"{path}/" for path in above], self._paths(), ids, **how)

    def identity(self) -> str:
        """Text that changes when its content does. At a store or lake the rows are not read, except at ``hf://``.

        The SHA-256 of local files; the version of a Delta table; the snapshot of an Iceberg table; at a store the
        ETag, else size and time. At ``hf://`` a digest of the schema, the number of rows, and the first and last ones.
        """
        with read_errors(self.name, self.options):
            if self.kind == "delta":
                table = _delta(self)
                return f"version {table.version()} of the Delta table {table.metadata().id}"
            if self.kind == "iceberg":
                metadata = _iceberg(self).metadata
                return f"snapshot {metadata.current_snapshot_id} of the Iceberg table {metadata.table_uuid}"
            if self.place.startswith("hf://"):
                rows = pl.scan_lines(self.place) if self.kind == "text" else self.scan()
                ends = [part.collect().write_json() for part in (rows.head(DIGEST_ROWS), rows.tail(DIGEST_ROWS))]
                return digest(str(rows.collect_schema()), rows.select(pl.len()).collect().item(), ends)
            if self.remote:
                if self.kind == "folder":
                    found = _objects(self.place, self.options)
                else:  # its name may contain wildcards
                    found = [package("obstore", "lakes").head(*_store(self.place, self.options))]
                if any(not one["e_tag"] and one["last_modified"].year <= 1970 for one in found):
                    what = "the server gives it neither an ETag nor a modification time, so changes would go unnoticed"
                    raise InputError(what, where=self.name, remedy="copy it to this machine, and name the copy")
                marks = {one["path"]: one["e_tag"] or f"{one['size']} {one['last_modified']}" for one in found}
                is_folder = self.kind == "folder"
                return f"{len(marks)} files, {digest(marks)[:16]}" if is_folder else " ".join(marks.values())
            if self.kind == "folder":
                return digest({str(one.relative_to(self.place)): sha256(one) for one in parquet_in(Path(self.place))})
            known = sha256(Path(self.place))
            return known if self.name != QUERY else f"rows {known[:16]}"

    def _paths(self) -> list[str]:
        """Paths of a folder's Parquet files, relative to it."""
        if not self.remote:
            return [file.relative_to(self.place).as_posix() for file in parquet_in(Path(self.place))]
        found = [] if self.place.startswith("hf://") else _objects(self.place, self.options)
        return [_below(self.place, one) for one in found]


def find(root: Path, entry: str, options: Mapping[str, str]) -> list[Source]:
    """Find the tables of an entry of ``log.files``; an empty list if there are none.

    A folder is a table of Delta Lake or Iceberg, else the Parquet in it and below; a wildcard gives files and such
    folders, sorted by name; ``**`` stands for any folders, and gives files only, as their folders would be read twice.
    A file whose name equals the entry takes precedence over a wildcard.
    """
    if "://" in entry:
        with read_errors(entry, options):
            return _at_store(entry.rstrip("/"), options)
    path = root / entry
    if path.is_dir():
        return _in_folder(path)
    if path.is_file() or not any(sign in entry for sign in "*?["):
        return [Source.of_file(path)] if path.is_file() else []
    matches: Iterable[Path] = map(Path, sorted(glob.glob(os.path.join(glob.escape(str(root)), entry), recursive=True)))
    if "**" in Path(entry).parts:
        matches = (path for path in matches if not path.is_dir())
    files = (_in_folder(path) if path.is_dir() else [Source.of_file(path)] for path in matches)
    below = str(root / re.split(r"[*?\[]", entry)[0].rpartition("/")[0])
    return [replace(source, below=below) for found in files for source in found]


def kind_of_file(name: str) -> Kind:
    """The format of a file, by its extension."""
    return "iceberg" if name.endswith(".metadata.json") else KINDS.get(Path(name.removesuffix(".gz")).suffix, "text")


def parquet_in(folder: Path) -> list[Path]:
    """The Parquet files in a folder and below, sorted, without names such as ``.x`` and ``_x``: unfinished writes."""
    found = ((file, file.relative_to(folder).parts) for file in sorted(folder.rglob("*.parquet")) if file.is_file())
    return [file for file, parts in found if not any(part.startswith(("_", ".")) for part in parts)]


def _in_folder(path: Path) -> list[Source]:
    if (path / "_delta_log").is_dir():
        return [Source(str(path), "delta")]
    if metadata := list((path / "metadata").glob("*.metadata.json*")):
        return [Source(str(path), "iceberg", path=_newest(map(str, metadata)))]
    files = parquet_in(path)
    if any("=" in folder for file in files for folder in file.relative_to(path).parts[:-1]):
        _refuse_hidden(str(path), [one.relative_to(path).as_posix() for one in path.rglob("*.parquet")])
        return [Source(str(path), "folder")]
    return [Source(str(file), "parquet") for file in files]


def _refuse_hidden(place: str, paths: Iterable[str]) -> None:
    """Refuse files in hidden folders, which Polars would read: they are unfinished or replaced."""
    if hidden := [path for path in paths if any(one.startswith(("_", ".")) for one in path.split("/")[:-1])]:
        what = f"Parquet in a hidden folder may be unfinished, or deleted from the table: {hidden[0]}"
        raise InputError(what, where=place, remedy="wait until it is written, move it away, or name the other folders")


def _newest(metadata: Iterable[str]) -> str:
    """The newest metadata file of an Iceberg table by its number: ``00002-....metadata.json``, ``v2....``."""
    return max(metadata, key=lambda name: int(next(iter(re.findall(r"\d+", os.path.basename(name))), 0)))


def _at_store(entry: str, options: Mapping[str, str]) -> list[Source]:
    kind, wild = kind_of_file(entry), any(sign in entry for sign in "*?[")
    is_file = kind != "text" or entry.removesuffix(".gz").endswith((".csv", ".tsv", ".txt"))
    if is_file and not wild:
        return [Source(entry, kind, options)]
    below = entry if kind == "parquet" else f"{entry}/**/*.parquet"
    if entry.startswith("hf://"):
        if is_file and kind != "parquet":
            raise InputError("wildcards at hf:// match Parquet files only", where=entry, remedy="name each file")
        return [Source(below, "folder")]
    if is_file and kind != "parquet":
        base = "/".join(entry.split("/")[:3])
        return [Source(f"{base}/{one['path']}", kind, options) for one in _objects(entry, options)]
    store, key = _store(entry, options)
    listed = package("obstore", "lakes").list_with_delimiter(store, key or None)["common_prefixes"]
    within = {folder.rpartition("/")[2] for folder in listed}
    if "_delta_log" in within:
        return [Source(entry, "delta", options)]
    if "metadata" in within and (found := _objects(f"{entry}/metadata/*.metadata.json*", options)):
        newest = _newest(os.path.basename(one["path"]) for one in found)
        return [Source(entry, "iceberg", options, f"{entry}/metadata/{newest}")]
    found = _objects(below, options)
    _refuse_hidden(below, [_below(below, one) for one in found])
    return [Source(below, "folder", options)] if found else []


def _store(url: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """The object store of a URL, and the URL's key in it."""
    base, key = "/".join(url.split("/")[:3]), "/".join(url.split("/")[3:])
    key = unquote(key) if base.startswith("http") else key
    stores = package("obstore.store", "lakes")
    client: dict[str, Any] = {"allow_http": True}
    config: dict[str, str] = {}
    for name, value in options.items():
        if "allow_http" not in name:
            (client if name.startswith(CLIENT) else config)[name] = value
    given: dict[str, Any] = {"client_options": client, "config": config}
    keyed = {name.lower() for name in (*options, *os.environ)} & {"aws_access_key_id", "aws_skip_signature"}
    if base.startswith("s3") and not keyed and find_spec("boto3"):  # as Polars: profiles, roles
        given["credential_provider"] = importlib.import_module("obstore.auth.boto3").Boto3CredentialProvider()
    return stores.from_url(base, **given), key


def _objects(url: str, options: Mapping[str, str]) -> list[Any]:
    """Metadata of a store's files that match a URL with wildcards, sorted by path."""
    (store, key), obstore = _store(url, options), package("obstore", "lakes")
    folder = re.split(r"[*?\[]", key)[0].rpartition("/")[0]
    found = (one for batch in obstore.list(store, folder or None) for one in batch)
    depth = None if "**" in key else key.count("/")  # a single * matches no slash
    matches = (one for one in found if fnmatchcase(one["path"], key.replace("**/", "*")))
    return sorted((one for one in matches if depth in (None, one["path"].count("/"))), key=lambda one: one["path"])


def _below(url: str, found: Any) -> str:
    """Path of a file of `_objects`, relative to the folder of the URL with wildcards."""
    folder = re.split(r"[*?\[]", "/".join(url.split("/")[3:]))[0].rpartition("/")[0]
    return str(found["path"]).removeprefix(f"{folder}/" if folder else "")


def _delta(source: Source) -> Any:
    return package("deltalake", "lakes").DeltaTable(source.place, storage_options=dict(source.options) or None)


def _iceberg(source: Source) -> Any:
    options = {ICEBERG.get(name, name): value for name, value in source.options.items()}
    return package("pyiceberg.table", "lakes").StaticTable.from_metadata(source.place, options)


def package(module: str, extra: str) -> Any:
    """Import a module of an optional package. Raises InputError, with the pip command, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"reading it needs the package {module.partition('.')[0]}"
        raise InputError(what, where="data.log", remedy=f"pip install 'recalign[{extra}]'") from error


@contextmanager
def read_errors(name: str, options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn errors of reading a table into an InputError that names it and holds no secrets."""
    try:
        yield
    except InputError:
        raise
    except pl.exceptions.NoDataError as error:
        raise InputError("the file is empty", where=name, remedy="name a file with rows") from error
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # of Polars or a driver, over a damaged file
        if not panic and not isinstance(error, Exception):
            raise
        broken = panic or isinstance(error, (pl.exceptions.PolarsError, OSError, EOFError, csv.Error))
        kind, remedy = KINDS_READ[kind_of_file(name)]
        unlike = isinstance(error, UNLIKE) and kind_of_file(name) != "ndjson"
        if name == URI:
            kind, remedy = "with this query", f"check {QUERY}, the address, the network and the password"
        elif unlike or os.path.isdir(name):
            kind, remedy = "as one table", "check that all its files are there, with the same columns and types"
        elif "://" in name:
            kind, remedy = "or reached", "check the address, the network, and the credentials as Polars reads them "
            remedy += "(AWS_..., GOOGLE_...), or copy it to this machine"
        elif not broken:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if kind_of_file(name) == "ndjson" and os.path.isfile(name):
            reason = f"{_broken_line(name)}{reason}"
        what, cause = f"cannot be read {kind}: {without_secrets(reason, options or {})}", None if options else error
        raise InputError(what, where=name, remedy=remedy) from cause


def _broken_line(file: str) -> str:
    """The number of the first line of NDJSON that is no JSON object, for a message; empty if there is none."""
    with (gzip.open if file.endswith(".gz") else open)(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                whole = not line.strip() or isinstance(json.loads(line), dict)
            except ValueError:
                whole = False
            if not whole:
                return f"line {number} is not a JSON object: "
    return ""


def files_named(pattern: str) -> list[Source]:
    """The tables that a path, URL or pattern on the command line names. Raises InputError if there is none."""
    refuse_secret(pattern, "table")
    if found := find(Path(), pattern, {}):
        return found
    there = [] if "://" in pattern else [one.name for one in Path(pattern).parent.glob("*")]
    raise InputError("there is no such file", where=pattern, remedy=did_you_mean(Path(pattern).name, there))
