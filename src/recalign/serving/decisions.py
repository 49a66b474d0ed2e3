"""The log of decisions: what was shown to whom, with which chance; on disk before it is shown.

Decisions are appended to segments, a line each: the CRC-32 of the rest in hex, a space, JSON. A thread writes and syncs
whatever waits as one group, and never waits for more. The first line of a segment says its format and names the key.
`recalign.feedback` reads segments, and turns those that are closed into Parquet.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import queue
import secrets
import sys
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from recalign.errors import InputError
from recalign.files import sync
from recalign.serving.answer import Answer
from recalign.serving.catalogue import Encoded
from recalign.serving.request import Id, Request
from recalign.serving.require import text_id
from recalign.serving.service import SECONDS, WAITING, Full
from recalign.serving.store import DAY, HOUR

FORMAT = 1
"""Of a segment."""
SEGMENT, COMPACTED = ".decisions", ".parquet"
"""How the name of a segment ends, and that of one that was compacted."""
LARGEST = 2**26
"""Bytes from which a segment is closed; after an hour it is closed too."""
AGAIN = 10.0
"""Seconds after a failed write in which none is tried."""
Answering = Callable[[Request], Awaitable[tuple[Encoded, Answer]]]
Asked = tuple[str, Encoded, Answer]
"""A user's pseudonym, the request as numbers, and the answer."""


def pseudonym(key: str, user: Id) -> str:
    """HMAC-SHA256 of a user's id, 128 bits of it in hex: without the key nobody can tell whose it is."""
    return hmac.new(key.encode(), text_id("user", user).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[
        :32
    ]


def name_of(key: str) -> str:
    """Names a key without telling it, so that a log is not read with another one."""
    return hashlib.sha256(b"recalign decisions key " + key.encode()).hexdigest()[:16]


def line(record: dict[str, Any]) -> bytes:
    """A record as it stands in a segment."""
    text = json.dumps(record, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def checked(text: bytes) -> dict[str, Any] | None:
    """The record of a line without its end; None: it is not what was written."""
    if text[:8] != b"%08x" % zlib.crc32(text[9:]):
        return None
    record: dict[str, Any] = json.loads(text[9:])
    return record


def recorded(asked: Asked) -> dict[str, Any]:
    """What is kept of a decision. Sizes of filters, no history, no raw user id."""
    user, encoded, answer = asked
    request, explored = encoded.request, answer.explored
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
        "arm": explored.arm if explored else None,
        "chance": explored.chance if explored else None,
        "temperature": explored.temperature if explored else None,
        "fixed": explored.fixed if explored else None,
        "seed": explored.seed if explored else None,
        "ranked": explored.ranked if explored else None,
        "log_probs": list(explored.log_probs) if explored else None,
    }


def private(folder: Path) -> None:
    """Make a folder that its owner alone may read.

    Raises:
        InputError: it cannot be made, or others may read it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        loose = folder.stat().st_mode & 0o077
    except OSError as error:
        what, remedy = f"no decisions can be kept here: {error.strerror}", "name a folder that can be written"
        raise InputError(what, where=str(folder), remedy=remedy) from error
    if loose:
        what = "others than its owner may read this folder"
        raise InputError(what, where=str(folder), remedy=f"chmod 700 {folder}")


def segments(folder: Path) -> list[Path]:
    """Segments that are not compacted, oldest first."""
    return sorted(folder.glob(f"*{SEGMENT}"))


def compacted(folder: Path) -> list[Path]:
    """Segments that are Parquet now, oldest first."""
    return sorted(folder.glob(f"*{SEGMENT}{COMPACTED}"))


def require_key(folder: Path, key: str) -> None:
    """Refuse a folder in which another key has written: its users' pseudonyms are others.

    Raises:
        InputError: names the segments, by which whoever has to move them knows them.
    """
    files = [*compacted(folder), *segments(folder)]
    if others := [path.name for path in files if key_of(path) not in ("", name_of(key))]:
        more = f" and {len(others) - 3} more" * (len(others) > 3)
        what = f"these decisions were written with another key: {', '.join(others[:3])}{more}"
        remedy = "give the key that they were written with, or move what another key wrote into a folder of its own"
        raise InputError(what, where=str(folder), remedy=remedy)


def key_of(path: Path) -> str:
    """Names the key of a segment, compacted or not; empty where its head is damaged, or it cannot be read."""
    with suppress(OSError, pl.exceptions.PolarsError):
        if path.suffix == COMPACTED:
            return pl.read_parquet_metadata(path)["key"]
        with path.open("rb") as file:
            head = checked(file.readline().rstrip(b"\n"))
            return str(head["key"]) if head else ""
    return ""


class Segment:
    """A file that decisions are appended to; a lock beside it says that somebody still writes."""

    def __init__(self, folder: Path, key: str) -> None:
        self.began = time.monotonic()
        self.path = folder / f"{time.time_ns() // 1000}-{os.getpid()}-{secrets.token_hex(2)}{SEGMENT}"
        self._lock = FileLock(lock_of(self.path))
        self._lock.acquire(timeout=0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        try:
            self._file, self.size = os.open(self.path, flags, 0o600), 0
            self.append(line({"format": FORMAT, "key": name_of(key)}))
            sync(folder)
        except OSError:
            self.close()
            for path in (self.path, lock_of(self.path)):
                path.unlink(missing_ok=True)
            raise

    def append(self, data: bytes) -> None:
        """Write and sync, or leave the file as it was.

        Raises:
            OSError: the disk is full, say.
        """
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        """Let others have it."""
        with suppress(OSError, AttributeError):
            os.close(self._file)
        self._lock.release()


def lock_of(segment: Path) -> Path:
    """The lock of a segment."""
    return segment.with_name(f".{segment.name}.lock")


class Decisions:
    """A log of decisions, for an event loop, which it never blocks.

    Args:
        folder: made if it is not there.
        key: of the users' pseudonyms.
        days: after which a segment is deleted; None: never.

    Raises:
        InputError: the folder cannot be used, or another key has written in it.
    """

    def __init__(self, folder: Path, key: str, days: float | None = None) -> None:
        private(folder)
        require_key(folder, key)
        self.folder, self.key, self.days = folder, key, days
        self.failing = False
        self._queue: queue.SimpleQueue[tuple[Asked, Future[None]] | None] = queue.SimpleQueue()
        self._segment: Segment | None = None
        self._again, self._forgot = 0.0, float("-inf")
        self._room = threading.Semaphore(WAITING)
        self._thread = threading.Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    async def keep(self, user: str, encoded: Encoded, answer: Answer) -> Answer:
        """Log a decision. Returns: the answer with the decision's id, once that is on disk.

        Raises:
            OSError: it is not.
            Full: it takes too long, or too many wait, those that were given up among them.
        """
        if not self._room.acquire(blocking=False):
            raise Full
        named, done = replace(answer, decision=secrets.token_hex(16)), Future[None]()
        self._queue.put(((user, encoded, named), done))
        try:
            await asyncio.wait_for(asyncio.wrap_future(done), SECONDS)
        except TimeoutError:
            raise Full from None
        return named

    def close(self) -> None:
        """Finish what was begun."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        self._tidy()
        waiting: tuple[Asked, Future[None]] | None
        while True:
            try:
                waiting = self._queue.get(timeout=60)
            except queue.Empty:
                self._tidy()
                continue
            group = []
            while waiting is not None:
                group.append(waiting)
                if self._queue.empty():
                    break
                waiting = self._queue.get()
            if group:
                self._settle(group)
                self._room.release(len(group))
            if waiting is None:
                self._close()
                return

    def _settle(self, group: list[tuple[Asked, Future[None]]]) -> None:
        # Who was given up while waiting has been told so: what nobody will see is no decision.
        group = [(asked, done) for asked, done in group if done.set_running_or_notify_cancel()]
        if not group:
            return
        error: Exception | None = None
        try:
            self._write(b"".join(line(recorded(asked)) for asked, _ in group))
        except Exception as caught:  # whatever it is, nobody may wait for ever
            error = caught
        for _, done in group:
            if error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _write(self, data: bytes) -> None:
        """Append a group, unless a write failed a moment ago.

        Raises:
            OSError: it is not on disk.
        """
        if time.monotonic() < self._again:
            raise OSError("a write failed a moment ago")
        try:
            self._tidy()
            self._segment = self._segment or Segment(self.folder, self.key)
            self._segment.append(data)
        except OSError as error:
            self._close()
            self._again = time.monotonic() + AGAIN
            self._say(True, f"cannot be written ({error.strerror or error}): answers go on without exploration")
            raise
        self._say(False, "is written again")

    def _tidy(self) -> None:
        """Close a segment that is old or large, and delete those that have been here for too long."""
        now = time.monotonic()
        if self._segment and (now - self._segment.began > HOUR or self._segment.size > LARGEST):
            self._close()
        if self.days and now - self._forgot > HOUR:
            self._forgot = now
            with suppress(OSError):
                purge(self.folder, self.days)

    def _close(self) -> None:
        if self._segment:
            self._segment.close()
            self._segment = None

    def _say(self, failing: bool, what: str) -> None:
        if failing != self.failing:
            self.failing = failing
            print(f"the log of decisions {what}", file=sys.stderr, flush=True)


def purge(folder: Path, days: float) -> None:
    """Delete segments whose last decision is older, compacted ones too; never one that somebody still writes."""
    oldest = time.time() - days * DAY
    half = folder.glob(f".*{SEGMENT}{COMPACTED}.[0-9]*")  # written by a reader that was killed
    for path in [*segments(folder), *compacted(folder), *half]:
        with suppress(FileNotFoundError, Timeout):  # another server of this folder was faster, or writes or reads it
            if path.stat().st_mtime < oldest:
                with FileLock(lock_of(path)).acquire(timeout=0):
                    path.unlink()
                lock_of(path).unlink(missing_ok=True)


async def decided(decisions: Decisions, request: Request, answered: Answering) -> Answer:
    """An answer that is logged, if the request names a user. Where that fails, it is a ranked one, and not logged."""
    if decisions.failing:
        request = replace(request, explore=None)
    encoded, answer = await answered(request)
    if request.user is None:
        return answer
    try:
        return await decisions.keep(pseudonym(decisions.key, request.user), encoded, answer)
    except OSError:  # the thread has said why
        return (await answered(replace(request, explore=None)))[1] if request.explore else answer
