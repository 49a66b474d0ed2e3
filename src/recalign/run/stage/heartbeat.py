"""Signs of life between processes that train together: one that is killed or stopped is named, and the run ends.

A collective cannot say whom it waits for: gloo names an address, or nothing for half an hour. So each process touches a
file of its own beside the run folder, every second, and looks at those of the others.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning import Trainer

from recalign.errors import TrainingError
from recalign.run.stage.parsed import ParsedStage

BEAT = 1.0
"""Seconds between two signs of life."""

LATE = 10.0
"""Seconds without one that tell who is gone, once an exchange between the processes has failed. A
process that sees another end goes on for as long: it may be about to say the same error."""

OBSERVER = "child-process-observer"
"""Name of the thread in which Lightning kills this process, without a word, where one that it started has died."""


@contextmanager
def watched(trainer: Trainer, parsed: ParsedStage) -> Iterator[None]:
    """Watch over the other processes of a run; nothing to do for a single one, or for a dry run.

    Raises:
        TrainingError: an exchange failed because others are gone; it names them. Where this process can only wait, for
            ``run.rank_timeout`` seconds in vain, it says the same and exits with 3.
    """
    if trainer.world_size == 1 or parsed.dry:
        yield
        return
    run, rank, size = parsed.folder.path, trainer.global_rank, trainer.world_size
    place = run.with_name(f".{run.name}.ranks")
    heart = Heartbeat(place, rank, size, parsed.run.rank_timeout, trainer.strategy.launcher)
    if trainer.num_nodes > 1 and trainer.is_global_zero:
        there = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
        where = f"{trainer.num_nodes} machines at {there.main_address}:{there.main_port}"
        print(f"recalign: waits for {size} processes on {where}", file=sys.stderr)
    heart.start(f"recalign {parsed.subcommand}", parsed.how_to_go_on)
    try:
        yield
    except BaseException as error:
        gone = heart.wait_for_gone() if isinstance(error, RuntimeError) else {}
        heart.over.set()
        heart.end_children()
        if gone and not heart.speaks(gone):
            raise SystemExit(3) from error
        if gone:
            raise TrainingError(heart.message(gone, parsed.how_to_go_on())) from error
        if isinstance(error, RuntimeError) and "timed out" in str(error).lower():
            what = "the processes have waited too long for each other, though each gives signs of life"
            remedy = "one takes far longer than the others: give it the same cores, or fewer --trainer.devices"
            raise TrainingError(f"{what}\n  -> {remedy}") from error
        raise
    else:
        heart.leave()
    finally:
        heart.over.set()


class Heartbeat:
    """The signs of life of this process, and what it sees of the others'.

    Args:
        folder: where the files lie; all processes see it.
        rank: of this process.
        size: number of processes.
        timeout: seconds without a sign after which one is silent.
        launcher: Lightning's, which has the processes that this one started; None: it starts none.

    Attributes:
        over: set where nobody has to be watched any more.
    """

    def __init__(self, folder: Path, rank: int, size: int, timeout: float, launcher: Any = None) -> None:
        self.folder, self.rank, self.size, self.timeout, self.launcher = folder, rank, size, timeout, launcher
        self.over = threading.Event()
        self._clock = 0.0  # seconds while this process ran: where all are held up, none has been silent
        self._seen = {other: (_touched(folder / str(other)), 0.0) for other in range(size) if other != rank}
        self._heard: set[int] = set()

    def start(self, command: str, how_to_go_on: Callable[[], str]) -> None:
        """Give signs from now on, and look at the others', in a thread of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / str(self.rank)).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        threading.Thread(target=self._watch, args=(command, how_to_go_on), daemon=True).start()

    def leave(self) -> None:
        """Take the own file away: this process has done its part."""
        with suppress(OSError):  # the last one finds the folder empty
            (self.folder / str(self.rank)).unlink()
            self.folder.rmdir()

    def gone(self, silent: float) -> dict[int, str]:
        """The processes that ended otherwise than well, or gave no sign for some seconds: what is known of each."""
        found = {
            rank: f"has given no sign of life for {self._clock - since:.0f} s"
            for rank, (_, since) in list(self._seen.items())
            if self._clock - since > silent
        }
        for rank, child in enumerate(self._children, self.rank + 1):
            if code := child.poll():
                found[rank] = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return found

    def wait_for_gone(self) -> dict[int, str]:
        """`gone`, as soon as it can be told: the silence of one that was never heard counts from now on."""
        self._look()
        now = self._clock
        for rank, (touched, _) in list(self._seen.items()):
            if rank not in self._heard:
                self._seen[rank] = touched, now
        patience = now + 2 * LATE
        while not (found := self.gone(LATE)) and self._clock < patience:
            time.sleep(BEAT / 4)
        return found

    def speaks(self, gone: dict[int, str]) -> bool:
        """Whether it is this process that has to say who is gone: the first of the others."""
        return self.rank == min(set(range(self.size)) - gone.keys())

    def message(self, gone: dict[int, str], how_to_go_on: str) -> str:
        """What a user is told."""
        known = [f"rank {rank}{self._process(rank)} {how}" for rank, how in sorted(gone.items())]
        what = f"{'; '.join(known)}: the other processes cannot go on (run.rank_timeout: {self.timeout:g} s)"
        return f"{what}\n  -> see there whether memory ran out, or what else stopped it; then {how_to_go_on}"

    def end_children(self) -> None:
        """Kill the processes that this one started: none goes on alone, and a stopped one would stay for ever."""
        for child in self._children:
            child.kill()  # nothing to one that has ended

    @property
    def _children(self) -> list[Any]:
        return getattr(self.launcher, "procs", [])

    def _process(self, rank: int) -> str:
        file = self.folder / str(rank)
        return f" ({file.read_text()})" if rank in self._heard and file.is_file() else ""

    def _watch(self, command: str, how_to_go_on: Callable[[], str]) -> None:
        since = 0.0  # seconds since another has ended
        while not self.over.wait(BEAT):
            self._relieve_observer()
            self._exchange()
            ended, late = self.gone(float("inf")), self.gone(self.timeout)
            since = since + BEAT if ended else 0.0
            # One that was never heard may be a machine that starts late; Lightning's own timeout ends that.
            silent = {rank: how for rank, how in late.items() if rank in self._heard and rank not in ended}
            if (silent or since > LATE) and not self.over.is_set():
                gone = silent | ended
                if self.speaks(gone):
                    print(f"{command}: {self.message(gone, how_to_go_on())}", file=sys.stderr, flush=True)
                self.end_children()
                os._exit(3)  # the main thread waits within a collective, which nothing interrupts

    def _exchange(self) -> None:
        self._clock += BEAT
        with suppress(OSError):  # a file system that fails for a moment
            os.utime(self.folder / str(self.rank))
        self._look()

    def _look(self) -> None:
        """Hear whoever has given a sign since the last look."""
        for rank, (before, _) in list(self._seen.items()):
            now = _touched(self.folder / str(rank))
            if now is not None and now != before:
                self._seen[rank] = now, self._clock
                self._heard.add(rank)
            elif now is None and rank in self._heard:
                self._seen.pop(rank, None)  # it has left

    def _relieve_observer(self) -> None:
        """Take the children from Lightning's observer, which looks at the very list that the launcher has."""
        if any(thread.name == OBSERVER for thread in threading.enumerate()):
            observed, self.launcher.procs = self.launcher.procs, list(self.launcher.procs)
            observed.clear()


def _touched(file: Path) -> int | None:
    """When a file was last touched, in ns; None: there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None
