"""The log of decisions: what was shown to whom, with which probability; on disk before it is shown.

A thread writes each batch of answers in one transaction. `recalign feedback` reads the log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic_core import to_json
from typing_extensions import TypedDict

from recalign.errors import InputError
from recalign.serve.server.answer import Answer, Explored
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.database import Database
from recalign.serve.server.service import Asked

FILE = "decisions.sqlite"
APPLICATION = 0x7265_6364
SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, received REAL NOT NULL, user TEXT NOT NULL, record TEXT NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS deleted (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS received ON decisions (received);
CREATE TABLE IF NOT EXISTS key (name TEXT NOT NULL);
"""
SPANS = "SELECT CAST(first AS INTEGER), CAST(last AS INTEGER) FROM deleted"
PAUSE = 10.0
"""Seconds without writes after one that failed."""
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def pseudonym(key: str, user: str) -> str:
    """The first 128 bits of the HMAC-SHA256 of a user's id, in hex: without the key nobody can tell whose it is."""
    return hmac.digest(key.encode(), user.encode(), "sha256").hex()[:32]


def decision_record(user: str, encoded: Encoded, answer: Answer) -> dict[str, Any]:
    """The record of an answer to a user. It holds a pseudonym, ``user``, but no raw user id and no history.

    ``time`` is in microseconds since 1970; ``hidden``, ``blocked``, ``allowed`` (None: all) and ``boosts`` are counts.
    The fields of `recalign.serve.server.answer.Explored` are None if the request did not explore.
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


class Decision(TypedDict):
    """A record read from the log; see `decision_record`."""

    time: Integer
    decision: str
    user: str
    version: str
    k: Integer
    seen: str
    hidden: Integer
    blocked: Integer
    allowed: Integer | None
    boosts: Integer
    items: list[Annotated[int, Field(ge=-(2**63), lt=2**64)] | str]
    arm: Literal["explored", "ranked"] | None
    chance: float | None
    temperature: float | None
    fixed: Integer | None
    seed: Integer | None
    ranked: Integer | None
    log_probs: list[Annotated[float, Field(le=0)]] | None


READ = TypeAdapter(Decision)


class DecisionLog(Database):
    """The file of a log of decisions.

    Numbers of records have no gaps, except for deleted records; the table ``deleted`` has their numbers.

    Args:
        folder: created if absent, for its owner only.
        key: of the users' pseudonyms; None: only read, whichever key the log has.
        days: as in `Database`.

    Raises:
        InputError: as in `Database`, or the log was written with another key.
    """

    format = 2

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
        """Write records of `decision_record` to disk, all or none."""
        now = time.time()
        records = [(one["user"], to_json(one)) for one in decisions]
        rows = [(now, user, record.decode(), checksum(now, user.encode(), record)) for user, record in records]
        insert = f"INSERT INTO decisions (received, user, record, crc) VALUES {', '.join(['(?, ?, ?, ?)'] * len(rows))}"
        with self.lock, self.connection:  # one statement: after each, this thread waits for the GIL
            self.connection.execute(insert, [value for row in rows for value in row])

    def read(self) -> tuple[list[Decision], list[int], list[tuple[int, int]]]:
        """All decisions in order of arrival; numbers of damaged records; first and last number of each gap.

        A record is damaged if its checksum or its types are wrong, or an earlier one has the same id.
        """
        found, damaged, known = list[Decision](), list[int](), set[str]()
        query = "SELECT number, received, CAST(user AS BLOB), CAST(record AS BLOB), crc FROM decisions ORDER BY number"
        with self.lock, self.connection:
            self.connection.execute("BEGIN")  # one snapshot: concurrent writes are no gap
            spans = self.connection.execute(SPANS).fetchall()
            [last] = self.connection.execute("SELECT CAST(max(seq) AS INTEGER) FROM sqlite_sequence").fetchone()
            for number, received, user, record, crc in self.connection.execute(query):
                spans.append((number, number))
                try:
                    if crc != checksum(received, user, record):
                        raise ValueError
                    decision = READ.validate_json(record, strict=True)
                    chances, items = decision["log_probs"], decision["items"]
                    if decision["decision"] in known or (chances is not None and len(chances) != len(items)):
                        raise ValueError
                    known.add(decision["decision"])
                    found.append(decision)
                except ValueError:
                    damaged.append(number)
        return found, damaged, gaps(spans, last or 0)

    def note_deleted(self, numbers: list[int]) -> None:
        for number in numbers:
            if not self.connection.execute("UPDATE deleted SET last = last + 1 WHERE last = ?", (number - 1,)).rowcount:
                self.connection.execute("INSERT INTO deleted VALUES (?, ?)", (number, number))


def checksum(received: float, user: bytes, record: bytes) -> int:
    """CRC-32 of a stored decision, to detect damage."""
    return zlib.crc32(repr(received).encode() + user + record)


def gaps(spans: list[tuple[int, int]], last: int) -> list[tuple[int, int]]:
    """First and last number of each gap that the spans leave between 1 and ``last``."""
    found, following = [], 1
    for first, until in [*sorted(spans), (last + 1, last + 1)]:
        if first > following:
            found.append((following, first - 1))
        following = max(following, first, until + 1)
    return found


class Decisions:
    """A log of decisions for the answering threads; each writes its batch at once.

    Args:
        folder, key, days: as in `DecisionLog`.

    Attributes:
        failing: whether the last write failed. Then requests should not explore: every drawn list has to be logged.
    """

    def __init__(self, folder: Path, key: str, days: float | None = None) -> None:
        self.log, self.key, self.failing = DecisionLog(folder, key, days), key, False
        self._resume = 0.0

    def keep(self, asked: Sequence[Asked], answers: Sequence[Answer]) -> list[Answer | OSError]:
        """Log decisions, except for requests that have timed out.

        Returns:
            The answers with the ids of their decisions, which are on disk. If that fails: the answers as they were,
            with an error in place of each that explored.
        """
        named = [replace(answer, decision=secrets.token_hex(16)) for answer in answers]
        users = [pseudonym(self.key, str(one.user)) for one in asked]
        with self.log.lock:
            now, decisions = time.monotonic(), zip(asked, users, named, strict=True)
            records = [decision_record(user, one.encoded, answer) for one, user, answer in decisions if one.until > now]
            if not self._written(records):
                return [OSError("not logged") if answer.explored else answer for answer in answers]
        return [*named]

    async def run(self) -> None:
        """Delete decisions that are too old, until cancelled."""
        await self.log.purge_hourly(None)

    def close(self) -> None:
        """Close the file, once no thread answers any more."""
        self.log.close()

    def _written(self, records: list[dict[str, Any]]) -> bool:
        if time.monotonic() < self._resume:
            return False
        try:
            if records:
                self.log.append(records)
        except sqlite3.Error as error:
            self._resume = time.monotonic() + PAUSE
            self._say(True, f"cannot be written ({error}): answers go on without exploration")
            return False
        self._say(False, "is written again")
        return True

    def _say(self, failing: bool, what: str) -> None:
        if failing != self.failing:
            self.failing = failing
            print(f"the log of decisions {what}", file=sys.stderr, flush=True)
