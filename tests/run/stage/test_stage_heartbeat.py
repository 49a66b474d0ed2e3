"""Signs of life: who is gone, who has left, who has not come yet, and who says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from recalign.errors import InputError, TrainingError
from recalign.run.stage import heartbeat, parse_stage, run_stage
from recalign.run.stage.heartbeat import Heartbeat


@pytest.fixture
def hearts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two processes' signs of life, in this one; and the codes with which it would have ended."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.02)
    monkeypatch.setattr(heartbeat, "LATE", 0.3)
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", lambda code: codes.append(code) or two[0].over.set())
    two = [Heartbeat(tmp_path / "ranks", rank, size=2, timeout=1.0) for rank in range(2)]
    yield two, codes
    for one in two:
        one.over.set()


def start(*hearts: Heartbeat) -> None:
    for one in hearts:
        one.start("recalign fit", lambda: "go on")


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_one_that_falls_silent_is_named_and_ends_what_only_waits(hearts, capsys):
    (first, second), codes = hearts
    start(first, second)
    until(lambda: first._heard and second._heard)
    time.sleep(1.5)  # longer than the timeout: both live
    assert codes == []
    second.over.set()  # as if it were stopped
    until(lambda: codes)
    assert codes == [3]
    said = capsys.readouterr().err
    assert said.startswith(f"recalign fit: rank 1 (process {os.getpid()} on ")
    assert "no sign of life for" in said
    assert said.endswith("then go on\n")


def test_a_failed_exchange_waits_until_it_can_be_told_who_is_gone(hearts):
    (first, second), codes = hearts
    start(first, second)
    until(lambda: first._heard)
    second.over.set()
    assert list(first.wait_for_gone()) == [1]
    assert first.speaks({1: ""})
    assert not Heartbeat(first.folder, 2, size=3, timeout=1.0).speaks({1: ""})
    assert codes == []


def test_nobody_is_gone_where_all_live_or_have_left(hearts):
    (first, second), codes = hearts
    start(first, second)
    until(lambda: first._heard)
    assert first.wait_for_gone() == {}
    second.over.set()
    second.leave()
    time.sleep(1.5)
    assert first.gone(silent=0.5) == {}
    assert codes == []
    first.over.set()
    first.leave()
    assert not first.folder.exists()


def test_one_that_was_never_heard_is_waited_for(hearts):
    (first, _), codes = hearts
    first.folder.mkdir()
    (first.folder / "1").write_text("left by a run before")
    first = Heartbeat(first.folder, 0, size=2, timeout=1.0)
    start(first)
    time.sleep(1.5)
    assert codes == []
    until(lambda: list(first.gone(silent=1.0)) == [1])  # but named where the exchange fails
    first.over.set()


def test_a_child_that_dies_before_it_is_heard_is_named(hearts, capsys):
    (first, _), codes = hearts
    dead = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    stopped = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    first.launcher = SimpleNamespace(procs=[dead, stopped])
    first.size = 3
    start(first)
    until(lambda: codes)
    assert "rank 1 was killed by signal 9" in capsys.readouterr().err
    assert stopped.wait(20) == -9  # none is left behind


@pytest.mark.parametrize("spoke", [True, False])
def test_what_ended_a_child_that_was_not_heard_yet_is_waited_for(hearts, monkeypatch: pytest.MonkeyPatch, spoke: bool):
    """It was killed a moment ago: the exchange with it has failed, and the kernel does not say so yet."""
    monkeypatch.setattr(heartbeat, "LATE", 30.0)
    (first, second), _ = hearts
    start(first)
    first.over.set()
    first._clock = 40.0
    if spoke:
        second.start("recalign fit", str)  # its only sign
        second.over.set()
    dying = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    first.launcher = SimpleNamespace(procs=[dying])
    assert (found := first.wait_for_gone()) == {1: "was killed by signal 9"}
    assert first.message(found, str).startswith(f"rank 1 (process {os.getpid()} on " if spoke else "rank 1 was killed")


def test_one_that_says_an_error_of_its_own_has_time_to(hearts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heartbeat, "LATE", 60.0)
    (first, _), codes = hearts
    dead = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    first.launcher = SimpleNamespace(procs=[dead])
    start(first)
    until(lambda: list(first.gone(1.0)) == [1])
    time.sleep(0.5)
    assert codes == []


def watched(folder: Path, error: Exception | None = None, **trainer: object) -> None:
    """A run of the first of two processes, which ends with an error or well."""
    cluster = SimpleNamespace(main_address="node0", main_port=29500)
    strategy = SimpleNamespace(launcher=None, cluster_environment=cluster)
    known = {"world_size": 2, "global_rank": 0, "num_nodes": 1, "is_global_zero": True, "strategy": strategy}
    parsed = SimpleNamespace(
        dry=False,
        folder=SimpleNamespace(path=folder / "seed-0"),
        run=SimpleNamespace(rank_timeout=60.0),
        subcommand="fit",
        how_to_go_on=lambda: "go on",
    )
    with heartbeat.watched(SimpleNamespace(**{**known, **trainer}), parsed):
        if error:
            raise error


def test_a_run_whose_exchange_failed_names_who_is_gone(hearts, tmp_path: Path):
    (first, _), _ = hearts
    with pytest.raises(TrainingError, match=r"rank 1 has given no sign of life for .*\n  -> .* then go on"):
        watched(tmp_path, RuntimeError("Connection closed by peer"))
    first.folder, first.timeout = tmp_path / ".seed-0.ranks", 60.0
    start(first)
    with pytest.raises(SystemExit) as ended:  # of three, the first of those that are left says it
        watched(tmp_path, RuntimeError("Connection closed by peer"), world_size=3, global_rank=1)
    assert ended.value.code == 3


def test_a_run_whose_others_live_keeps_its_own_error(hearts, tmp_path: Path, capsys):
    (_, second), _ = hearts
    second.folder = tmp_path / ".seed-0.ranks"
    start(second)
    with pytest.raises(RuntimeError, match="a bug"):
        watched(tmp_path, RuntimeError("a bug"))
    with pytest.raises(TrainingError, match="waited too long for each other"):
        watched(tmp_path, RuntimeError("Timed out waiting 1800000ms for recv operation to complete"))
    with pytest.raises(ValueError, match="another"):
        watched(tmp_path, ValueError("another"))
    second.over.set()
    second.leave()
    watched(tmp_path, num_nodes=2)
    assert capsys.readouterr().err == "recalign: waits for 2 processes on 2 machines at node0:29500\n"
    watched(tmp_path, world_size=1)
    assert not second.folder.exists()


@pytest.mark.parametrize("seconds", ["0", "-1", ".nan", "4.9"])
def test_a_timeout_that_a_process_at_work_would_miss_is_refused(seconds: str):
    with pytest.raises(InputError, match="is too short"):
        run_stage(parse_stage(["fit", "--config", "toy.yaml", f"--run.rank_timeout={seconds}"]))


def test_machines_that_are_not_told_where_to_meet_are_refused(monkeypatch: pytest.MonkeyPatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="2 machines, and MASTER_ADDR and MASTER_PORT and NODE_RANK are not set"):
        run_stage(parse_stage(["fit", "--config", "toy.yaml", "--trainer.num_nodes=2"]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(InputError, match="2 machines, and NODE_RANK is not set"):
        run_stage(parse_stage(["fit", "--config", "toy.yaml", "--trainer.num_nodes=2"]))
