"""How threads wait where other processes keep the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from recalign.run import cores


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
    """The variables that say how threads wait, after `set_wait_policy` in a process that has not loaded torch."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "environ", dict(own))
    cores.set_wait_policy()
    return dict(os.environ)


ALREADY = "import {first}, os, recalign; print(*(name for name in recalign.run.cores.WAITING if name in os.environ))"


@pytest.mark.slow
@pytest.mark.parametrize(("first", "chosen"), [("sys", 1), ("torch", 0)])
def test_python_chooses_where_torch_is_not_loaded_yet(first: str, chosen: int):
    own = {name: value for name, value in os.environ.items() if name not in cores.WAITING}
    words = [sys.executable, "-c", ALREADY.format(first=first)]
    said = subprocess.run(words, env=own, check=True, capture_output=True, text=True).stdout
    assert len(said.split()) == chosen
