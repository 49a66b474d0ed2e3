"""Answer many callers from one bundle: a queue that takes what is there and never waits, and a swap of versions."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recalign.serve.server.about import current
from recalign.serve.server.answer import Answer, Scored
from recalign.serve.server.bundle import ROWS, Bundle
from recalign.serve.server.catalogue import Encoded

WAITING = 256
"""Requests that may wait."""
SECONDS = 10.0
"""After which a request is given up."""


class Full(Exception):
    """Too many requests wait, or one has waited for too long."""


@dataclass(frozen=True)
class Waiting:
    """A request in the queue: the bundle that has read it, and the items to score, where it asks for that."""

    bundle: Bundle
    encoded: Encoded
    items: np.ndarray | None
    answer: asyncio.Future[Answer | Scored]


class Service:
    """One bundle, a queue and a thread that answers what waits in it.

    Args:
        folder: a bundle, or a folder of versions whose file ``current`` is watched.
        threads: of ONNX Runtime.
        batched: is told how many requests were answered at once.
    """

    def __init__(self, folder: Path, threads: int = 1, batched: Callable[[int], None] = lambda _: None) -> None:
        self.folder, self.threads, self.batched = folder, threads, batched
        self.bundle = Bundle(folder, threads)
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue(WAITING)
        self._pool = ThreadPoolExecutor(1, "answers")
        self._refused: object = None  # what was tried last, and its files
        self._said = ""

    async def ask(self, bundle: Bundle, encoded: Encoded, items: np.ndarray | None = None) -> Answer | Scored:
        """The answer to a request that a bundle has read.

        Raises:
            Full: too many wait, or it takes too long.
        """
        waiting = Waiting(bundle, encoded, items, asyncio.get_running_loop().create_future())
        try:
            self.queue.put_nowait(waiting)
            return await asyncio.wait_for(waiting.answer, SECONDS)
        except (asyncio.QueueFull, TimeoutError):
            raise Full from None

    async def work(self) -> None:
        """Answer what waits, as much as there is at once, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self.queue.get()]
            while len(taken) < ROWS and not self.queue.empty():
                taken.append(self.queue.get_nowait())
            taken = [one for one in taken if not one.answer.done()]  # nobody waits for those any more
            self.batched(len(taken))
            answers = await loop.run_in_executor(self._pool, answered, taken)
            for one, answer in zip(taken, answers, strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

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
            tried = named, _files(named)
            if named != self.bundle.folder and tried != self._refused:
                self.bundle = Bundle(named, self.threads)
                print(f"now serving {self.bundle.version}", file=sys.stderr, flush=True)
                self._refused, self._said = None, ""
        except Exception as error:  # whatever a version is like, the old one goes on
            if str(error) != self._said:
                print(f"still serving {self.bundle.version}: {error}", file=sys.stderr, flush=True)
            self._refused, self._said = tried, str(error)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """What a version holds now: one that is copied to its end, in whichever order, or made again, is tried again."""
    known = ((path.name, path.stat()) for path in folder.glob("*"))
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in known)


def answered(taken: list[Waiting]) -> list[Answer | Scored | Exception]:
    """Answer requests by the bundles that have read them; what goes wrong is the answer of all of its kind."""
    found: dict[int, Answer | Scored | Exception] = {}
    kinds: dict[tuple[int, bool], list[int]] = {}
    for place, one in enumerate(taken):
        kinds.setdefault((id(one.bundle), one.items is None), []).append(place)
    for places in kinds.values():
        some = [taken[place] for place in places]
        try:
            answers: Sequence[Answer | Scored | Exception] = _of_kind(some)
        except Exception as error:  # the queue must go on
            answers = [error] * len(some)
        found |= zip(places, answers, strict=True)
    return [found[place] for place in range(len(taken))]


def _of_kind(some: list[Waiting]) -> Sequence[Answer | Scored]:
    bundle = some[0].bundle
    if some[0].items is None:
        return bundle.answers([one.encoded for one in some])
    return bundle.scores([(one.encoded, one.items) for one in some if one.items is not None])
