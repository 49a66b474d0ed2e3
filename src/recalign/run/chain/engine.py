"""Choose where the tasks of a chain run: in this process, in others of this machine, or on a Ray cluster.

A cluster shares a file system with this machine, and needs the extra ``recalign[ray]``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from recalign.errors import InputError
from recalign.run.chain.experiment import Chain
from recalign.workers import LocalWorkers, Outcome, WorkerDied, Workers, attempt

PASSED_ON = ("RECALIGN_", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "GOMP_", "OMP_WAIT_")
"""Beginnings of the environment variables that workers get from this process; Ray sets those of threads and GPUs."""


def workers_of(chain: Chain) -> AbstractContextManager[Workers | None]:
    """The workers that a chain asks for: processes of this machine, or a Ray cluster's; None: this process.

    Raises:
        InputError: Ray is not installed, or cannot be reached.
    """
    if chain.engine == "ray":
        return RayWorkers(chain.workers, chain.num_cpus or chain.threads or 1, chain.num_gpus)
    number = chain.workers or 1
    if number == 1:
        return nullcontext()
    gpus = _gpus()
    return LocalWorkers([{"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {} for n in range(number)])


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(n) for n in range(count)]


class RayWorkers(Workers):
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
        self.ray = ray
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        local: dict[str, Any] = (
            {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": (number and round(number * num_cpus)) or None}
        )
        try:
            _require_reachable(os.environ.get("RAY_ADDRESS", ""))
            ray.init(runtime_env={"env_vars": passed}, log_to_driver=False, **local)
        except (OSError, RuntimeError, ValueError) as error:
            remedy = "check RAY_ADDRESS, or unset it to use this machine"
            raise InputError(f"there is no Ray cluster to reach ({error})", where="engine", remedy=remedy) from error
        room = _room(ray.cluster_resources(), {"CPU": num_cpus, "GPU": num_gpus})
        super().__init__(min(number or room, room))
        # The chain itself tries a task again; Ray would do so without a word.
        self._attempt = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(_attempt_in)

    def _outcome(self, function: Callable[..., Any], *args: Any) -> Outcome:
        try:
            return self.ray.get(self._attempt.remote(os.getcwd(), function, *args))
        except self.ray.exceptions.RayError as error:
            raise WorkerDied(type(error).__name__) from error

    def _end(self) -> None:
        self.ray.shutdown()


def _attempt_in(folder: str, function: Callable[..., Any], *args: Any) -> Outcome:
    os.chdir(folder)
    return attempt(function, *args)


def _require_reachable(address: str) -> None:
    """Knock at HOST:PORT, so that a wrong address is an OSError within seconds: Ray itself tries much longer."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _room(there: dict[str, float], asked: dict[str, float]) -> int:
    """How many tasks a cluster has room for at a time.

    Raises:
        InputError: not even one.
    """
    room = min(int(there.get(name, 0) // number) for name, number in asked.items() if number)
    if room < 1:
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in asked)
        raise InputError(
            f"the cluster has {has}, too little for one task", where="engine", remedy="lower num_cpus or num_gpus"
        )
    return room
