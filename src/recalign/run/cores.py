"""Cores and memory that this process may use, and how torch's threads wait for each other. Imports no torch."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

QUOTA, LIMIT = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/memory.max")
"""Limits of a container (cgroup v2, Linux): microseconds of CPU per period, and the period; bytes of memory."""
LOOKS = 5
"""Samples of the load, 10 ms apart; their median ignores processes that wake only for a moment."""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables that say how the threads of OpenMP wait."""


def set_wait_policy() -> None:
    """Let idle torch threads sleep if other processes are busy now; `import recalign` calls this.

    A step on several threads ends with its slowest thread. The others spin meanwhile, for three milliseconds by
    libgomp's default (benchmarks/speed/threads.py measures it). If other processes need cores too, spinning threads
    keep the slowest from running. Results do not depend on it. libgomp reads the variable once, when torch is loaded.
    Nothing is changed after that, or if the user has set one of `WAITING`.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING) and others_running():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def usable_cores() -> int:
    """Cores that this process may use: the least of the machine's, its affinity and its container's quota."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = min(cores, len(os.sched_getaffinity(0)))
        with suppress(OSError, ValueError):  # there is no quota: no file, or the word max
            quota, period = map(int, QUOTA.read_text().split())
            cores = min(cores, math.ceil(quota / period))
    return max(1, cores)


def usable_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit if that is less."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else sys.maxsize
    with suppress(OSError, ValueError):
        memory = min(memory, int(LIMIT.read_text()))
    return memory


def free_threads(most: int) -> int:
    """Number of usable cores that are idle now: at least 1, at most ``most``."""
    idle = (os.cpu_count() or 1) - others_running()
    return max(1, min(most, idle, usable_cores()))


def others_running() -> int:
    """Other threads of this machine that run or wait for a core: the median of `LOOKS` samples (Linux; else 0)."""
    try:
        looks = [_runnable()]
        while looks[0] > 1 and len(looks) < LOOKS:
            time.sleep(0.01)
            looks.append(_runnable())
    except OSError:
        return 0
    return max(0, sorted(looks)[len(looks) // 2] - 1)  # this one runs as well


def _runnable() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
