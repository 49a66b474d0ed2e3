"""Worker processes, on this machine or on Ray, and locks that give a folder one writer.

Imports no torch, so that a worker's environment is set before it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from recalign.errors import InputError

Engine = Literal["local", "ray"]
"""Where workers run: on this machine, or on a Ray cluster."""
PASSED_ON = ("RECALIGN_", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "GOMP_", "OMP_WAIT_")
"""Prefixes of environment variables that are passed to Ray tasks; Ray itself sets those of threads and GPUs."""


class LocalWorkers(Executor):
    """Processes on this machine.

    If one dies, all running and waiting futures raise `BrokenExecutor`, and the next `submit` starts new processes. An
    exception within ``with`` kills the processes. ``environments`` are the variables of each process, set before its
    first task.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self.environments, self.number = environments, len(environments)
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks, but not its threads
        environments = context.SimpleQueue()
        for environment in self.environments:
            environments.put(dict(environment))
        return ProcessPoolExecutor(self.number, context, _begin, (environments,))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        try:
            return self._pool.submit(function, *args, **kwargs)
        except BrokenExecutor:
            self._pool = self._start()
            return self._pool.submit(function, *args, **kwargs)

    def __exit__(self, kind: object, *_: object) -> None:
        processes = self._pool._processes or {}
        for process in processes.values() if kind else ():
            process.kill()
        self._pool.shutdown(cancel_futures=True)


def _begin(environments: Any) -> None:
    os.environ.update(environments.get())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent dies, so that no orphan goes on writing into run folders."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class RayWorkers(ThreadPoolExecutor):
    """Runs functions as Ray tasks: on the cluster that ``RAY_ADDRESS`` names, else on one that is started here.

    Args:
        number: most tasks at a time; None: as many as fit the cluster.
        num_cpus, num_gpus: what Ray reserves for a task.

    Raises:
        InputError: Ray is not installed or not reachable, or the cluster is too small for one task.
    """

    def __init__(self, number: int | None, num_cpus: float, num_gpus: float) -> None:
        try:
            import ray
        except ImportError as error:
            remedy = "pip install 'recalign[ray]', or leave --engine out"
            raise InputError("this engine needs Ray", where="engine", remedy=remedy) from error
        self.ray, address = ray, os.environ.get("RAY_ADDRESS", "")
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        local = {} if address else {"num_cpus": (number and round(number * num_cpus)) or None}
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host and port.isdigit():  # a wrong address fails within seconds: Ray itself tries much longer
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(runtime_env={"env_vars": passed}, log_to_driver=False, **local)
        except (OSError, RuntimeError, ValueError) as error:
            remedy = "check RAY_ADDRESS, or unset it to use this machine"
            raise InputError(f"no Ray cluster can be reached ({error})", where="engine", remedy=remedy) from error
        room = _room(ray.cluster_resources(), {"CPU": num_cpus, "GPU": num_gpus})
        self.number = min(number or room, room)
        super().__init__(self.number)  # one thread waits for one task
        # A chain retries tasks itself; Ray would do so silently.
        self._task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(_run_in)

    def submit(self, function: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        return super().submit(self._wait_for, function, *args)

    def _wait_for(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self.ray.get(self._task.remote(os.getcwd(), function, *args))
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            raise BrokenExecutor(type(error).__name__) from error

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()
        self.shutdown(cancel_futures=True)


def _run_in(folder: str, function: Callable[..., Any], *args: Any) -> Any:
    os.chdir(folder)
    return function(*args)


def _room(there: dict[str, float], asked: dict[str, float]) -> int:
    room = min(int(there.get(name, 0) // number) for name, number in asked.items() if number)
    if room < 1:
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in asked)
        remedy = "lower num_cpus or num_gpus"
        raise InputError(f"the cluster has {has}, too little for one task", where="engine", remedy=remedy)
    return room


def run_logged(log: Path, threads: int | None, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function with all output, also of C code, appended to `log`, and torch limited to `threads`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    saved = [(stream, os.dup(stream.fileno())) for stream in (sys.stdout, sys.stderr)]
    try:
        with open(log, "a", encoding="utf-8") as file:
            for stream, _ in saved:
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
        with torch_threads(threads):
            return function(*args)
    finally:
        for stream, before in saved:
            stream.flush()
            os.dup2(before, stream.fileno())
            os.close(before)


@contextmanager
def locked(folder: Path, doing: str, remedy: str) -> Iterator[None]:
    """Lock a folder for this process. The lock file is beside the folder and is released if the process dies.

    The folder need not exist; if it does not at the end either, the lock file and new parent folders are removed.
    ``doing``: what the other process is doing, for the message.

    Raises:
        InputError: another process holds the lock.
        OSError: the lock file cannot be written.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        place = folder.resolve()  # one lock however the folder is spelt, such as .
        lock = FileLock(place.with_name(f".{place.name}.lock")).acquire(timeout=0)
    except Timeout:
        raise InputError(f"another process is {doing} in this folder", where=str(folder), remedy=remedy) from None
    with lock:
        try:
            yield
        finally:
            if not place.exists():
                with suppress(OSError):  # another process has a folder there by now
                    Path(lock.lock.lock_file).unlink()
                    for parent in made:
                        parent.rmdir()


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Limit torch to ``number`` threads within ``with``; None: unchanged."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
