"""One line for each stage or trial: which of how many, and about how much time is left."""

from __future__ import annotations

import math
import time
from statistics import fmean

IDLE = 1.0  # seconds: what took less had nothing to do, and says nothing about the others


def say(line: str) -> None:
    print(line, flush=True)  # in step with the progress on stderr


def about(seconds: float) -> str:
    """The time left, rounded, in words; empty for none."""
    if seconds <= 0:
        return ""
    if seconds < 60:
        return f", about {10 * math.ceil(seconds / 10)} s left"
    return f", about {seconds / 60:.0f} min left" if seconds < 3600 else f", about {seconds / 3600:.1f} h left"


class Progress:
    """Announces what runs one after the other.

    Args:
        total: how many there are.
        what: one of them is called.
    """

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what = total, what
        self._began = time.monotonic()
        self._worked: list[float] = []

    def begin(self, number: int, name: str) -> None:
        """Announce the next one, and the time left if the others take as long as those ``number`` that ran."""
        now = time.monotonic()
        if number and now - self._began > IDLE:
            self._worked.append(now - self._began)
        self._began = now
        left = fmean(self._worked) * (self.total - number) if self._worked else 0.0
        say(f"{self.what} {number + 1} of {self.total}{about(left)}: {name}")
