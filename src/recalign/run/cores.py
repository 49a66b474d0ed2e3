"""How torch's threads wait for each other, on cores that other processes may use too. Imports no torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

LOOKS = 5
"""How often the machine is looked at, 10 ms apart: processes that only wake for a moment do not count."""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables that say how the threads of OpenMP wait."""
SPINS = "1000"
"""How often a thread looks again before it sleeps; libgomp's own default is three milliseconds' worth and more."""


def set_wait_policy() -> None:
    """Set how torch's threads wait for each other, unless the user has set it; `import recalign` calls this.

    A step on several threads ends when the slowest has. The others spin meanwhile, and where another process wants
    their cores, they keep the slowest from running. So they sleep at once where another process is busy now, and soon
    where none is: one may come. Figures do not depend on it. libgomp reads this once, when torch is loaded: afterwards
    nothing is changed.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    if _others_are_busy():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _others_are_busy() -> bool:
    """Whether other threads of this machine run or wait for a core, by the median of a few looks (Linux; else no)."""
    try:
        looks = [_runnable()]
        while looks[0] > 1 and len(looks) < LOOKS:
            time.sleep(0.01)
            looks.append(_runnable())
    except OSError:
        return False
    return sorted(looks)[len(looks) // 2] > 1  # this one runs as well


def _runnable() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
