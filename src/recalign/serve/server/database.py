"""SQLite files that their owner alone may read, whose rows go after some days."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recalign.errors import InputError

HOUR, DAY = 3600.0, 86_400.0
PURGED_ROWS = 10_000
"""Old rows that are deleted at once; between two parts others may write."""
RETRY = 5.0
"""Seconds after which the log of writes is tried again."""
CHECKPOINT_WAIT = 100
"""Milliseconds for which a checkpoint waits for readers."""


class Database:
    """A SQLite file in WAL mode. What is committed is on disk: a process that is killed, or a machine that loses
    power, keeps it.

    Args:
        file: made if there is none. Several servers of one machine may share it; it may not lie on a network's disk.
        number: what SQLite notes in the file, so that no other database is taken for one.
        table: whose rows have the time at which they were ``received``, in seconds since 1970.
        schema: of the tables.
        days: rows are deleted once they have been here for as many; None: never.

    Attributes:
        lock: held while a thread uses the connection: SQLite crashes the process where another one closes it meanwhile.
        behind: whether the log of writes may still hold what was deleted, as somebody else read it; `purge` empties it.

    Raises:
        InputError: the file is another one, or others than its owner may read it.
    """

    format = 1

    def __init__(self, file: Path, number: int, table: str, schema: str, days: float | None) -> None:
        self.file, self.number, self.table, self.schema, self.days = file, number, table, schema, days
        self.lock, self.behind = threading.RLock(), False
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            if file.stat().st_mode & 0o077:
                what = "others than its owner may read this file"
                raise InputError(what, where=str(file), remedy=f"chmod 600 {file}")
            self.connection = self.connect()
        except (OSError, sqlite3.Error) as error:
            remedy = "move it away, or name another file, on a disk of this machine"
            raise InputError(f"damaged, or it cannot be opened: {error}", where=str(file), remedy=remedy) from error

    def connect(self) -> sqlite3.Connection:
        """Open the file, whose tables are made if there are none."""
        connection = sqlite3.connect(self.file, timeout=5.0, check_same_thread=False)
        number, form, tables = (
            connection.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if number != self.number and (number or tables):
            raise InputError("a database of something else", where=str(self.file), remedy="name another file")
        if number and form != self.format:
            what = f"its format is {form}, and this recalign reads {self.format}"
            raise InputError(what, where=str(self.file), remedy="install the recalign that wrote it, or move it away")
        if not number:
            connection.executescript(f"PRAGMA application_id = {self.number}; PRAGMA user_version = {self.format};")
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")
        connection.executescript(self.schema)
        return connection

    def oldest(self) -> float:
        """The time before which rows are too old."""
        return time.time() - self.days * DAY if self.days else 0.0

    def delete(self, user: str) -> int:
        """Delete a user's rows; return how many. They are overwritten; in the log of writes by the next `purge`, if
        others read."""
        return self._deleted("user = ?", user)

    def purge(self) -> int:
        """Delete some rows that are too old; how many these were."""
        old = f"SELECT number FROM {self.table} WHERE received < ? LIMIT ?"
        return self._deleted(f"number IN ({old})", self.oldest(), PURGED_ROWS)

    def _deleted(self, chosen: str, *values: object) -> int:
        with self.lock:
            with self.connection:
                rows = self.connection.execute(f"DELETE FROM {self.table} WHERE {chosen} RETURNING number", values)
                numbers = sorted(number for (number,) in rows)
                self.note_deleted(numbers)
            self._checkpoint()
        return len(numbers)

    def note_deleted(self, numbers: list[int]) -> None:
        """Is called with the numbers of rows before their deletion is committed."""

    def _checkpoint(self) -> None:
        """Empty the log of writes, unless somebody reads for long, as a backup does: others wait to write."""
        [(waiting,)] = self.connection.execute("PRAGMA busy_timeout").fetchall()
        self.connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT}")
        try:
            [(busy, *_)] = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.behind = bool(busy)
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {waiting}")

    async def purge_hourly(self, thread: ThreadPoolExecutor | None) -> None:
        """Delete what is too old, at once and every hour, until cancelled; in a thread, None: one of the event loop's.

        What is left of deleted rows in the log of writes, as somebody read it, goes some seconds later.
        """
        loop, due = asyncio.get_running_loop(), 0.0
        while True:
            if self.behind or time.monotonic() >= due:
                due = time.monotonic() + HOUR
                try:
                    while await loop.run_in_executor(thread, self.purge) == PURGED_ROWS:
                        pass
                except sqlite3.Error as error:
                    print(f"{self.file}: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(RETRY)

    def close(self) -> None:
        """Close the file, once no thread uses it; who uses it afterwards gets `sqlite3.ProgrammingError`."""
        with self.lock:
            self.connection.close()
