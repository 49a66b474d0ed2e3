"""Tasks whose worker dies. Workers import them by name."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

from recalign.errors import InputError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_with(given: Any) -> None:
    die()


def die_once(marker: Path, given: Any) -> str:
    """Die, unless a file says that this has happened."""
    if not marker.exists():
        marker.touch()
        die()
    print("alive")
    return "alive"


def refuse(given: Any) -> None:
    raise InputError("it is 3", where="key", remedy="give 4")


def fail(given: Any) -> None:
    raise KeyError("a bug")


def join(given: dict[str, str]) -> str:
    return "+".join(given.values())


def variable(name: str) -> str | None:
    return os.environ.get(name)


def fill(_: object) -> None:
    """Find the disk full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "folder/a")
