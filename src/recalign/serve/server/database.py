"""SQLite files that only their owner may read; rows are deleted after some days."""

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
"""Old rows to delete per transaction; other writers may run in between."""
RETRY = 5.0
"""Seconds after which a failed checkpoint is tried again."""
CHECKPOINT_WAIT = 100
"""Milliseconds for which a checkpoint waits for readers."""


class Database:
    """A SQLite file in WAL mode. Commits are on disk: they survive a killed process and a power failure.

    Args:
        file: created if absent. Several servers of one machine may share it; not on a network file system.
        number: SQLite's ``application_id``, which tells the file from other databases.
        table: the table to purge; its column ``received`` is in seconds since 1970.
        schema: SQL that creates the tables.
        days: age at which rows are deleted; None: never.

    Attributes:
        lock: held while a thread uses the connection: if another thread closed it meanwhile, SQLite would crash the
            process.
        behind: whether the WAL may still hold deleted rows, because a reader blocked its checkpoint; `purge` retries.

    Raises:
        InputError: the file is something else, or users other than its owner may read it.
    """

    format = 1

    def __init__(self, file: Path, number: int, table: str, schema: str, days: float | None) -> None:
        self.file, self.number, self.table, self.schema, self.days = file, number, table, schema, days
        self.lock, self.behind = threading.RLock(), False
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            if file.stat().st_mode & 0o077:
                what = "users other than its owner have access to this file"
                raise InputError(what, where=str(file), remedy=f"chmod 600 {file}")
            self.connection = self.connect()
        except (OSError, sqlite3.Error) as error:
            remedy = "move it away, or name another file, on a disk of this machine"
            raise InputError(f"is damaged, or cannot be opened: {error}", where=str(file), remedy=remedy) from error

    def connect(self) -> sqlite3.Connection:
        """Open the file, and create missing tables."""
        connection = sqlite3.connect(self.file, timeout=5.0, check_same_thread=False)
        number, form, tables = (
            connection.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if number != self.number and (number or tables):
            raise InputError(f"is not a database of {self.table}", where=str(self.file), remedy="name another file")
        if number and form != self.format:
            what = f"its format is {form}, and this recalign reads {self.format}"
            raise InputError(what, where=str(self.file), remedy="install the recalign that wrote it, or move it away")
        if not number:
            connection.executescript(f"PRAGMA application_id = {self.number}; PRAGMA user_version = {self.format};")
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")
        connection.executescript(self.schema)
        return connection

    def oldest(self) -> float:
        """Rows received before this time, in seconds since 1970, are too old."""
        return time.time() - self.days * DAY if self.days else 0.0

    def delete(self, user: str) -> int:
        """Delete a user's rows, and return how many. They are overwritten on disk; in the WAL by the next `purge`, if a
        reader blocks the checkpoint."""
        return self._deleted("user = ?", user)

    def purge(self) -> int:
        """Delete up to `PURGED_ROWS` rows that are too old, and return how many."""
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
        """Hook, called with the numbers of deleted rows before the commit."""

    def _checkpoint(self) -> None:
        """Truncate the WAL. Gives up soon if a reader, such as a backup, blocks it: writers wait meanwhile."""
        [(waiting,)] = self.connection.execute("PRAGMA busy_timeout").fetchall()
        self.connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT}")
        try:
            [(busy, *_)] = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.behind = bool(busy)
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {waiting}")

    async def purge_hourly(self, thread: ThreadPoolExecutor | None) -> None:
        """Delete rows that are too old, now and every hour, until cancelled.

        Runs in ``thread``; None: the event loop's pool. A blocked checkpoint is retried every `RETRY` seconds.
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
        """Close the file, once no thread uses it. Later uses raise `sqlite3.ProgrammingError`."""
        with self.lock:
            self.connection.close()
