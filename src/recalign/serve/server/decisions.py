"""The log of decisions: what was shown to whom, with which chance; on disk before it is shown.

A thread writes whatever waits as one group, and never waits for more. `recalign feedback` reads the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import sqlite3
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recalign.errors import InputError
from recalign.serve.server.answer import Answer
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.database import Database
from recalign.serve.server.request import Id, Request
from recalign.serve.server.service import MAX_WAITING, Batcher

FILE = "decisions.sqlite"
APPLICATION = 0x7265_6364
SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY, received REAL NOT NULL, user TEXT NOT NULL, record TEXT NOT NULL, crc INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS received ON decisions (received);
CREATE TABLE IF NOT EXISTS key (name TEXT NOT NULL);
"""
PAUSE = 10.0
"""Seconds after a failed write in which none is tried."""
Answering = Callable[[Request], Awaitable[tuple[Encoded, Answer]]]


@dataclass(frozen=True)
class Decision:
    """What is kept of an answer to a request that names a user. No history and no raw user id.

    Attributes:
        time: microseconds since 1970.
        decision: its id, as the answer has it.
        user: `pseudonym`.
        version: of the bundle.
        k, seen: what was asked for.
        hidden, blocked, allowed, boosts: how many items were hidden (seen or blocked), blocked, allowed (null: all),
            and how many boosts there were.
        items: in order.
        arm, chance, temperature, fixed, seed, ranked, log_probs: of `recalign.serve.server.answer.Explored`; null where
            the request did not explore.
    """

    time: int
    decision: str
    user: str
    version: str
    k: int
    seen: str
    hidden: int
    blocked: int
    allowed: int | None
    boosts: int
    items: list[Id]
    arm: str | None = None
    chance: float | None = None
    temperature: float | None = None
    fixed: int | None = None
    seed: int | None = None
    ranked: int | None = None
    log_probs: list[float] | None = None


def pseudonym(key: str, user: str) -> str:
    """HMAC-SHA256 of a user's id, 128 bits of it in hex: without the key nobody can tell whose it is."""
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def recorded(user: str, encoded: Encoded, answer: Answer) -> Decision:
    """What is kept of an answer to a user, who is named by a pseudonym."""
    request, explored = encoded.request, answer.explored
    return Decision(
        time=time.time_ns() // 1000,
        decision=answer.decision or "",
        user=user,
        version=answer.version,
        k=request.k,
        seen=request.seen,
        hidden=len(encoded.hidden_S),
        blocked=len(request.block),
        allowed=None if encoded.allow_N is None else int(encoded.allow_N.sum()),
        boosts=len(request.boost),
        items=[one.item for one in answer.items],
        **(vars(explored) if explored else {}),
    )


class DecisionLog(Database):
    """The file of a log of decisions.

    Args:
        folder: made if it is not there; its owner's alone.
        key: of the users' pseudonyms; None: whichever the log has, to read it.
        days: as of `Database`.

    Raises:
        InputError: the folder cannot be used, or another key has written in it.
    """

    def __init__(self, folder: Path, key: str | None, days: float | None = None) -> None:
        _require_private(folder)
        self._key = key and hashlib.sha256(b"recalign decisions key " + key.encode()).hexdigest()[:16]
        super().__init__(folder / FILE, APPLICATION, "decisions", SCHEMA, days)

    def connect(self) -> sqlite3.Connection:
        """Open the file, and note or compare what names its key without telling it."""
        connection = super().connect()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            known = connection.execute("SELECT name FROM key").fetchone()
            if self._key and known is None:
                connection.execute("INSERT INTO key VALUES (?)", (self._key,))
        if self._key and known and known != (self._key,):
            connection.close()
            remedy = "give the key that they were written with, or move the file into a folder of its own"
            raise InputError("these decisions were written with another key", where=str(self.file), remedy=remedy)
        return connection

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write decisions, all or none; they are on disk then."""
        now = time.time()
        records = [(one.user, json.dumps(asdict(one), separators=(",", ":"))) for one in decisions]
        rows = [(now, *one, checksum(*(text.encode() for text in one))) for one in records]
        with self.lock, self.connection:
            insert = "INSERT INTO decisions (received, user, record, crc) VALUES (?, ?, ?, ?)"
            self.connection.executemany(insert, rows)

    def read(self) -> tuple[list[dict[str, Any]], list[int]]:
        """All decisions, as mappings, in the order in which they came, and the numbers of records that are damaged."""
        found, damaged = list[dict[str, Any]](), list[int]()
        query = "SELECT number, CAST(user AS BLOB), CAST(record AS BLOB), crc FROM decisions ORDER BY number"
        with self.lock:
            for number, user, record, crc in self.connection.execute(query):
                if crc == checksum(user, record):
                    found.append(json.loads(record))
                else:
                    damaged.append(number)
        return found, damaged


def checksum(user: bytes, record: bytes) -> int:
    """By which a damaged record is known."""
    return zlib.crc32(user + record)


def _require_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        loose = folder.stat().st_mode & 0o077
    except OSError as error:
        what, remedy = f"no decisions can be kept here: {error.strerror}", "name a folder that can be written"
        raise InputError(what, where=str(folder), remedy=remedy) from error
    if loose:
        what = "others than its owner may read this folder"
        raise InputError(what, where=str(folder), remedy=f"chmod 700 {folder}")


class Decisions:
    """A log of decisions, for an event loop, which it never blocks. A damaged file is set aside, and another begun.

    Args:
        folder, key, days: as of `DecisionLog`.

    Attributes:
        failing: whether the last write failed.
    """

    def __init__(self, folder: Path, key: str, days: float | None = None) -> None:
        try:
            self.log = DecisionLog(folder, key, days)
        except InputError as error:
            if type(error.__cause__) is not sqlite3.DatabaseError:
                raise
            aside = f"{FILE}.damaged-{time.time_ns()}"
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    (folder / (FILE + suffix)).rename(folder / (aside + suffix))
            print(f"{folder / FILE}: damaged, and is now {aside}: {error.__cause__}", file=sys.stderr, flush=True)
            self.log = DecisionLog(folder, key, days)
        self.key, self.failing = key, False
        self._batcher = Batcher[Decision, None](self._write, MAX_WAITING, "decisions")
        self._resume = 0.0

    async def keep(self, user: Id, encoded: Encoded, answer: Answer) -> Answer:
        """Log a decision. Returns: the answer with the decision's id, once that is on disk.

        Raises:
            OSError: it is not.
            Full: it takes too long, or too many wait, those that were given up among them.
        """
        named = replace(answer, decision=secrets.token_hex(16))
        await self._batcher.ask(recorded(pseudonym(self.key, str(user)), encoded, named))
        return named

    async def answer(self, request: Request, answered: Answering) -> Answer:
        """An answer that is logged, if the request names a user. Where that fails, it is a ranked one, not logged."""
        if self.failing:
            request = replace(request, explore=None)
        encoded, answer = await answered(request)
        if request.user is None:
            return answer
        try:
            return await self.keep(request.user, encoded, answer)
        except OSError:  # the thread has said why
            return (await answered(replace(request, explore=None)))[1] if request.explore else answer

    async def run(self) -> None:
        """Write what waits, and delete what is too old, until cancelled."""
        await asyncio.gather(self._batcher.run(), self.log.purge_hourly(self._batcher.thread))

    def close(self) -> None:
        """Finish what was begun."""
        self._batcher.thread.shutdown()
        self.log.close()

    def _write(self, decisions: list[Decision]) -> list[None]:
        if time.monotonic() < self._resume:
            raise OSError("a write failed a moment ago")
        try:
            self.log.append(decisions)
        except sqlite3.Error as error:
            self._resume = time.monotonic() + PAUSE
            self._say(True, f"cannot be written ({error}): answers go on without exploration")
            raise OSError(str(error)) from error
        self._say(False, "is written again")
        return [None] * len(decisions)

    def _say(self, failing: bool, what: str) -> None:
        if failing != self.failing:
            self.failing = failing
            print(f"the log of decisions {what}", file=sys.stderr, flush=True)
