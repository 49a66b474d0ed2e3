"""Workers: what comes back from another process, and what happens when it dies."""

from __future__ import annotations

import multiprocessing
import os
import time

import mortal
import pytest

from recalign.errors import InputError
from recalign.workers import LocalWorkers, WorkerDied


def test_a_worker_that_dies_takes_only_its_own_function_with_it():
    with LocalWorkers([{"WHO": "first"}, {"WHO": "second"}]) as workers:
        names = [workers.submit(mortal.variable, "WHO") for _ in range(4)]
        assert {future.result() for future in names} <= {"first", "second"}
        dead, alive = workers.submit(mortal.die), workers.submit(os.getpid)
        assert alive.result() != os.getpid()
        with pytest.raises(WorkerDied, match="exit code -9"):
            dead.result()
        again = [workers.submit(os.getpid) for _ in range(4)]
        assert os.getpid() not in {future.result() for future in again}
    assert not multiprocessing.active_children()


def test_errors_come_back_as_they_are_and_bugs_with_their_traceback():
    with LocalWorkers([{}]) as workers:
        with pytest.raises(InputError) as refused:
            workers.submit(mortal.refuse, {}).result()
        assert str(refused.value) == "key: it is 3\n  -> give 4"
        with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in fail.*KeyError: 'a bug'"):
            workers.submit(mortal.fail, {}).result()


def test_a_full_disk_is_named_as_in_the_first_process():
    with LocalWorkers([{}]) as workers, pytest.raises(InputError, match="folder/a: cannot be written: No space left"):
        workers.submit(mortal.fill, {}).result()


def test_leaving_early_ends_what_still_runs():
    with LocalWorkers([{}]) as workers:
        workers.submit(os.getpid).result()
        sleeping, waiting = workers.submit(time.sleep, 600), workers.submit(os.getpid)
        while not sleeping.running():
            time.sleep(0.01)
    assert isinstance(sleeping.exception(), WorkerDied)
    assert waiting.cancelled()
    assert not multiprocessing.active_children()
