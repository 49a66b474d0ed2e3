"""Answer many callers from one bundle: queues that take what is there and never wait, and a swap of versions."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from recalign.serve.server.about import current
from recalign.serve.server.answer import Answer, Scored
from recalign.serve.server.bundle import MAX_BATCH, Bundle
from recalign.serve.server.catalogue import Encoded

MAX_WAITING = 256
"""Requests that may wait."""
TIMEOUT = 10.0
"""Seconds after which a request is given up."""
A = TypeVar("A")
R = TypeVar("R")


class Full(Exception):
    """Too many requests wait, or one has waited for too long."""


class Batcher(Generic[A, R]):
    """A queue, and a thread that processes all that waits in it as one batch, without waiting for more.

    Args:
        work: from what was asked to an answer, or an error, of each.
        size: asked for at once, at most.
        name: of the thread.
    """

    def __init__(self, work: Callable[[list[A]], Sequence[R | Exception]], size: int, name: str) -> None:
        self.work, self.size = work, size
        self.queue: asyncio.Queue[tuple[A, asyncio.Future[R]]] = asyncio.Queue(MAX_WAITING)
        self.thread = ThreadPoolExecutor(1, name)

    async def ask(self, what: A) -> R:
        """The answer.

        Raises:
            Full: too many wait, or it takes too long.
        """
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        try:
            self.queue.put_nowait((what, answer))
            return await asyncio.wait_for(answer, TIMEOUT)
        except (asyncio.QueueFull, TimeoutError):
            raise Full from None

    async def run(self) -> None:
        """Answer what waits, until cancelled. What was given up while it waited is dropped."""
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self.queue.get()]
            while len(taken) < self.size and not self.queue.empty():
                taken.append(self.queue.get_nowait())
            if not (taken := [(what, answer) for what, answer in taken if not answer.done()]):
                continue
            answers = await loop.run_in_executor(self.thread, self._safely, [what for what, _ in taken])
            for (_, waiting), answer in zip(taken, answers, strict=True):
                if waiting.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)

    def _safely(self, taken: list[A]) -> Sequence[R | Exception]:
        try:
            return self.work(taken)
        except Exception as error:  # the queue must go on
            return [error] * len(taken)


@dataclass(frozen=True)
class Asked:
    """A request, the bundle that has read it, and the items to score, where it asks for that."""

    bundle: Bundle
    encoded: Encoded
    items: np.ndarray | None = None


class Service:
    """One bundle, a queue and a thread that answers what waits in it.

    Args:
        folder: a bundle, or a folder of versions whose file ``current`` is watched.
        threads: of ONNX Runtime.
        batched: is called with how many requests are answered at once.

    Attributes:
        problem: why the version that ``current`` names is not served; empty: it is.
    """

    def __init__(self, folder: Path, threads: int = 1, batched: Callable[[int], None] = lambda _: None) -> None:
        self.folder, self.threads, self.batched = folder, threads, batched
        self.bundle = Bundle(folder, threads)
        self.batcher = Batcher[Asked, Answer | Scored](self._answer, MAX_BATCH, "answers")
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
        return [found[place] for place in range(len(taken))]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
