"""What this process may use of a machine, and how torch's threads wait for each other. Imports no torch."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

QUOTA, LIMIT = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/memory.max")
"""What a container may use (cgroup v2, Linux): microseconds of CPU in each period, and the period; bytes."""
LOOKS = 5
"""How often the machine is looked at, 10 ms apart: processes that only wake for a moment do not count."""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables that say how the threads of OpenMP wait."""


def set_wait_policy() -> None:
    """Let torch's threads sleep where others are busy now, unless the user has chosen; `import recalign` calls this.

    A step on several threads ends when the slowest has. The others spin meanwhile, for three milliseconds by libgomp's
    own default (benchmarks/speed/threads.py measures it). Where another process wants those cores, they keep the
    slowest from running. Figures do not depend on it. libgomp reads this once, when torch is loaded: afterwards nothing
    is changed.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING) and others_running():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def usable_cores() -> int:
    """How many cores this process may use: those of the machine, of its affinity, of its container's quota."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = min(cores, len(os.sched_getaffinity(0)))
        with suppress(OSError, ValueError):  # there is no quota: no file, or the word max
            quota, period = map(int, QUOTA.read_text().split())
            cores = min(cores, math.ceil(quota / period))
    return max(1, cores)


def usable_memory() -> int:
    """Bytes of memory that this process may use: those of the machine, of its container's limit."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else sys.maxsize
    with suppress(OSError, ValueError):
        memory = min(memory, int(LIMIT.read_text()))
    return memory


def free_threads(most: int) -> int:
    """As many threads as there are usable cores that nothing else uses now: one at least, ``most`` at most."""
    idle = (os.cpu_count() or 1) - others_running()
    return max(1, min(most, idle, usable_cores()))


def others_running() -> int:
    """How many other threads of this machine run or wait for a core: the median of a few looks (Linux; else 0)."""
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
