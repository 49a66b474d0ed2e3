"""Whole commands, killed with all their processes at any moment and called again, leave what one call leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.long
COMMANDS = {
    "a chain with two workers": "chain --config conf/chains/tiny.yaml --workers=2",
    "a preparation with two workers": "prepare simulated --data.root=data --partitions=6 --workers=2",
}


def call(folder: Path, words: str, after: float | None = None) -> int:
    """Run ``recalign`` in a folder, with a cache of its own there; the exit code.

    Args:
        after: kill it and the processes that it started after so many seconds; None: never.
    """
    told = {**os.environ, "RECALIGN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    told.pop("RECALIGN_DATA", None)
    with (folder / "said").open("ab") as said:
        command = [sys.executable, "-m", "recalign", *words.split()]
        run = subprocess.Popen(command, cwd=folder, env=told, stdout=said, stderr=said, start_new_session=True)
    try:
        return run.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        return run.wait()


def left(folder: Path) -> dict[str, str]:
    """The figures of a chain, without what things cost, and the digests of the prepared logs' arrays.

    A folder whose name begins with a dot is what a killed command left behind: it goes after a week.
    """
    table = folder / "runs/tiny/comparison.csv"
    rows = [row for row in table.read_text().splitlines() if ",cost/" not in row] if table.is_file() else []
    arrays = [path.relative_to(folder) for path in sorted((folder / "cache").rglob("*.npy"))]
    arrays = [path for path in arrays if not any(part.startswith(".") for part in path.parts)]
    assert arrays
    digests = {str(path): sha256((folder / path).read_bytes()).hexdigest() for path in arrays}
    return {"comparison": "\n".join(rows), **digests}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_kill_shows(tmp_path: Path, trial: Callable[..., None], share: Callable[[int], int], command: str):
    whole, moments = tiny.prepare(tmp_path / "whole"), random.Random(command)
    began = time.monotonic()
    assert call(whole, COMMANDS[command]) == 0, (whole / "said").read_text()
    seconds = time.monotonic() - began
    for number in range(share(12)):
        folder = tiny.prepare(tmp_path / str(number))
        for _ in range(1 + number % 2):
            if call(folder, COMMANDS[command], after=moments.uniform(0, seconds)) == -signal.SIGKILL:
                trial("Exact continuation", f"SIGKILL of {command} and all its processes")
        assert call(folder, COMMANDS[command]) == 0, (folder / "said").read_text()
        assert left(folder) == left(whole)
        assert "Traceback" not in (folder / "said").read_text()
