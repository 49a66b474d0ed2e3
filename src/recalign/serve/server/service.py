"""Answer concurrent requests from one bundle: a queue, answered in batches, and a swap to new versions."""

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
"""Maximum requests in the queue."""
TIMEOUT = 10.0
"""Seconds after which a request times out."""
SHORT = 0.003
"""Maximum seconds for which answers may block the event loop; longer ones go to threads."""
A = TypeVar("A")
R = TypeVar("R")


class Full(Exception):
    """The queue is full, or a request has timed out."""


class Batcher(Generic[A, R]):
    """A queue, answered in batches: short ones in the event loop, others in threads. A batch takes what is queued and
    waits for no more, except for requests of the same pass of the loop.

    Args:
        work: answers a batch: returns an answer or an error for each request.
        name: prefix of the threads' names.
        threads: size of the thread pool.
        cost: cost of a request. A batch of several costs `MAX_BATCH_PAIRS` at most.
        seconds: expected time of an answer. While no thread is busy and the whole queue takes `SHORT` at most, the loop
            answers it: waking a thread and being woken by it costs more than a short answer. Else free threads are
            woken, one per queued request at most; they answer until the queue is empty.
    """

    def __init__(
        self, work: Callable[[list[A]], Sequence[R | Exception]], name: str, threads: int = 1,
        cost: Callable[[A], int] = lambda _: 0, seconds: Callable[[A], float] = lambda _: math.inf,
    ) -> None:  # fmt: skip
        self.work, self.cost, self.seconds = work, cost, seconds
        self.waiting = deque[tuple[A, asyncio.Future[R]]]()
        self.pool, self._busy, self._threads = ThreadPoolExecutor(threads, name), 0, threads
        self._lock = threading.Lock()  # guards the queue and `_busy` while threads are busy

    async def ask(self, what: A) -> R:
        """Queue a request and wait for its answer.

        Raises:
            Full: the queue is full, or the request times out.
        """
        if len(self.waiting) >= MAX_WAITING:
            raise Full
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self.waiting.append((what, answer))
        loop.call_soon(self._start)  # after other requests of this pass
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
        """The next batch. Drops queued requests that have timed out or were cancelled."""
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
        """Answer until the queue is empty."""
        while True:
            with self._lock:
                if not (taken := self._take()):
                    self._busy -= 1
                    return
            answers, loop = self._answer(taken), taken[0][1].get_loop()
            with suppress(RuntimeError):  # the loop has ended: nobody waits for the answers
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
    """A request, with the bundle that encoded it.

    Attributes:
        items: numbers of the items to score; None: recommend.
        user: who asks, if the answer is to be logged.
        until: when it times out, by `time.monotonic`.
    """

    bundle: Bundle
    encoded: Encoded
    items: np.ndarray | None = None
    user: Id | None = None
    until: float = field(default_factory=lambda: time.monotonic() + TIMEOUT)


Keep = Callable[[Sequence[Asked], Sequence[Answer]], Sequence[Answer | Exception]]


class Service:
    """One bundle, and a queue of requests that the event loop and a pool of threads answer.

    Args:
        folder: a bundle, or a folder of versions whose file ``current`` is watched.
        threads: of ONNX Runtime, for each batch; the pool has cores / ``threads`` threads.
        batched: is called with the size of each batch.
        keep: logs answers to requests that name a user, in a thread; returns the answers, or errors, to give.

    Attributes:
        problem: why the version that ``current`` names is not served; empty if it is.
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
            # logging waits for the disk, and the event loop must not
            lambda asked: math.inf if asked.user is not None else asked.bundle.seconds(asked.encoded),
        )
        self._refused: object = None  # the version refused last, and its files
        self.problem = ""

    async def watch(self, seconds: float = 1.0) -> None:
        """Check ``current`` periodically; serve its version once it is loaded and has passed its examples."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Load a new version, if there is one. The version that encoded a queued request still answers it."""
        tried: object = None
        try:
            named = current(self.folder)
            # A refused version is tried again once its files change: copied further, or exported again.
            files = ((path.name, path.stat()) for path in named.glob("*"))
            tried = named, sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
            if named != self.bundle.folder and tried != self._refused:
                self.bundle = Bundle(named, self.threads)
                print(f"now serving {self.bundle.version}", file=sys.stderr, flush=True)
            if named == self.bundle.folder:
                self._refused, self.problem = None, ""
        except Exception as error:  # whatever is wrong with it, keep serving the old one
            if str(error) != self.problem:
                print(f"still serving {self.bundle.version}: {error}", file=sys.stderr, flush=True)
            self._refused, self.problem = tried, str(error)

    def close(self) -> None:
        """Answer what is queued, and stop the threads."""
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
    """Whether a host is a loopback address, which only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
