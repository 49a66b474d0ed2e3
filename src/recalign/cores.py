"""Cores that are shared with other processes: how threads wait for each other. Imports no torch."""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path

LOOKS = 5
"""How often the machine is looked at, 10 ms apart: processes that only wake for a moment do not count."""

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables that say how the threads of OpenMP wait."""

SPINS = "1000"
"""How often a thread looks again before it sleeps; libgomp's own default is three milliseconds' worth and more."""


def share() -> None:
    """Choose how threads wait for each other, unless the user has.

    A step on several threads ends when the slowest has. The others spin meanwhile, and where another process wants
    their cores, they keep the slowest from running. So they sleep at once where another process is busy now, and soon
    where none is: one may come. Figures do not depend on it. libgomp reads this once, when torch is loaded:
    afterwards nothing is changed.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    if busy_processes():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def busy_processes() -> int:
    """Other threads of this machine that run or wait for a core: the median of a few looks (Linux; else 0)."""
    try:
        looks = [_runnable() for _ in range(LOOKS)]
    except OSError:
        return 0
    return sorted(looks)[LOOKS // 2] - 1  # this one runs as well


def _runnable() -> int:
    time.sleep(0.01)
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


@cache
def say_if_busy() -> None:
    """Say on stderr, once, that other processes keep at least half of the cores busy now."""
    cores, busy = os.cpu_count() or 1, busy_processes()
    if busy >= cores / 2:
        remedy = "" if "OMP_NUM_THREADS" in os.environ else "; OMP_NUM_THREADS=1 loses least"
        shared = f"others keep {busy} of {cores} cores busy, so this takes longer"
        print(f"recalign: {shared}{remedy}", file=sys.stderr)
