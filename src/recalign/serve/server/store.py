"""Histories on disk: SQLite in WAL mode. Writing and reading have a thread each, so that no other request waits."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from recalign.errors import InputError
from recalign.serve.server.event import Deleted, Kept, Row, Taken
from recalign.serve.server.request import LONGEST
from recalign.serve.server.service import SECONDS, WAITING, Full

NUMBER, FORMAT = 0x7265_6361, 1
"""What SQLite notes in the file: whose it is, and of which format."""
PART = 10_000
"""Old events that are deleted at once; between two parts others may write."""
HOUR, DAY = 3600.0, 86_400.0
SOON, BRIEFLY = 5.0, 100
"""Seconds after which the log of writes is tried again; milliseconds that others wait while readers leave it."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, user TEXT NOT NULL, id TEXT NOT NULL, item NOT NULL, time INTEGER NOT NULL,
    reward REAL, received REAL NOT NULL, UNIQUE (user, id)
);
CREATE INDEX IF NOT EXISTS history ON events (user, time, number);
CREATE INDEX IF NOT EXISTS received ON events (received);
"""
T = TypeVar("T")


class Store:
    """The events of users, in a file that its owner alone may read.

    What `add` has returned from is on disk: a process that is killed, or a machine that loses power, keeps it.

    Args:
        file: made if there is none. Several servers of one machine may share it; on a network's disk it may not lie.
        days: events are deleted, and no longer read, once they have been here for as many; None: never.

    Attributes:
        behind: whether the log of writes may still hold what was deleted, as somebody else read it; `purge` empties it.

    Raises:
        InputError: the file is another one, or others than its owner may read it.
    """

    def __init__(self, file: Path, days: float | None = None) -> None:
        self.days, self.behind = days, False
        try:
            _require_private(file)
            self._writer, self._reader = (_connected(file) for _ in range(2))
            self._reader.execute("PRAGMA query_only = ON")
        except (OSError, sqlite3.Error) as error:
            remedy = "name a file of a store, or one that is not there yet, on a disk of this machine"
            raise InputError(f"no store can be opened here: {error}", where=str(file), remedy=remedy) from error

    def add(self, rows: Sequence[Row]) -> Taken:
        """Keep events, all or none."""
        now = time.time()
        insert = "INSERT INTO events (user, id, item, time, reward, received) VALUES (?, ?, ?, ?, ?, ?)"
        before = self._writer.total_changes
        with self._writer:
            self._writer.executemany(f"{insert} ON CONFLICT (user, id) DO NOTHING", [(*row, now) for row in rows])
        added = self._writer.total_changes - before
        return Taken(added, len(rows) - added)

    def history(self, user: str) -> list[Kept]:
        """A user's newest events, oldest first; of events at the same time, those first that came first."""
        chosen = "SELECT item, time, reward FROM events WHERE user = ? AND received >= ?"
        newest = f"{chosen} ORDER BY time DESC, number DESC LIMIT ?"
        return self._reader.execute(newest, (user, self._oldest(), LONGEST)).fetchall()[::-1]

    def delete(self, user: str) -> Deleted:
        """Forget a user. What was deleted is overwritten; in the log of writes by the next `purge`, if others read."""
        with self._writer:
            deleted = self._writer.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
        self._truncate()
        return Deleted(deleted)

    def purge(self) -> int:
        """Delete some events that have been here for too long; how many they were."""
        old = "SELECT number FROM events WHERE received < ? LIMIT ?"
        with self._writer:
            chosen = f"DELETE FROM events WHERE number IN ({old})"
            deleted = self._writer.execute(chosen, (self._oldest(), PART)).rowcount
        self._truncate()
        return deleted

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()

    def _truncate(self) -> None:
        """Empty the log of writes, unless somebody reads for long, as a backup does: others wait to write."""
        [(waiting,)] = self._writer.execute("PRAGMA busy_timeout").fetchall()
        self._writer.execute(f"PRAGMA busy_timeout = {BRIEFLY}")
        try:
            [(busy, *_)] = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.behind = bool(busy)
        finally:
            self._writer.execute(f"PRAGMA busy_timeout = {waiting}")

    def _oldest(self) -> float:
        return time.time() - self.days * DAY if self.days else 0.0


class Histories:
    """A store, for an event loop, which it never blocks.

    Raises:
        Full: (each of its methods) too many wait, or it takes too long.
        sqlite3.Error: (each of its methods) the disk is full, say.
    """

    def __init__(self, store: Store) -> None:
        self.store, self._waiting = store, 0
        self._reads, self._writes = ThreadPoolExecutor(1, "reads"), ThreadPoolExecutor(1, "writes")

    async def add(self, rows: Sequence[Row]) -> Taken:
        """`Store.add`."""
        return await self.within(self._writes, self.store.add, rows)

    async def of(self, user: str) -> list[Kept]:
        """`Store.history`."""
        return await self.within(self._reads, self.store.history, user)

    async def delete(self, user: str) -> Deleted:
        """`Store.delete`."""
        return await self.within(self._writes, self.store.delete, user)

    async def forget(self) -> None:
        """Delete what has been here for too long, at once and every hour, until cancelled.

        What is left of deleted events in the log of writes, as somebody read it, goes some seconds later.
        """
        loop, due = asyncio.get_running_loop(), 0.0
        while True:
            if self.store.behind or time.monotonic() >= due:
                due = time.monotonic() + HOUR
                try:
                    while await loop.run_in_executor(self._writes, self.store.purge) == PART:
                        pass
                except sqlite3.Error as error:
                    tell(error)
            await asyncio.sleep(SOON)

    def close(self) -> None:
        """Finish what was begun, and close the file."""
        for pool in (self._reads, self._writes):
            pool.shutdown()
        self.store.close()

    async def within(self, pool: ThreadPoolExecutor, function: Callable[[Any], T], given: Any) -> T:
        """Call a function in a pool, within the limits."""
        if self._waiting >= WAITING:
            raise Full
        self._waiting += 1
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(pool, function, given), SECONDS)
        except TimeoutError:
            raise Full from None
        finally:
            self._waiting -= 1


def tell(error: sqlite3.Error) -> None:
    """Say on stderr what is wrong. SQLite's own words hold no value of a row."""
    print(f"the store: {error}", file=sys.stderr, flush=True)


def _require_private(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        loose = os.fstat(descriptor).st_mode & 0o077
    finally:
        os.close(descriptor)
    if loose:
        raise InputError("others than its owner may read this store", where=str(file), remedy=f"chmod 600 {file}")


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=SECONDS / 2, check_same_thread=False)
    number, form, tables = (
        connection.execute(said).fetchone()[0]
        for said in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if number != NUMBER and (number or tables):
        raise InputError("a database of something else", where=str(file), remedy="name another file")
    if form > FORMAT:
        what = f"a store of format {form}, and this recalign reads {FORMAT}"
        raise InputError(what, where=str(file), remedy="install the recalign that wrote it")
    if not number:
        connection.executescript(f"PRAGMA application_id = {NUMBER}; PRAGMA user_version = {FORMAT};")
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")
    connection.executescript(SCHEMA)
    return connection
