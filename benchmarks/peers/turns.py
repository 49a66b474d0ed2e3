"""Training in turns, so that implementations are timed alternately on one machine. Standard library only.

A training program runs as a process of its own, and stands still between its turns: at the end of a step it reports
the turn as a line of JSON, and reads how many seconds the next one lasts. `Turns` is the program's side,
`Trainee` that of whoever times it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

MARK = "turn "  # begins a report's line; whatever else is printed is not one


class Turn(NamedTuple):
    """One stretch of training: loader, forward, backward, optimiser, and what the trainer does around them.

    Attributes:
        steps: optimiser steps.
        seconds: from the end of the last step before the turn to the end of its last.
        events: real targets that were trained on.
        padded: positions that the batches had, padding included.
        users: histories in the batches.
        peak_gib: largest resident memory of the process so far.
        device_gib: largest memory on its GPU so far.
        versions: what was measured, such as ``rectools 0.19.0, torch 2.13.0``.
    """

    steps: int
    seconds: float
    events: int
    padded: int
    users: int
    peak_gib: float
    device_gib: float
    versions: str


def peer_options(about: str | None) -> argparse.Namespace:
    """What `throughput.py` tells a peer's program."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events")
    parser.add_argument("--users", type=int, default=128, help="histories of a batch")
    parser.add_argument("--length", type=int, default=200, help="events of a history")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--warm_up", type=float, default=5.0, help="seconds of the first turn")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


class Turns:
    """Counts what a training program does, and holds it still between its turns.

    Args:
        versions: of what is measured.
        warm_up: seconds of the first turn, at least; it has three steps or more, and is reported like the others.
        cuda: ``torch.cuda`` where the training runs on a GPU, whose work a turn waits for.
    """

    def __init__(self, versions: str, warm_up: float = 5.0, cuda: Any = None) -> None:
        self.versions, self.cuda = versions, cuda
        self.least_seconds, self.least_steps = warm_up, 3
        self.out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        self._begin()

    def _begin(self) -> None:
        self.steps = self.events = self.padded = self.users = 0
        self.began = time.perf_counter()

    def step(self, events: int, padded: int, users: int) -> None:
        """To be called at the end of every step; returns when the next one may begin."""
        self.steps, self.events = self.steps + 1, self.events + events
        self.padded, self.users = self.padded + padded, self.users + users
        if self.steps < self.least_steps or time.perf_counter() - self.began < self.least_seconds:
            return
        if self.cuda:
            self.cuda.synchronize()
        seconds = time.perf_counter() - self.began
        device_gib = self.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0
        counted = self.steps, seconds, self.events, self.padded, self.users
        turn = Turn(*counted, peak_gib(), device_gib, self.versions)
        print(MARK + json.dumps(turn), file=self.out, flush=True)
        self.least_seconds, self.least_steps = float(sys.stdin.readline()), 1
        self._begin()


def peak_gib() -> float:
    """Largest resident memory of this process, in GiB.

    `getrusage` alone would count what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Trainee:
    """A training program that waits for its turns; used as a context, which ends it.

    Args:
        name: for the table.
        command: of the program.
        env: variables that are added to the environment.
    """

    def __init__(self, name: str, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed on leaving the context)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=Path(__file__).parents[2],  # so that `python -m benchmarks.peers.<name>` is found
        )

    def __enter__(self) -> Trainee:
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def report(self) -> Turn:
        """Wait for the end of the turn that it is at.

        Raises:
            ChildProcessError: it ended instead; the message holds the end of what it said.
        """
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                return Turn(*json.loads(line.removeprefix(MARK)))
        self.errors.seek(0)
        raise ChildProcessError(f"{self.name} ended: {' '.join(self.errors.read().split())[-1500:]}")

    def train(self, seconds: float) -> Turn:
        """Give it a turn of at least so many seconds, and at least a step."""
        assert self.process.stdin
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self.report()
