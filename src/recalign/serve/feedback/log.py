"""Read the decision log as a table, and erase a user from it."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from recalign.errors import InputError
from recalign.seals import require_digest, write_with_digest
from recalign.serve.server.decisions import FILE, DecisionLog, pseudonym
from recalign.workers import locked

COLUMNS: dict[str, Any] = {
    "time": pl.Int64, "decision": pl.String, "user": pl.String, "version": pl.String, "k": pl.Int64,
    "seen": pl.String, "hidden": pl.Int64, "blocked": pl.Int64, "allowed": pl.Int64, "boosts": pl.Int64,
    "arm": pl.String, "chance": pl.Float64, "temperature": pl.Float64, "fixed": pl.Int64, "seed": pl.Int64,
    "ranked": pl.Int64, "log_probs": pl.List(pl.Float64),
}  # fmt: skip
"""Fields of `recalign.serve.server.decisions.decision_record` except ``items``: ids are integers or texts."""


@contextmanager
def reading(folder: Path, key: str | None) -> Iterator[DecisionLog]:
    """Open the decision log of a folder, for one reader at a time: no user is erased meanwhile. Servers keep writing.

    Args:
        folder: the server's ``--decisions`` folder.
        key: the key that the log must have been written with; None: any.

    Raises:
        InputError: there is no log, it has another key or is damaged, or another process reads it.
    """
    if not (folder / FILE).is_file():
        remedy = "name the folder of `recalign serve BUNDLE --decisions FOLDER`"
        raise InputError("there are no decisions in this folder", where=str(folder), remedy=remedy)
    with locked(folder, "reading decisions", "wait until it has finished"), closing(DecisionLog(folder, key)) as log:
        try:
            yield log
        except sqlite3.DatabaseError as error:
            remedy = f"move it elsewhere, and read what is left by: sqlite3 {FILE} .recover"
            raise InputError(f"it is damaged: {error}", where=str(folder / FILE), remedy=remedy) from error


def read(log: DecisionLog) -> tuple[pl.DataFrame, int, int]:
    """All decisions by time, and the numbers of damaged and of missing records, which are listed on stderr."""
    decisions, damaged, gaps = log.read()
    missing = sum(last - first + 1 for first, last in gaps)
    for what, count, spans in (
        ("damaged records are left out", len(damaged), [(one, one) for one in damaged]),
        ("records are missing, but were not deleted", missing, gaps),
    ):
        if spans:
            named = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans[:10])
            more = ", ..." * (len(spans) > 10)
            print(f"{log.file}: {count:,} {what}: numbers {named}{more}", file=sys.stderr)
    return table(decisions).sort("time", maintain_order=True), len(damaged), missing


def table(decisions: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Decisions as a table: `COLUMNS`, and ``items``, all texts if any of them is a text."""
    items = [item for one in decisions for item in one["items"]]
    if any(isinstance(item, str) for item in items):
        kind: Any = pl.String
        decisions = [{**one, "items": [str(item) for item in one["items"]]} for one in decisions]
    else:
        kind = pl.UInt64 if max(items, default=0) >= 2**63 else pl.Int64
    return pl.DataFrame(decisions, schema={**COLUMNS, "items": pl.List(kind)})


def forget(folder: Path, user: str, key: str, *tables: Path) -> int:
    """Erase a user from the log and from tables; return how many records and rows were erased.

    Args:
        folder: the server's ``--decisions`` folder.
        user: the raw id.
        key: the key that the log was written with; with another key, the user's pseudonym would not be found.
        *tables: Parquet files with a column ``user``; missing files are skipped.

    Raises:
        InputError: there is no log, it has another key or is damaged, or a table is not what was written.
    """
    name = pseudonym(key, user)
    with reading(folder, key) as log:
        erased = log.delete(name)
        for path in tables:
            if path.is_file():
                require_digest(path)
                frame = pl.read_parquet(path, glob=False)
                left = frame.filter(pl.col("user") != name)
                erased += frame.height - left.height
                with write_with_digest(path) as temporary:
                    left.write_parquet(temporary)
    return erased
