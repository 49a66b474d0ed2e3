"""Read the log of decisions as a table, and forget a user in it."""

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
"""Of what `recalign.serve.server.decisions.recorded` keeps, without ``items``, whose ids are integers or texts."""


@contextmanager
def reading(folder: Path, key: str | None) -> Iterator[DecisionLog]:
    """The log of a folder. One reader at a time: nobody is forgotten while a table of it is made. Servers go on.

    Args:
        folder: of a server's log.
        key: that the log has to have been written with; None: whichever.

    Raises:
        InputError: there is no log, it is of another key or damaged, or another process reads it.
    """
    if not (folder / FILE).is_file():
        remedy = "name the folder of `recalign serve BUNDLE --decisions FOLDER`"
        raise InputError("there are no decisions in this folder", where=str(folder), remedy=remedy)
    with locked(folder, "reading decisions", "wait until it has finished"), closing(DecisionLog(folder, key)) as log:
        try:
            yield log
        except sqlite3.DatabaseError as error:
            remedy = f"move it elsewhere, and read what is left by: sqlite3 {FILE} .recover"
            raise InputError(f"damaged: {error}", where=str(folder / FILE), remedy=remedy) from error


def read(log: DecisionLog) -> tuple[pl.DataFrame, int, int]:
    """All decisions, in the order of time, and how many records are damaged or missing; stderr names them."""
    decisions, damaged, gaps = log.read()
    missing = sum(last - first + 1 for first, last in gaps)
    for what, count, spans in (
        ("damaged records are left out", len(damaged), [(one, one) for one in damaged]),
        ("records are missing, which nobody deleted", missing, gaps),
    ):
        if spans:
            named = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in spans[:10])
            more = ", ..." * (len(spans) > 10)
            print(f"{log.file}: {count:,} {what}: numbers {named}{more}", file=sys.stderr)
    return table(decisions).sort("time", maintain_order=True), len(damaged), missing


def table(decisions: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Decisions as a table: `COLUMNS`, and ``items``, which are texts if any of them is one."""
    items = [item for one in decisions for item in one["items"]]
    if any(isinstance(item, str) for item in items):
        kind: Any = pl.String
        decisions = [{**one, "items": [str(item) for item in one["items"]]} for one in decisions]
    else:
        kind = pl.UInt64 if max(items, default=0) >= 2**63 else pl.Int64
    return pl.DataFrame(decisions, schema={**COLUMNS, "items": pl.List(kind)})


def forget(folder: Path, user: str, key: str, *tables: Path) -> int:
    """Erase a user's records, and return how many there were.

    Args:
        folder: of a server's log.
        user: the raw id.
        key: that the log has to have been written with: under another one nobody would be found, and nothing erased.
        *tables: Parquet files with a column ``user``, where they are there.

    Raises:
        InputError: there is no log, it is of another key or damaged.
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
