"""Steps one after the other and side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mortal
import pytest

from recalign import artifacts
from recalign.errors import TrainingError
from recalign.run.chain.graph import Step, _read, anew, in_order, side_by_side
from recalign.run.chain.progress import Progress
from recalign.workers import LocalWorkers


def test_steps_get_the_results_of_what_they_need(tmp_path: Path):
    steps = [
        Step("first", anew(mortal.join)),
        Step("second/one", anew(mortal.die_once, tmp_path / "died"), ("first",)),
        Step("third", anew(mortal.join), ("first", "second/one")),
    ]
    seen: list[str] = []
    last = Step("last", anew(lambda given: seen.append(given["third"])), ("third",), here=True)
    (tmp_path / "died").touch()
    in_order([*steps, last], None, Progress({step.name: step.needs for step in [*steps, last]}, "stage"))
    assert seen == ["+alive"]


@pytest.mark.slow
def test_a_worker_that_dies_is_tried_again_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    seen: list[str] = []
    steps = [
        Step("some/one", anew(mortal.die_once, tmp_path / "died")),
        Step("here", anew(lambda given: seen.append(given["some/one"])), ("some/one",), here=True),
        Step("doomed", anew(mortal.die_with), ("here",)),
    ]
    progress = Progress({step.name: step.needs for step in steps}, "stage", 2)
    with (
        LocalWorkers([{}, {}]) as workers,
        pytest.raises(TrainingError, match=r"^doomed: its worker died twice \(exit code -9\); see .*/logs/doomed\.log"),
    ):
        side_by_side(steps, None, workers, tmp_path / "logs", progress)
    assert seen == ["alive"]
    out = capsys.readouterr().out
    assert "some/one: its worker died (exit code -9); trying once more\n1 of 3 done: some/one" in out
    assert (tmp_path / "logs/some-one.log").read_text() == "alive\n"


def test_a_step_makes_what_is_not_fresh_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    @dataclass
    class Number:
        key: int
        name = "number"

        def state(self) -> artifacts.State:
            return artifacts.check(tmp_path / "number", {"key": self.key})

        def load(self) -> str:
            return (tmp_path / "number/file").read_text()

        def make(self) -> str:
            with artifacts.publish(tmp_path / "number", {"key": self.key}) as part:
                (part / "file").write_text(f"{self.key}")
            return "made"

    steps = [Step(f"{n}", lambda _, key=key: Number(key)) for n, key in enumerate((1, 1, 2))]
    ended: list[tuple[str, bool]] = []

    class Noted(Progress):
        def end(self, name: str, made: bool = True) -> None:
            ended.append((name, made))
            super().end(name, made)

    progress = Noted(dict.fromkeys("0123", ()), "stage")
    assert in_order(steps, None, progress) == {"0": "made", "1": "1", "2": "made"}
    assert ended == [("0", True), ("1", False), ("2", True)]  # what is loaded says nothing of how long others take
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["stage 2 of 4: 1", "  unchanged: number", "stage 3 of 4: 2", "  again: number (changed: key)"]


def test_a_log_that_ends_within_a_letter_is_read(tmp_path: Path):
    log = tmp_path / "asft.log"
    assert _read(log) == ""
    log.write_bytes("batch 3/4 –".encode()[:-1])
    assert _read(log).startswith("batch 3/4 ")
