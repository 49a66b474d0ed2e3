"""Processes that run functions side by side. Imports no torch, so that a worker's environment is set before it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from recalign.errors import InputError, TrainingError
from recalign.files import FULL, cannot_write

Outcome = tuple[Any, Exception | None]
"""What a function returned, or what it raised."""


class WorkerDied(Exception):
    """The process that ran a function is gone: killed, or out of memory."""


def attempt(function: Callable[..., Any], *args: Any) -> Outcome:
    """Call a function in a worker; an exception that is a bug comes back with its whole traceback as text."""
    try:
        return function(*args), None
    except (InputError, TrainingError) as error:
        return None, error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return None, cannot_write(error)
        return None, RuntimeError(f"in a worker:\n{traceback.format_exc()}")


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append what this process prints, also below Python, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = [(stream, os.dup(stream.fileno())) for stream in (sys.stdout, sys.stderr)]
    try:
        with open(log, "a", encoding="utf-8") as file:
            for stream, _ in kept:
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
        yield
    finally:
        for stream, before in kept:
            stream.flush()
            os.dup2(before, stream.fileno())
            os.close(before)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Give torch so many threads for a while; None: as many as it has."""
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_cell(log: Path, threads: int | None, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function with its output in a file and its own number of threads: what a worker is given to run."""
    with output_to(log), torch_threads(threads):
        return function(*args)


class Workers(Executor):
    """Runs at most so many functions at a time, each in another process.

    Functions, arguments and results are pickled. A future raises what its function raised, or `WorkerDied`.

    Args:
        number: of functions at a time.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._threads = ThreadPoolExecutor(number)  # one thread waits for one process

    def submit(self, function: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        return self._threads.submit(self._call, function, *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Stop at once: what still runs is killed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._end()
        self._threads.shutdown(wait=wait)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        value, error = self._outcome(function, *args)
        if error:
            raise error
        return value

    @abstractmethod
    def _outcome(self, function: Callable[..., Any], *args: Any) -> Outcome:
        """Run `attempt` elsewhere and wait for it.

        Raises:
            WorkerDied: its process is gone.
        """

    @abstractmethod
    def _end(self) -> None:
        """Let go of the processes."""


class LocalWorkers(Workers):
    """Processes on this machine. One that dies takes only its own function with it, and is replaced.

    Args:
        environments: variables of each process, set before it loads anything.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        super().__init__(len(environments))
        self._processes = [_Process(environment) for environment in environments]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def _outcome(self, function: Callable[..., Any], *args: Any) -> Outcome:
        process = self._idle.get()
        try:
            return process.outcome(function, *args)
        finally:
            self._idle.put(process)

    def _end(self) -> None:
        for process in self._processes:
            process.end()


class _Process:
    """A process that takes one function after the other; it starts with the first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment, self.lock = dict(environment), threading.Lock()
        self.busy = self.ended = False
        self.process: multiprocessing.process.BaseProcess | None = None

    def outcome(self, function: Callable[..., Any], *args: Any) -> Outcome:
        with self.lock:
            if self.ended:
                raise WorkerDied
            if self.process is None:
                self._start()
            self.busy = True
        try:
            self.pipe.send((function, args))
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process, gone = None, self.process
            assert gone is not None
            gone.join()
            raise WorkerDied(f"exit code {gone.exitcode}") from error
        finally:
            self.busy = False

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads without their state
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.environment))
        self.process.start()
        theirs.close()

    def end(self) -> None:
        """Kill it if it works; else let it leave, with all that has to be written first."""
        with self.lock:
            self.ended = True
            if self.process is None:
                return
            if self.busy:
                self.process.kill()
            else:
                self.pipe.close()
                self.process.join()


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """A worker's life."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(function, *args))


def _end_with_parent() -> None:
    """Leave nothing that still writes into run folders when the first process is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
