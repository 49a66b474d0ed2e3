"""The log of decisions: what was shown to whom, with which chance; on disk before it is shown.

A thread writes whatever waits as one group, and never waits for more. `recalign feedback` reads the log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from recalign.errors import InputError
from recalign.serve.server.answer import Answer, Explored
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.database import Database
from recalign.serve.server.request import Id, Request
from recalign.serve.server.service import Batcher

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


def pseudonym(key: str, user: str) -> str:
    """HMAC-SHA256 of a user's id, 128 bits of it in hex: without the key nobody can tell whose it is."""
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def decision_record(user: str, encoded: Encoded, answer: Answer) -> dict[str, Any]:
    """What is kept of an answer to a user, who is named by a pseudonym: no history and no raw user id.

    ``time`` is in microseconds since 1970; ``hidden``, ``blocked``, ``allowed`` (None: all) and ``boosts`` are how many
    there were. What `recalign.serve.server.answer.Explored` holds is None where the request did not explore.
    """
    request = encoded.request
    return {
        "time": time.time_ns() // 1000,
        "decision": answer.decision,
        "user": user,
        "version": answer.version,
        "k": request.k,
        "seen": request.seen,
        "hidden": len(encoded.hidden_S),
        "blocked": len(request.block),
        "allowed": None if encoded.allow_N is None else int(encoded.allow_N.sum()),
        "boosts": len(request.boost),
        "items": [one.item for one in answer.items],
        **{one.name: getattr(answer.explored, one.name, None) for one in fields(Explored)},
    }


class DecisionLog(Database):
    """The file of a log of decisions.

    Args:
        folder: made if it is not there; its owner's alone.
        key: of the users' pseudonyms; None: whichever the log has, to read it.
        days: as of `Database`.

    Raises:
        InputError: as `Database`, or another key has written in it.
    """

    def __init__(self, folder: Path, key: str | None, days: float | None = None) -> None:
        self._key = key and hashlib.sha256(b"recalign decisions key " + key.encode()).hexdigest()[:16]
        super().__init__(folder / FILE, APPLICATION, "decisions", SCHEMA, days)

    def connect(self) -> sqlite3.Connection:
        """Open the file, and store the digest of its key, or compare the key with the stored digest."""
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

    def append(self, decisions: Sequence[Mapping[str, Any]]) -> None:
        """Write what `recorded` makes, all or none; it is on disk then."""
        now = time.time()
        records = [(one["user"], json.dumps(one, separators=(",", ":"))) for one in decisions]
        rows = [(now, *one, checksum(*(text.encode() for text in one))) for one in records]
        with self.lock, self.connection:
            self.connection.executemany("INSERT INTO decisions (received, user, record, crc) VALUES (?, ?, ?, ?)", rows)

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
    """CRC-32 of a user and record, by which damage is detected."""
    return zlib.crc32(user + record)


class Decisions:
    """A log of decisions, for an event loop, which it never blocks.

    Args:
        folder, key, days: as of `DecisionLog`.

    Attributes:
        failing: whether the last write failed.
    """

    def __init__(self, folder: Path, key: str, days: float | None = None) -> None:
        self.log, self.key, self.failing = DecisionLog(folder, key, days), key, False
        self._batcher = Batcher[dict[str, Any], None](self._write, "decisions")
        self._resume = 0.0

    async def keep(self, user: Id, encoded: Encoded, answer: Answer) -> Answer:
        """Log a decision. Returns: the answer with the decision's id, once that is on disk.

        Raises:
            OSError: it is not.
            Full: it takes too long, or too many wait, those that were given up among them.
        """
        named = replace(answer, decision=secrets.token_hex(16))
        await self._batcher.ask(decision_record(pseudonym(self.key, str(user)), encoded, named))
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
        """Delete what is too old, until cancelled."""
        await self.log.purge_hourly(self._batcher.pool)

    def close(self) -> None:
        """Finish what was begun."""
        self._batcher.pool.shutdown()
        self.log.close()

    def _write(self, decisions: list[dict[str, Any]]) -> list[None]:
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
