"""Choose where the tasks of a chain run."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from recalign.chain.experiment import Chain
from recalign.workers import LocalWorkers, Workers


def workers_of(chain: Chain) -> AbstractContextManager[Workers | None]:
    """The workers that a chain asks for: processes of this machine, or a Ray cluster's; None: this process.

    Raises:
        InputError: Ray is not installed, or cannot be reached.
    """
    if chain.engine == "ray":
        from recalign.chain.cluster import RayWorkers

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
