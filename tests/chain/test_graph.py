"""Tasks one after the other and side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import mortal
import pytest

from recalign.chain.graph import Task, in_order, side_by_side
from recalign.chain.progress import Progress
from recalign.errors import TrainingError
from recalign.workers import LocalWorkers


def test_tasks_get_the_results_of_what_they_need(tmp_path: Path):
    tasks = [
        Task("first", mortal.join),
        Task("second/one", partial(mortal.die_once, tmp_path / "died"), ("first",)),
        Task("third", mortal.join, ("first", "second/one")),
    ]
    seen: list[str] = []
    last = Task("last", lambda given: seen.append(given["third"]), ("third",), here=True)
    (tmp_path / "died").touch()
    in_order([*tasks, last], None, Progress({task.name: task.needs for task in [*tasks, last]}, "stage"))
    assert seen == ["+alive"]


def test_a_worker_that_dies_is_tried_again_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen: list[str] = []
    tasks = [
        Task("some/one", partial(mortal.die_once, tmp_path / "died")),
        Task("here", lambda given: seen.append(given["some/one"]), ("some/one",), here=True),
        Task("doomed", mortal.die_with, ("here",)),
    ]
    progress = Progress({task.name: task.needs for task in tasks}, "stage", 2)
    with (
        LocalWorkers([{}, {}]) as workers,
        pytest.raises(TrainingError, match=r"^doomed: its worker died twice \(exit code -9\); see .*/logs/doomed\.log"),
    ):
        side_by_side(tasks, None, workers, tmp_path / "logs", progress)
    assert seen == ["alive"]
    out = capsys.readouterr().out
    assert "some/one: its worker died (exit code -9); trying once more\n1 of 3 done: some/one" in out
    assert (tmp_path / "logs/some-one.log").read_text() == "alive\n"
