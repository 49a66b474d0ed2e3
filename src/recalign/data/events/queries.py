"""Read a log's rows from a database by a query."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import polars as pl

from recalign.data.events.log import LogMapping
from recalign.data.events.sources import QUERY, URI, Source, package, read_errors
from recalign.errors import SECRETS, InputError
from recalign.files import digest


def ask(log: LogMapping) -> Source:
    """Run ``log.query`` and return its rows as a Parquet file, cached until the process ends.

    The process and its workers read the same file. The rows of a query without ORDER BY are sorted by their values, so
    that rows of one user at one time have a fixed order.

    Raises:
        InputError: the database fails (the message holds no secret), or rows have neither a time nor an ORDER BY.
    """
    query, uri = str(log.query), os.environ.get(str(log.uri), "")
    known = f"RECALIGN_ROWS_{digest(query, uri)[:16]}"  # workers inherit it
    if not Path(os.environ.get(known, "")).is_file():
        rows = _answer(query, uri)
        outside = re.sub(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", "", query, flags=re.DOTALL)
        while (inner := re.sub(r"\([^()]*\)", "", outside)) != outside:  # a subquery's order is not the result's
            outside = inner
        if not re.search(r"\border\s+by\b", outside, re.IGNORECASE):
            if log.timestamp is None:
                what = "the log has no time, and the query no ORDER BY: nothing tells in which order events happened"
                raise InputError(what, where=QUERY, remedy="add ORDER BY to the query, or set data.log.timestamp")
            rows = rows.sort([one.name for one in rows if not (one.dtype.is_nested() or one.dtype == pl.Binary)])
        os.environ[known] = os.path.join(_folder().name, f"{known}.parquet")
        rows.rechunk().write_parquet(os.environ[known])
    return Source(QUERY, "parquet", path=os.environ[known])


@cache
def _folder() -> TemporaryDirectory[str]:
    """A folder that only its owner can read, deleted when the process ends."""
    return TemporaryDirectory(prefix="recalign-rows-")


def _answer(query: str, uri: str) -> pl.DataFrame:
    if "://" not in uri:
        remedy = "a URI begins as in postgresql://; `recalign init --help` has an example"
        raise InputError("the variable does not hold a database's URI", where=URI, remedy=remedy)
    scheme = {"postgres": "postgresql"}.get(found := uri.partition(":")[0], found)
    driver = find_spec(f"adbc_driver_{scheme}") if scheme.isidentifier() else None
    if driver is None:
        package("connectorx", "databases")
    with read_errors(URI, {"uri": uri} | _passwords(uri)):
        rows = pl.read_database_uri(query, uri, engine="adbc" if driver else "connectorx")
        numeric = [one.name for one in rows if '"type_name": "numeric"' in str(one.dtype)]  # ADBC's type for PostgreSQL
        return rows.with_columns(pl.col(numeric).ext.storage().cast(pl.Float64))


def _passwords(uri: str) -> dict[str, str]:
    """The passwords in a URI, URL-encoded and decoded, to be hidden in messages."""
    found = re.findall(rf"//[^:/@]*:(.*)@|(?:{'|'.join(SECRETS)})[^=&;]*=([^&;]+)", uri, re.IGNORECASE)
    written = {one for pair in found for one in pair if one}
    return {f"password {n}": one for n, one in enumerate(written | {unquote(one) for one in written})}
