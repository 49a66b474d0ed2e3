"""How many threads a fit takes, and how they wait, where other processes keep the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from recalign.run import cores

BUSY = {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize(
    ("runnable", "chosen", "threads"),
    [
        ([1, 1, 1, 1, 1], {}, [1, 4, 4]),
        ([2, 1, 5, 1, 1], {}, [1, 4, 4]),  # others woke for a moment
        ([2, 3, 2, 1, 2], BUSY, [1, 3, 3]),
        ([9, 9, 9, 9, 9], BUSY, [1, 1, 1]),
    ],
)
def test_threads_are_fewer_and_sleep_at_once_beside_busy_processes(
    monkeypatch: pytest.MonkeyPatch, runnable: list[int], chosen: dict[str, str], threads: list[int]
):
    looks = chain.from_iterable(runnable if runnable[0] > 1 else runnable[:1] for _ in range(4))
    machine(monkeypatch, 4, 4, Path("nothing"))
    monkeypatch.setattr(cores, "_runnable", lambda: next(looks))
    assert shared(monkeypatch, {}) == chosen
    assert [cores.free_threads(most) for most in (1, 4, 8)] == threads


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"),
    [(8, "max 100000\n", 8), (2, "max 100000\n", 2), (8, "150000 100000\n", 2), (8, "10000 100000\n", 1), (8, "", 8)],
)
def test_a_container_has_the_cores_of_its_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, affinity: int, quota: str, usable: int
):
    (tmp_path / "cpu.max").write_text(quota)
    machine(monkeypatch, 8, affinity, tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "others_running", lambda: 0)
    assert cores.usable_cores() == cores.free_threads(99) == usable


def test_a_container_has_the_memory_of_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cores, "LIMIT", tmp_path / "memory.max")
    whole = cores.usable_memory()
    for limit, usable in {"max\n": whole, "4096\n": 4096, str(10 * whole): whole}.items():
        (tmp_path / "memory.max").write_text(limit)
        assert cores.usable_memory() == usable


def machine(monkeypatch: pytest.MonkeyPatch, number: int, affinity: int, quota: Path) -> None:
    """One with so many cores, on which this process may use fewer."""
    monkeypatch.setattr(os, "cpu_count", lambda: number)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(affinity)}, raising=False)
    monkeypatch.setattr(cores, "QUOTA", quota)


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch, own: dict[str, str]):
    monkeypatch.setattr(cores, "_runnable", lambda: 9)
    assert shared(monkeypatch, own) == own


def test_set_wait_policy_changes_nothing_without_proc(monkeypatch: pytest.MonkeyPatch):
    def missing() -> int:
        raise FileNotFoundError

    monkeypatch.setattr(cores, "_runnable", missing)
    assert shared(monkeypatch, {}) == {}
    assert cores.others_running() == 0


def shared(monkeypatch: pytest.MonkeyPatch, own: dict[str, str]) -> dict[str, str]:
    """The variables that say how threads wait, after `set_wait_policy` in a process that has not loaded torch."""
    with monkeypatch.context() as patched:
        patched.delitem(sys.modules, "torch")
        patched.setattr(os, "environ", dict(own))
        cores.set_wait_policy()
        return dict(os.environ)


ALREADY = """
import {first}, os, pathlib
pathlib.Path.read_text = lambda self: "9.0 9.0 9.0 9/99 1"
import recalign
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "chosen"), [("sys", "PASSIVE"), ("torch", "None")])
def test_python_chooses_where_torch_is_not_loaded_yet(first: str, chosen: str):
    own = {name: value for name, value in os.environ.items() if name not in cores.WAITING}
    words = [sys.executable, "-c", ALREADY.format(first=first)]
    assert subprocess.run(words, env=own, check=True, capture_output=True, text=True).stdout.strip() == chosen
