"""The steps of a chain, and how they run one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recalign.files import read_json, write_json
from recalign.run.stage.console import echo
from recalign.workers import torch_threads

Results = Mapping[str, Any]
"""What steps returned, by their names."""
LOADED_SECONDS = 5.0
"""A step that took less was loaded, or is too short for an estimate."""


@dataclass(frozen=True)
class Step:
    """A piece of a chain.

    Attributes:
        name: ``<stage>/seed-<n>``, say.
        run: loads or makes its result, from the results of the steps that it needs; workers get it pickled.
        needs: names of the steps that come first.
        in_main: whether it runs in the chain's own process, because it is short and prints.
    """

    name: str
    run: Callable[[Results], Any]
    needs: tuple[str, ...] = ()
    in_main: bool = False

    def given(self, done: Results) -> Results:
        """The results of what it needs."""
        return {name: done[name] for name in self.needs}


class Progress:
    """Counts the steps that are done, and estimates the minutes left by what they took in an earlier run of the chain.

    Args:
        steps: all of them.
        file: seconds of each kind of step (``asft`` of asft/seed-0); read, and written as steps end.

    Attributes:
        workers: how many steps run at a time.
    """

    def __init__(self, steps: Sequence[Step], file: Path) -> None:
        self.file, self.workers, self.total = file, 1, len(steps)
        self.left = {step.name: step.name.rstrip("0123456789").removesuffix("/seed-") for step in steps}
        self.seconds: dict[str, float] = read_json(file)
        self._began: dict[str, float] = {}
        self._earlier = dict(self.seconds)

    @property
    def done(self) -> int:
        return self.total - len(self.left)

    def begin(self, name: str) -> None:
        self._began[name] = time.monotonic()

    def end(self, name: str) -> None:
        kind, seconds = self.left.pop(name), time.monotonic() - self._began[name]
        if seconds > LOADED_SECONDS:
            self.seconds[kind] = round(seconds, 1)
            write_json(self.file, self.seconds)

    def minutes_left(self) -> str:
        """In words; empty where no earlier run tells them."""
        seconds = sum(self._earlier.get(kind, 0.0) for kind in self.left.values()) / self.workers
        return f", about {seconds / 60:.0f} min left" if seconds >= 60 else ""


def run_in_order(steps: Sequence[Step], progress: Progress, threads: int | None = None) -> Results:
    """Run steps in this process, with so many threads of torch (None: its own choice).

    Args:
        steps: each after what it needs.

    Returns:
        The result of each.
    """
    done: dict[str, Any] = {}
    with torch_threads(threads):
        for number, step in enumerate(steps, 1):
            echo(f"stage {number} of {len(steps)}{progress.minutes_left()}: {step.name}")
            progress.begin(step.name)
            done[step.name] = step.run(step.given(done))
            progress.end(step.name)
    return done
