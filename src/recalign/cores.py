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
    """Choose how threads wait for each other, unless the user has; `import recalign` calls it.

    A step on several threads ends when the slowest has. The others spin meanwhile, and where another process wants
    their cores, they keep the slowest from running. So they sleep at once where another process is busy now, and soon
    where none is: one may come. Figures do not depend on it. libgomp reads this once, when torch is loaded:
    afterwards nothing is changed, and `fit_threads` does what is left to do.
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
        looks = [_runnable()]
        while looks[0] > 1 and len(looks) < LOOKS:
            time.sleep(0.01)
            looks.append(_runnable())
    except OSError:
        return 0
    return sorted(looks)[len(looks) // 2] - 1  # this one runs as well


def _runnable() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


def fit_threads(own: int, before: int = 0) -> int:
    """How many threads a fit takes; where other processes keep at least half of the cores busy, says so on stderr.

    Where torch was loaded before recalign, as in a notebook, its threads spin while they wait. If cores are busy, a fit
    then takes no more threads than cores are left, and at least one. It does not look again later, for figures depend
    on the number of threads, and a fit that is continued must end as one that was not.

    Args:
        own: how many torch would take. They stay if the user has set ``OMP_NUM_THREADS``.
        before: how many this fit had before it was stopped; 0: it is new.
    """
    cores, busy = os.cpu_count() or 1, busy_processes()
    named, crowded, taken = "OMP_NUM_THREADS" in os.environ, busy >= cores / 2, own
    if before and not named:
        taken = min(own, before)
    elif crowded and not named and not any(name in os.environ for name in WAITING):
        taken = min(own, max(cores - busy, 1))
    if crowded and taken < own:
        _say(f"so this fit takes {taken} of {own} threads; OMP_NUM_THREADS sets another number")
    elif crowded:
        _say("so this takes longer" + "; OMP_NUM_THREADS=1 loses least" * (own > 1 and not named))
    return taken


@cache
def _say(consequence: str) -> None:
    """Say it on stderr, once."""
    print(f"recalign: other processes keep half of the cores busy or more, {consequence}", file=sys.stderr)
