"""Cores that are shared with other processes: how threads wait for each other. Imports no torch."""

from __future__ import annotations

import os
import sys
from functools import cache

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables that say how the threads of OpenMP wait."""

SPINS = "1000"
"""How often a thread looks again before it sleeps; libgomp's own default is three milliseconds' worth and more."""


def share() -> None:
    """Let threads that wait for each other sleep soon, unless the user has said how they wait.

    A step on several threads ends when the slowest has. The others spin, and where another process wants their cores,
    they keep the slowest from running. libgomp reads this once, when torch is loaded: afterwards nothing is changed.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS


@cache
def say_if_busy() -> None:
    """Say on stderr, once, that other processes keep more than half of the cores busy."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores / 2:
        remedy = "" if "OMP_NUM_THREADS" in os.environ else "; OMP_NUM_THREADS=1 loses least"
        busy = f"{cores} cores are shared with others (load {load:.0f}), so this takes longer"
        print(f"recalign: {busy}{remedy}", file=sys.stderr)
