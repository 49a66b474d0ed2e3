"""Two processes of a fit, one of which is killed or hangs: the other says so, and ends. None is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny

from recalign.run.stage import Manifest, RunFolder

pytestmark = pytest.mark.long
RUN = RunFolder(Path("runs/simulated/recommender/seed-0"))
FIT = "fit recommender --config conf/logs/simulated.yaml --config conf/trainer/ddp.yaml --data.root data"
SHORT = "--data.max_length 24 --trainer.accelerator cpu --trainer.enable_progress_bar false"
FOR_EVER = "--trainer.log_every_n_steps 1 --trainer.max_epochs 100000 --early_stopping null"
PROMISE = "Dead processes are detected"
PATIENCE = 600
"""Seconds: on a busy machine the two take minutes to start."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a log and conf/."""
    monkeypatch.chdir(tmp_path)
    return tiny.prepare(tmp_path)


SHARDED = "--config conf/trainer/row-sharding.yaml --model.memory false --trainer.strategy.init_args.timeout 0:00:20"


@pytest.fixture
def more() -> str:
    """Further options of the fit; a test may override them."""
    return ""


@pytest.fixture
def run(place: Path, more: str) -> Iterator[subprocess.Popen[str]]:
    """A fit of two processes that goes on for ever: the first of them, which starts the second."""
    words = [*FIT.split(), *more.split(), *SHORT.split(), *FOR_EVER.split()]
    told = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    first = subprocess.Popen(
        [sys.executable, "-m", "recalign", *words], env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield first
    first.kill()  # the second then ends by itself


def until(true: Callable[[], object], run: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not true() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    if not true():
        run.kill()
        pytest.fail(run.communicate()[1])


def second_of(run: subprocess.Popen[str]) -> int:
    """The process that the first one has started, once there is one."""

    def found() -> list[int]:
        children = read(f"/proc/{run.pid}/task/{run.pid}/children").split()
        return [int(pid) for pid in children if "recalign.__main__\0fit" in words_of(pid)]

    until(found, run)
    return found()[0]


def words_of(pid: int | str) -> str:
    """The command of a process that runs; empty: there is none."""
    return read(f"/proc/{pid}/cmdline")


def read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_says_so_and_ends(run: subprocess.Popen[str], trial, rank: int):
    second = second_of(run)
    until(lambda: RUN.figures("fit").is_file() and RUN.last.is_file(), run)
    victim, other = (second, run.pid) if rank else (run.pid, second)
    os.kill(victim, signal.SIGKILL)
    trial(PROMISE, f"SIGKILL of the {'second' if rank else 'first'} of two processes")
    said = run.communicate(timeout=PATIENCE)[1]
    assert "another process of this run is gone or silent" in said
    assert "add --ckpt_path last to go on" in said
    assert "Traceback" not in said
    assert not words_of(other)
    if rank:
        assert run.returncode == 3
        assert Manifest.read(RUN).status == "failed"


@pytest.mark.parametrize("more", [SHARDED])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_hangs_ends_the_run_after_the_timeout(run: subprocess.Popen[str], trial, rank: int):
    second = second_of(run)
    until(lambda: RUN.figures("fit").is_file() and RUN.last.is_file(), run)
    victim, other = (second, run.pid) if rank else (run.pid, second)
    os.kill(victim, signal.SIGSTOP)
    trial(PROMISE, f"SIGSTOP of the {'second' if rank else 'first'} of two processes with sharded rows")
    until(lambda: state_of(other) in ("", "Z"), run)
    os.kill(victim, signal.SIGKILL)  # it holds the pipes
    assert "another process of this run is gone or silent" in run.communicate(timeout=PATIENCE)[1]


def state_of(pid: int) -> str:
    """S: sleeps, R: runs, T: stopped, Z: has ended and is not waited for; empty: there is no such process."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]


def test_one_that_is_killed_before_it_joins_ends_the_run(run: subprocess.Popen[str], trial):
    os.kill(second_of(run), signal.SIGKILL)
    trial(PROMISE, "SIGKILL of the second of two processes before it joins")
    run.communicate(timeout=PATIENCE)
    assert run.returncode not in (0, None)
