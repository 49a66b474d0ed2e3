"""How threads wait, and what is said, where other processes keep the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from recalign import cores
from recalign.cores import fit_threads


@pytest.mark.parametrize(
    ("runnable", "chosen"),
    [
        ([1, 1, 1, 1, 1], {"GOMP_SPINCOUNT": "1000"}),
        ([2, 1, 5, 1, 1], {"GOMP_SPINCOUNT": "1000"}),  # others woke for a moment
        ([2, 3, 2, 1, 2], {"OMP_WAIT_POLICY": "PASSIVE"}),
    ],
)
def test_threads_sleep_at_once_beside_a_busy_process(
    monkeypatch: pytest.MonkeyPatch, runnable: list[int], chosen: dict[str, str]
):
    looks = iter(runnable)
    monkeypatch.setattr(cores, "_runnable", lambda: next(looks))
    assert shared(monkeypatch, {}) == chosen


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch, own: dict[str, str]):
    assert shared(monkeypatch, own) == own


def test_other_systems_have_no_proc(monkeypatch: pytest.MonkeyPatch):
    def missing() -> int:
        raise FileNotFoundError

    monkeypatch.setattr(cores, "_runnable", missing)
    assert shared(monkeypatch, {}) == {"GOMP_SPINCOUNT": "1000"}


def shared(monkeypatch: pytest.MonkeyPatch, own: dict[str, str]) -> dict[str, str]:
    """The variables that say how threads wait, after `cores.share` in a process that has not loaded torch."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "environ", dict(own))
    cores.share()
    return dict(os.environ)


CORES = 4
BUSY = "recalign: other processes keep half of the cores busy or more, so this "


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`fit_threads` beside so many busy processes, under environment variables."""
    monkeypatch.setattr("os.cpu_count", lambda: CORES)
    cores._say.cache_clear()

    def taken(busy: int, environment: dict[str, str], own: int = CORES, before: int = 0) -> int:
        monkeypatch.setattr(cores, "busy_processes", lambda: busy)
        monkeypatch.setattr(os, "environ", environment)
        return fit_threads(own, before)

    return taken


@pytest.mark.parametrize(
    ("busy", "own", "before", "environment", "taken"),
    [
        (1, 4, 0, {}, 4),
        (2, 4, 0, {}, 2),  # as many as cores are left
        (9, 4, 0, {}, 1),
        (9, 1, 0, {}, 1),
        (9, 4, 0, {"GOMP_SPINCOUNT": "1000"}, 4),  # they do not spin: recalign came before torch, or the user chose
        (9, 4, 0, {"OMP_NUM_THREADS": "4"}, 4),
        (9, 4, 4, {}, 4),  # continued: as before, whatever else runs now
        (0, 4, 1, {}, 1),
        (0, 1, 4, {}, 1),  # a worker has one, whatever the run had outside
        (0, 4, 1, {"OMP_NUM_THREADS": "4"}, 4),
    ],
)
def test_a_fit_takes_what_others_leave(
    threads: Callable[..., int], busy: int, own: int, before: int, environment: dict[str, str], taken: int
):
    assert threads(busy, environment, own, before) == taken


def test_busy_cores_are_mentioned_once(threads: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    for _ in range(2):
        threads(1, {})
        threads(2, {})
        threads(2, {"GOMP_SPINCOUNT": "1000"})
        threads(2, {"OMP_NUM_THREADS": "4"})
    assert capsys.readouterr().err.splitlines() == [
        f"{BUSY}fit takes 2 of 4 threads; OMP_NUM_THREADS sets another number",
        f"{BUSY}takes longer; OMP_NUM_THREADS=1 loses least",
        f"{BUSY}takes longer",
    ]


ALREADY = "import {first}, os, recalign; print(*(name for name in recalign.cores.WAITING if name in os.environ))"


@pytest.mark.parametrize(("first", "chosen"), [("sys", 1), ("torch", 0)])
def test_python_chooses_where_torch_is_not_loaded_yet(first: str, chosen: int):
    own = {name: value for name, value in os.environ.items() if name not in cores.WAITING}
    words = [sys.executable, "-c", ALREADY.format(first=first)]
    said = subprocess.run(words, env=own, check=True, capture_output=True, text=True).stdout
    assert len(said.split()) == chosen
