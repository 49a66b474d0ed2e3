"""Run the steps of a chain side by side: in processes of this machine, or on a Ray cluster.

A cluster shares a file system with this machine, and needs the extra ``recalign[ray]``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from recalign.errors import InputError, TrainingError
from recalign.run.chain.experiment import Chain
from recalign.run.chain.steps import Progress, Results, Step
from recalign.run.stage.console import echo
from recalign.workers import LocalWorkers, run_logged

PASSED_ON = ("RECALIGN_", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "GOMP_", "OMP_WAIT_")
"""Beginnings of the environment variables that workers get from this process; Ray sets those of threads and GPUs."""


def run_side_by_side(
    workers: LocalWorkers | RayWorkers,
    logs: Path,
    verbose: bool,
    steps: Sequence[Step],
    progress: Progress,
    threads: int | None = None,
) -> Results:
    """Run every step as soon as what it needs is done. Where a worker dies, what was running is tried once more.

    Args:
        logs: folder of what the steps print.
        verbose: whether to print that too, once a step is done.
        steps: each after what it needs.
        threads: of torch in each worker; None: 1.

    Returns:
        The result of each.
    """
    done: dict[str, Any] = {}
    progress.workers = workers.number
    left, running, retried = list(steps), dict[Future[Any], Step](), set[str]()
    logs_of = {step.name: logs / f"{step.name.replace('/', '-')}.log" for step in steps}
    printed = {name: len(_read(log)) for name, log in logs_of.items()}  # by earlier calls
    with Console(stderr=True).status("") as line:
        while left or running:
            for step in [step for step in left if done.keys() >= set(step.needs)]:
                if step.in_main:
                    progress.begin(step.name)
                    done[step.name] = step.run(step.given(done))
                    progress.end(step.name)
                elif len(running) < workers.number:
                    progress.begin(step.name)
                    call = (run_logged, logs_of[step.name], threads or 1, step.run, step.given(done))
                    running[workers.submit(*call)] = step
                else:
                    continue
                left.remove(step)
            names = ", ".join(step.name for step in running.values())
            line.update(f"{progress.done} of {progress.total} done{progress.minutes_left()}, running {names}")
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                try:
                    done[step.name] = future.result()
                except BrokenExecutor as error:
                    if step.name in retried:
                        log = logs_of[step.name]
                        raise TrainingError(f"{step.name}: its worker died twice ({error}); see {log}") from error
                    echo(f"{step.name}: its worker died, or one beside it; trying once more")
                    retried.add(step.name)
                    left.insert(0, step)
                else:
                    progress.end(step.name)
                    echo(f"{progress.done} of {progress.total} done{progress.minutes_left()}: {step.name}")
                    if verbose:
                        echo(_read(logs_of[step.name])[printed[step.name] :].rstrip())
    return done


def _read(log: Path) -> str:
    """What a worker has written so far, which may end within a letter."""
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def workers_of(chain: Chain) -> LocalWorkers | RayWorkers | None:
    """The workers that a chain asks for; None: this process runs its steps."""
    if chain.engine == "ray":
        return RayWorkers(chain.workers, chain.num_cpus or chain.threads or 1, chain.num_gpus)
    number, visible, gpus = chain.workers or 1, os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    if number == 1:
        return None
    names = visible.split(",")[:gpus] if visible else [str(gpu) for gpu in range(gpus)]
    return LocalWorkers([{"CUDA_VISIBLE_DEVICES": names[n % len(names)]} if names else {} for n in range(number)])


class RayWorkers(ThreadPoolExecutor):
    """Runs functions as Ray tasks: on the cluster that ``RAY_ADDRESS`` names, else on one that is started here.

    Args:
        number: of tasks at a time; None: as many as the cluster has room for.
        num_cpus, num_gpus: what Ray reserves for a task.

    Raises:
        InputError: Ray is not installed or not reachable, or a task asks for more than there is.
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
            raise InputError(f"there is no Ray cluster to reach ({error})", where="engine", remedy=remedy) from error
        room = _room(ray.cluster_resources(), {"CPU": num_cpus, "GPU": num_gpus})
        self.number = min(number or room, room)
        super().__init__(self.number)  # one thread waits for one task
        # The chain itself tries a task again; Ray would do so without a word.
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
    """How many tasks a cluster has room for at a time."""
    room = min(int(there.get(name, 0) // number) for name, number in asked.items() if number)
    if room < 1:
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in asked)
        raise InputError(
            f"the cluster has {has}, too little for one task", where="engine", remedy="lower num_cpus or num_gpus"
        )
    return room
