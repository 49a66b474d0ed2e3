"""Users' histories on disk. One thread writes and one reads, so that the event loop never blocks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from recalign.serve.server.answer import Deleted, Taken
from recalign.serve.server.catalogue import Catalogue, fine_times, of_micro
from recalign.serve.server.database import Database
from recalign.serve.server.request import MAX_HISTORY, Event, Id, Request
from recalign.serve.server.service import MAX_WAITING, TIMEOUT, Full

APPLICATION = 0x7265_6361
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, user TEXT NOT NULL, id TEXT NOT NULL, item NOT NULL, time INTEGER NOT NULL,
    reward REAL, received REAL NOT NULL, UNIQUE (user, id)
);
CREATE INDEX IF NOT EXISTS history ON events (user, time, number);
CREATE INDEX IF NOT EXISTS received ON events (received);
"""
EventRow = tuple[Any, Any, Id, int, float | None]
"""A row of the table of events: user, id, item, microseconds since 1970, reward."""
StoredEvent = tuple[Id, int, float | None]
"""An event of a history: item, microseconds since 1970, reward."""
ALWAYS = 2**63 - 1
"""A time after all events: the largest integer of SQLite."""
T = TypeVar("T")


class Store(Database):
    """The events of users.

    Args:
        file, days: as in `Database`. Events that are too old are not read either.
    """

    def __init__(self, file: Path, days: float | None = None) -> None:
        super().__init__(file, APPLICATION, "events", SCHEMA, days)
        self._reader, self._reading = self.connect(), threading.Lock()
        self._reader.execute("PRAGMA query_only = ON")

    def add(self, rows: Sequence[EventRow]) -> Taken:
        """Store events, all or none; skip ids that their user already has."""
        insert = "INSERT INTO events (user, id, item, time, reward, received) VALUES (?, ?, ?, ?, ?, ?)"
        now = time.time()
        with self.lock, self.connection as connection:
            before = connection.total_changes
            connection.executemany(f"{insert} ON CONFLICT (user, id) DO NOTHING", [(*row, now) for row in rows])
            added = connection.total_changes - before
        return Taken(added, len(rows) - added)

    def history(self, user: str, until: int = ALWAYS) -> list[StoredEvent]:
        """A user's newest events until a time (microseconds since 1970), oldest first; at one time, as they arrived."""
        chosen = "SELECT item, time, reward FROM events WHERE user = ? AND time <= ? AND received >= ?"
        newest = f"{chosen} ORDER BY time DESC, number DESC LIMIT ?"
        with self._reading:
            return self._reader.execute(newest, (user, until, self.oldest(), MAX_HISTORY)).fetchall()[::-1]

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        super().close()


class AsyncStore:
    """A store for an event loop, which it never blocks.

    Methods raise `Full` if too many calls wait or one times out, and `sqlite3.Error`, for example if the disk is full.
    """

    def __init__(self, store: Store) -> None:
        self.store, self._waiting = store, 0
        self._reads, self._writes = ThreadPoolExecutor(1, "reads"), ThreadPoolExecutor(1, "writes")

    async def add(self, rows: Sequence[EventRow]) -> Taken:
        """`Store.add`."""
        return await self._within(self._writes, self.store.add, rows)

    async def history(self, user: str, until: int) -> list[StoredEvent]:
        """`Store.history`."""
        return await self._within(self._reads, self.store.history, user, until)

    async def delete(self, user: str) -> Deleted:
        """`Store.delete`."""
        return Deleted(await self._within(self._writes, self.store.delete, user))

    async def run(self) -> None:
        """Delete events that are too old, until cancelled."""
        await self.store.purge_hourly(self._writes)

    def close(self) -> None:
        """Finish queued calls, and close the file."""
        for thread in (self._reads, self._writes):
            thread.shutdown()
        self.store.close()

    async def _within(self, thread: ThreadPoolExecutor, function: Callable[..., T], *given: Any) -> T:
        if self._waiting >= MAX_WAITING:
            raise Full
        self._waiting += 1
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(thread, function, *given), TIMEOUT)
        except TimeoutError:
            raise Full from None
        finally:
            self._waiting -= 1


def rows_of(events: Sequence[Event], catalogue: Catalogue) -> list[EventRow]:
    """Events as rows of the table.

    Raises:
        InputError: one of them cannot be stored; says which, and a remedy.
    """
    catalogue.numbers("events", [event.item for event in events])  # refuses ids of the wrong type
    times = fine_times([one.time for one in events], catalogue.about.time_unit, lambda place: f"events[{place}].time")
    return [(one.user, one.id, one.item, time, one.reward) for one, time in zip(events, times.tolist(), strict=True)]


def latest(request: Request, unit: str) -> int:
    """The time of a request in microseconds since 1970; `ALWAYS` if it has none.

    Raises:
        InputError: it is not a time.
    """
    return ALWAYS if request.time is None else int(fine_times([request.time], unit, lambda _: "time")[0])


def with_history(request: Request, kept: Sequence[StoredEvent], unit: str) -> Request:
    """Replace a request's user by that user's stored history."""
    items, times = [item for item, _, _ in kept], [of_micro(time, unit) for _, time, _ in kept]
    return replace(request, user=None, items=items, times=times, rewards=[reward for _, _, reward in kept])
