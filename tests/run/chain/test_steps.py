"""Steps one after the other, and the minutes left."""

from __future__ import annotations

import json
from pathlib import Path

import mortal
import pytest

from recalign.run.chain import steps as chain_steps
from recalign.run.chain.steps import Progress, Step, run_in_order


def test_steps_get_the_results_of_what_they_need_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps = [
        Step("first", mortal.join),
        Step("second/one", lambda given: f"{given}", ("first",)),
        Step("third", mortal.join, ("first", "second/one")),
    ]
    done = run_in_order(steps, Progress(steps, tmp_path / "seconds.json"))
    assert done == {"first": "", "second/one": "{'first': ''}", "third": "+{'first': ''}"}
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["stage 1 of 3: first", "stage 2 of 3: second/one", "stage 3 of 3: third"]


def test_the_minutes_left_are_what_an_earlier_run_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(chain_steps.time, "monotonic", lambda: now)
    steps = [Step(name, mortal.join) for name in ("reward/seed-0", "asft/seed-0", "asft/seed-1", "loaded/seed-0")]
    for estimates, seconds in (([0, 0, 0, 0], 120), ([6, 4, 2, 0], 240)):
        progress = Progress(steps, tmp_path / "seconds.json")
        for step, minutes in zip(steps, estimates, strict=True):
            assert progress.minutes_left() == (f", about {minutes} min left" if minutes else "")
            progress.begin(step.name)
            now += 1 if "loaded" in step.name else seconds
            progress.end(step.name)
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"reward": 240, "asft": 240}
    progress = Progress(steps, tmp_path / "seconds.json")
    progress.workers = 4
    assert progress.minutes_left() == ", about 3 min left"
