"""Workers: what comes back from another process, and what happens when it dies."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import mortal
import pytest

from recalign.errors import InputError
from recalign.workers import LocalWorkers, RayWorkers, _room, locked


def test_workers_have_their_environment_and_are_replaced_when_one_dies():
    with LocalWorkers([{"WHO": "first"}, {"WHO": "second"}]) as workers:
        names = [workers.submit(mortal.variable, "WHO") for _ in range(4)]
        assert {future.result() for future in names} <= {"first", "second"}
        with pytest.raises(BrokenExecutor):
            workers.submit(mortal.die).result()
        again = [workers.submit(os.getpid) for _ in range(4)]
        assert os.getpid() not in {future.result() for future in again}
    assert not multiprocessing.active_children()


def test_workers_return_errors_and_tracebacks():
    with LocalWorkers([{}]) as workers:
        with pytest.raises(InputError) as refused:
            workers.submit(mortal.refuse, {}).result()
        assert (refused.value.what, refused.value.where, refused.value.remedy) == ("it is 3", "key", "give 4")
        with pytest.raises(KeyError) as bug:
            workers.submit(mortal.fail, {}).result()
        assert "in fail" in str(bug.value.__cause__)
        with pytest.raises(OSError, match="No space left") as full:
            workers.submit(mortal.fill, {}).result()
        assert full.value.filename == "folder/a"


def test_exception_kills_running_workers():
    workers = LocalWorkers([{}])
    sleeping = workers.submit(time.sleep, 600)
    while not sleeping.running():
        time.sleep(0.01)
    workers.__exit__(KeyboardInterrupt)
    assert isinstance(sleeping.exception(), BrokenExecutor)
    assert not multiprocessing.active_children()


def test_ray_cluster_without_room_is_refused():
    assert _room({"CPU": 8.0, "GPU": 3.0}, {"CPU": 2.0, "GPU": 0.5}) == 4
    assert _room({"CPU": 3.0}, {"CPU": 1.0, "GPU": 0.0}) == 3
    with pytest.raises(InputError, match=r"8 CPU, 0 GPU, too little for one task"):
        _room({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0})


@pytest.mark.long
@pytest.mark.usefixtures("ray")
def test_unreachable_ray_cluster_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match="no Ray cluster can be reached"):
        RayWorkers(None, 1, 0)


def test_lock_leaves_nothing_if_no_folder_was_made(tmp_path: Path):
    folder = tmp_path / "runs/shop/asft/seed-0"
    for _ in range(2):
        with pytest.raises(InputError), locked(folder, "training", "wait"):
            raise InputError("refused")
        assert not list(tmp_path.iterdir())
    with locked(folder, "training", "wait"):
        folder.mkdir()
    assert {path.name for path in folder.parent.iterdir()} == {"seed-0", ".seed-0.lock"}
