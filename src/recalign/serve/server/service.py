"""Answer many callers from one bundle: threads that take what waits and never wait for more, and a swap of versions."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from recalign.run.cores import usable_cores
from recalign.serve.server.about import current
from recalign.serve.server.answer import Answer, Scored
from recalign.serve.server.bundle import MAX_BATCH, MAX_BATCH_PAIRS, Bundle
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.request import Id

MAX_WAITING = 256
"""Requests that may wait."""
TIMEOUT = 10.0
"""Seconds after which a request is given up."""
SHORT = 0.003
"""Seconds for which the event loop may answer by itself, while nothing else happens in it."""
A = TypeVar("A")
R = TypeVar("R")


class Full(Exception):
    """Too many requests wait, or one has waited for too long."""


class Batcher(Generic[A, R]):
    """Answer what waits in batches: what is short in the event loop, else in threads. Nothing waits for more to come,
    but for what comes in the same pass of the loop.

    Args:
        work: from what was asked to an answer, or an error, of each.
        name: of the threads.
        threads: how many.
        cost: of what was asked. What is taken together costs `MAX_BATCH_PAIRS` at most.
        seconds: that an answer is expected to take. While no thread is busy and all that waits takes `SHORT` together,
            the loop answers it: to wake a thread and be woken by it costs more than a short answer. Else a thread for
            each that waits is woken, and takes until nothing waits.
    """

    def __init__(
        self, work: Callable[[list[A]], Sequence[R | Exception]], name: str, threads: int = 1,
        cost: Callable[[A], int] = lambda _: 0, seconds: Callable[[A], float] = lambda _: math.inf,
    ) -> None:  # fmt: skip
        self.work, self.cost, self.seconds = work, cost, seconds
        self.waiting = deque[tuple[A, asyncio.Future[R]]]()
        self.pool, self._busy, self._threads = ThreadPoolExecutor(threads, name), 0, threads
        self._lock = threading.Lock()  # of what waits and who is busy, while threads take

    async def ask(self, what: A) -> R:
        """The answer.

        Raises:
            Full: too many wait, or it takes too long.
        """
        if len(self.waiting) >= MAX_WAITING:
            raise Full
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self.waiting.append((what, answer))
        loop.call_soon(self._start)  # after whatever else comes in this pass
        late = loop.call_later(TIMEOUT, self._deliver, [(what, answer)], [Full()])
        try:
            return await answer
        finally:
            late.cancel()

    def _start(self) -> None:
        while not self._busy and sum(self.seconds(one) for one, _ in self.waiting) <= SHORT and (taken := self._take()):
            self._deliver(taken, self._answer(taken))
        with self._lock:
            wake = min(self._threads - self._busy, len(self.waiting))
            self._busy += wake
        for _ in range(wake):
            self.pool.submit(self._answer_in_thread)

    def _take(self) -> list[tuple[A, asyncio.Future[R]]]:
        """What is answered next. What was given up while it waited is dropped."""
        taken, left = list[tuple[A, asyncio.Future[R]]](), MAX_BATCH_PAIRS
        while self.waiting and len(taken) < MAX_BATCH:
            if self.waiting[0][1].done():
                self.waiting.popleft()
            elif (left := left - self.cost(self.waiting[0][0])) >= 0 or not taken:
                taken.append(self.waiting.popleft())
            else:
                break
        return taken

    def _answer(self, taken: list[tuple[A, asyncio.Future[R]]]) -> Sequence[R | Exception]:
        try:
            return self.work([what for what, _ in taken])
        except Exception as error:
            return [error] * len(taken)

    def _answer_in_thread(self) -> None:
        """Answer until nothing waits."""
        while True:
            with self._lock:
                if not (taken := self._take()):
                    self._busy -= 1
                    return
            answers, loop = self._answer(taken), taken[0][1].get_loop()
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(self._deliver, taken, answers)

    def _deliver(self, taken: list[tuple[A, asyncio.Future[R]]], answers: Sequence[R | Exception]) -> None:
        for (_, waiting), answer in zip(taken, answers, strict=True):
            if waiting.done():
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)


@dataclass(frozen=True)
class Asked:
    """A request and the bundle that has read it.

    Attributes:
        items: to score, where it asks for that.
        user: who asks, if the answer is to be kept.
        until: by `time.monotonic`, when it is given up.
    """

    bundle: Bundle
    encoded: Encoded
    items: np.ndarray | None = None
    user: Id | None = None
    until: float = field(default_factory=lambda: time.monotonic() + TIMEOUT)


Keep = Callable[[Sequence[Asked], Sequence[Answer]], Sequence[Answer | Exception]]


class Service:
    """One bundle, and the event loop and a thread a core that answer by it.

    Args:
        folder: a bundle, or a folder of versions whose file ``current`` is watched.
        threads: of ONNX Runtime, for each batch.
        batched: is called with how many requests are answered at once.
        keep: is called in a thread with requests that name a user, and their answers, before these are given.

    Attributes:
        problem: why the version that ``current`` names is not served; empty: it is.
    """

    def __init__(
        self, folder: Path, threads: int = 1, batched: Callable[[int], None] = lambda _: None, keep: Keep | None = None
    ) -> None:
        self.folder, self.threads, self.batched, self.keep = folder, threads, batched, keep
        self.bundle = Bundle(folder, threads)
        self.batcher = Batcher[Asked, Answer | Scored](
            self._answer,
            "answers",
            max(1, usable_cores() // threads),
            lambda asked: asked.bundle.cost(asked.encoded),
            # what is kept waits for a disk, which the event loop must not
            lambda asked: math.inf if asked.user is not None else asked.bundle.seconds(asked.encoded),
        )
        self._refused: object = None  # what was tried last, and its files
        self.problem = ""

    async def watch(self, seconds: float = 1.0) -> None:
        """Serve the version that ``current`` names, once it is loaded and has answered its examples; else the old."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Take up a new version, if there is one. Requests that wait are answered by the version that read them."""
        tried: object = None
        try:
            named = current(self.folder)
            # One that is copied to its end, in whichever order, or made again, is tried again.
            files = ((path.name, path.stat()) for path in named.glob("*"))
            tried = named, sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
            if named != self.bundle.folder and tried != self._refused:
                self.bundle = Bundle(named, self.threads)
                print(f"now serving {self.bundle.version}", file=sys.stderr, flush=True)
            if named == self.bundle.folder:
                self._refused, self.problem = None, ""
        except Exception as error:  # whatever a version is like, the old one goes on
            if str(error) != self.problem:
                print(f"still serving {self.bundle.version}: {error}", file=sys.stderr, flush=True)
            self._refused, self.problem = tried, str(error)

    def close(self) -> None:
        """Finish what was begun."""
        self.batcher.pool.shutdown()

    def _answer(self, taken: list[Asked]) -> list[Answer | Scored | Exception]:
        self.batched(len(taken))
        found: dict[int, Answer | Scored | Exception] = {}
        groups: dict[tuple[Bundle, bool], list[int]] = {}
        for place, asked in enumerate(taken):
            groups.setdefault((asked.bundle, asked.items is None), []).append(place)
        for (bundle, _), places in groups.items():
            try:
                scores = [(taken[n].encoded, items) for n in places if (items := taken[n].items) is not None]
                encoded = [taken[n].encoded for n in places]
                found |= zip(places, bundle.scores(scores) if scores else bundle.answers(encoded), strict=True)
            except Exception as error:
                found |= dict.fromkeys(places, error)
        answers = {n: x for n, x in found.items() if isinstance(x, Answer) and taken[n].user is not None}
        if self.keep and answers:
            found |= zip(answers, self.keep([taken[n] for n in answers], list(answers.values())), strict=True)
        return [found[place] for place in range(len(taken))]


@functools.lru_cache(64)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
