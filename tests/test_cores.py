"""How threads wait, and what is said, where other processes keep the cores busy."""

from __future__ import annotations

import os
import sys

import pytest

from recalign import cores
from recalign.cores import say_if_busy


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


@pytest.mark.parametrize(("busy", "said"), [(0, ""), (1, "recalign: others keep 1 of 2 cores busy")])
def test_busy_cores_are_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], busy: int, said: str
):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(cores, "busy_processes", lambda: busy)
    say_if_busy.cache_clear()
    say_if_busy()
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert bool(err) == bool(said)
    say_if_busy()
    assert capsys.readouterr().err == ""
