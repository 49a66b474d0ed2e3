"""The log of decisions: what was shown to whom, with which chance; on disk before it is shown.

Decisions are appended to segments (`decision_files`). A thread writes and syncs whatever waits as one group, and never
waits for more. `recalign.serve.feedback` reads segments, and turns those that are closed into Parquet.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import queue
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recalign.serve.server.answer import Answer
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.decision_files import Segment, line, private, purge, require_key
from recalign.serve.server.request import Id, Request
from recalign.serve.server.require import text_id
from recalign.serve.server.service import SECONDS, WAITING, Full
from recalign.serve.server.store import HOUR

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
