"""Two processes that train together, started as a cluster's launcher would, and what each of them found."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parents[2]))  # where a child finds the test module that its work is in
SERVER = multiprocessing.get_context("forkserver")  # Polars, which this process has used, cannot be forked
SERVER.set_forkserver_preload(["recalign.run.stage"])
PROCESSES = 2
CLUSTERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "torchrun": lambda rank: {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": PROCESSES,
        "LOCAL_WORLD_SIZE": PROCESSES,
        "TORCHELASTIC_RUN_ID": "none",
    },
    "nodes": lambda rank: {"NODE_RANK": rank},
    "slurm": lambda rank: {
        "SLURM_NTASKS": PROCESSES,
        "SLURM_NTASKS_PER_NODE": 1,
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": 0,
        "SLURM_NODEID": rank,
        "SLURM_JOB_ID": 17,
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "localhost",
    },
}
"""What each launcher tells a process, by rank: two on one node, or one on each of two."""


def together(work: Callable[..., Any], *args: Any, cluster: str = "torchrun") -> list[Any]:
    """What ``work(*args)`` returns in each of two processes, by rank."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        files = [Path(folder) / f"{rank}.pt" for rank in range(PROCESSES)]
        free.close()
        children = [
            SERVER.Process(target=_one, args=(work, args, file, {**CLUSTERS[cluster](rank), "MASTER_PORT": port}))
            for rank, file in enumerate(files)
        ]
        for child in children:
            child.start()
        wait([child.sentinel for child in children])
        for child in children:
            child.join(None if not any(one.exitcode for one in children) else 10)  # one that failed leaves one waiting
            child.kill()
        assert [child.exitcode for child in children] == [0] * PROCESSES
        return [torch.load(file, weights_only=False) for file in files]


def _one(work: Callable[..., Any], args: tuple[Any, ...], file: Path, told: dict[str, Any]) -> None:
    os.environ.update({name: str(value) for name, value in {"MASTER_ADDR": "127.0.0.1", **told}.items()})
    torch.set_num_threads(1)
    torch.save(work(*args), file)
    if dist.is_initialized():
        dist.destroy_process_group()
