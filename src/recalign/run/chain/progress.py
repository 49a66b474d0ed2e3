"""One line for each stage or trial: which of how many, and about how much time is left.

A task's kind is its stage or method. It is expected to take as long as tasks of its kind took in this call; else as
long as they took in an earlier one, or their share of `SECONDS`, times the pace of this call: for methods the pace of
methods, once one has run. `SECONDS` overrates the recommender on a short log, so no task is expected to take less than
`START`, or than the quickest so far. The time left is the work left over the workers, but at least that of the longest
path of tasks that wait for each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from recalign.files import read_json, write_json
from recalign.run.stage.console import say

START = 3.0  # seconds: about what a stage takes on a log so short that hardly anything is trained
IDLE = 1.0  # seconds: what took less had nothing to do, and says nothing about the others
METHOD = "method"
OTHERS = ("world", "tokens", "validation", "choice")
"""Kinds that are neither a stage in `SECONDS` nor a method."""
SECONDS = {
    "recommender": 34.2,
    "reward": 7.1,
    "judge_select": 2.7,
    "judge_report": 2.6,
    METHOD: 6.0,
    "evaluation": 13.6,
}
"""Seconds of a processor for each kind, in `recalign chain simulated --threads 1`; only their relation counts."""


def in_words(seconds: float, how: str = "about") -> str:
    """The time left, rounded; empty for none."""
    if seconds <= 0:
        return ""
    if seconds < 60:
        return f", {how} {10 * math.ceil(seconds / 10)} s left"
    return f", {how} {seconds / 60:.0f} min left" if seconds < 3600 else f", {how} {seconds / 3600:.1f} h left"


def kind_of(name: str) -> str:
    """The kind of a task: ``asft`` of asft/seed-0 and asft/trial-3, ``validation`` of asft/validation."""
    first, _, last = name.partition("/")
    return last if last == "validation" else first.rstrip("0123456789").rstrip("-")


class Progress:
    """Announces tasks, and estimates the time that is left.

    Args:
        needs: the names of all tasks, in an order that works, each with those that come first.
        what: one of them is called.
        workers: how many run at a time.
        kept: a file of seconds by kind, from earlier calls and for later ones.
    """

    def __init__(
        self, needs: Mapping[str, Sequence[str]], what: str, workers: int = 1, kept: Path | None = None
    ) -> None:
        self.needs, self.what, self.workers, self.kept = needs, what, workers, kept
        self._earlier: dict[str, float] = read_json(kept) if kept else {}
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}

    def announce(self, name: str, said: str = "") -> None:
        """Say that a task begins, and the time left."""
        say(f"{self.what} {len(self._took) + 1} of {len(self.needs)}{self.about()}: {said or name}")
        self.begin(name)

    def begin(self, name: str) -> None:
        """A task runs from now on; from earlier on, if that was said before."""
        self._began.setdefault(name, time.monotonic())

    def restart(self, name: str) -> None:
        """A task is back where it was before `begin`."""
        self._began.pop(name, None)

    def end(self, name: str, made: bool = True) -> None:
        """A task is done; ``made``: it had something to do, and so says how long others of its kind take."""
        now = time.monotonic()
        began = self._began.pop(name, now)
        self._took[name] = now - began if made else 0.0
        if self.kept and self._took[name] > IDLE:
            write_json(self.kept, {**self._earlier, **_by_kind(self._took)})

    def so_far(self, what: str, own: Mapping[str, float]) -> str:
        """How many are done, what happens, and about how much time is left; `own` as in `left`."""
        return f"{len(self._took)} of {len(self.needs)} done{what}{self.about(own)}"

    def about(self, own: Mapping[str, float] | None = None) -> str:
        """`left` in words: *perhaps*, while all that is known is what a task that runs says of itself."""
        known = self._earlier or _by_kind(self._took)
        return in_words(self.left(own), "about" if known else "perhaps")

    def left(self, own: Mapping[str, float] | None = None) -> float:
        """Seconds until all is done; 0 where nothing is known yet.

        Args:
            own: of running tasks, the seconds that they say are left, at most: training may stop early.
        """
        now, own = time.monotonic(), own or {}
        elapsed = {name: now - began for name, began in self._began.items()}
        took = _by_kind(self._took)
        said = {} if self._earlier else _by_kind({name: elapsed.get(name, 0.0) + rest for name, rest in own.items()})
        if not (took or said or (self._earlier and max(elapsed.values(), default=0.0) > IDLE)):
            return 0.0
        expected = self._expected(took or said) | took
        rest, path = dict[str, float](), dict[str, float]()
        for name, needs in self.needs.items():
            if name not in self._took:
                due = max(expected[kind_of(name)] - elapsed.get(name, 0.0), 0.0)
                rest[name] = min(due or math.inf, own.get(name, due))
                path[name] = rest[name] + max((path.get(one, 0.0) for one in needs), default=0.0)
        return max(sum(rest.values()) / self.workers, *path.values(), 0.0)

    def _expected(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Seconds by kind: as in an earlier call, else by `SECONDS`, at the pace of this one."""
        kinds = {kind_of(name) for name in self.needs} | measured.keys() | self._earlier.keys()
        usual = {kind: SECONDS.get(kind, SECONDS[METHOD]) for kind in kinds}
        usual |= {kind: seconds * _ratio(self._earlier, usual) for kind, seconds in usual.items()} | self._earlier
        methods = {kind: seconds for kind, seconds in measured.items() if kind not in SECONDS and kind not in OTHERS}
        stages = {kind: seconds for kind, seconds in measured.items() if kind in SECONDS}
        own = {kind: (stages if kind in SECONDS else methods or stages) or measured for kind in usual}
        least = min([START, *measured.values(), *self._earlier.values()])
        return {kind: max(seconds * _ratio(own[kind], usual), least) for kind, seconds in usual.items()}


def _ratio(measured: Mapping[str, float], usual: Mapping[str, float]) -> float:
    """How much longer what was measured took than usual; 1 where nothing was."""
    return sum(measured.values()) / sum(usual[kind] for kind in measured) if measured else 1.0


def _by_kind(took: Mapping[str, float]) -> dict[str, float]:
    """Mean seconds of each kind, by the tasks that had something to do."""
    by_kind: dict[str, list[float]] = {}
    for name, seconds in took.items():
        if seconds > IDLE:
            by_kind.setdefault(kind_of(name), []).append(seconds)
    return {kind: fmean(each) for kind, each in by_kind.items()}
