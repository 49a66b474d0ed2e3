"""Steps one after the other, or side by side, and the minutes left."""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mortal
import polars as pl
import pytest
import tiny
import torch

from recalign.errors import InputError, TrainingError
from recalign.run.chain import Chain, parallel
from recalign.run.chain.parallel import Progress, number_of_workers, run_here, run_side_by_side
from recalign.run.chain.plan import Plan
from recalign.run.chain.steps import Step
from recalign.workers import LocalWorkers, RayWorkers


def test_steps_get_the_results_of_what_they_need_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps = [
        Step("first", mortal.join),
        Step("second/one", lambda given: f"{given}", ("first",)),
        Step("third", mortal.join, ("first", "second/one")),
    ]
    done = run_here(tmp_path, None, steps)
    assert done == {"first": "", "second/one": "{'first': ''}", "third": "+{'first': ''}"}
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["stage 1 of 3: first", "stage 2 of 3: second/one", "stage 3 of 3: third"]


def test_the_minutes_left_are_what_an_earlier_run_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(parallel.time, "monotonic", lambda: now)
    steps = [Step(name, mortal.join) for name in ("reward/seed-0", "asft/seed-0", "asft/seed-1", "loaded/seed-0")]
    for estimates, seconds in (([0, 0, 0, 0], 120), ([6, 4, 2, 0], 240)):
        progress = Progress(steps, tmp_path)
        for step, minutes in zip(steps, estimates, strict=True):
            assert progress.of_all(1) == "1 of 4" + (f", about {minutes} min left" if minutes else "")
            began = now
            now += 1 if "loaded" in step.name else seconds
            progress.end(step, began)
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"reward": 240, "asft": 240}
    assert Progress(steps, tmp_path, workers=4).of_all(0) == "0 of 4, about 3 min left"


def test_a_worker_imports_the_classes_that_the_stages_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint imports nothing, and the process that parsed the stages is another one."""
    (tmp_path / "nets_of_mine.py").write_text("class Mine: ...")
    monkeypatch.syspath_prepend(tmp_path)
    stages = [{"model": {"class_path": path}} for path in ("nets_of_mine.Mine", "gone.Net", "os.Gone")]
    Plan.__new__(Plan).__setstate__({"_once": {n: SimpleNamespace(config=one) for n, one in enumerate(stages)}})
    assert "nets_of_mine" in sys.modules


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"recalign\[ray\]"):
        parallel.workers_of(Chain(log="simulated", methods=["start"], engine="ray"))


class Here:
    """A worker in this process, which notes what it was given."""

    number = 1

    def __init__(self) -> None:
        self.given: list[str] = []

    def submit(self, _, log: Path, threads: int, run, done) -> Future:
        self.given.append(log.stem)
        future = Future()
        future.set_result(run(done))
        return future


def test_run_side_by_side_prefers_needed_steps_and_loads_fresh_ones_without_a_worker(tmp_path: Path):
    def artifact(fresh: bool):
        return lambda _: SimpleNamespace(state=lambda: SimpleNamespace(fresh=fresh))

    first = Step("recommender", mortal.join, artifact=artifact(True))
    needs = [("judge", ()), ("bc", ("recommender",)), ("reward", ("recommender",)), ("asft", ("reward",))]
    steps = [first, *(Step(name, mortal.join, needs, artifact=artifact(False)) for name, needs in needs)]
    run_side_by_side(workers := Here(), tmp_path, None, steps)  # type: ignore[arg-type]
    assert workers.given == ["reward", "judge", "bc", "asft"]


def test_without_a_gpu_there_is_a_worker_a_core(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 5)
    monkeypatch.setattr(parallel, "MEMORY", 1)
    assert [number_of_workers(threads) for threads in (1, 2, 4, 8)] == [5, 2, 1, 1]
    monkeypatch.setattr(parallel, "usable_cores", lambda: 64)
    assert [number_of_workers(threads) for threads in (1, 2, 4, 8)] == [6, 3, 1, 1]
    chain = Chain(log="simulated", methods=["start"])
    assert parallel.workers_of(chain, alone=True) is None
    with parallel.workers_of(chain) as workers:
        assert workers.number == 6
    monkeypatch.setattr(parallel, "MEMORY", 2**60)
    assert parallel.workers_of(chain) is None


@pytest.mark.parametrize(
    ("visible", "count", "given"),
    [(None, 0, [None] * 3), (None, 2, ["0", "1", "0"]), ("4,7", 2, ["4", "7", "4"]), ("", 0, [None] * 3)],
)
def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, given: list[str | None]):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(parallel, "LocalWorkers", seen.extend)
    parallel.workers_of(Chain(log="simulated", methods=["start"], workers=3))
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in seen] == given


def run_with_deaths(workers: LocalWorkers | RayWorkers, folder: Path) -> tuple[str, str]:
    """What the step after the one that died once has written, and how the run ended."""
    steps = [
        Step("some/one", partial(mortal.die_once, folder / "died")),
        Step("main", lambda given: (folder / "main").write_text(given["some/one"]), ("some/one",), in_main=True),
        Step("doomed", mortal.die_with, ("main",)),
    ]
    with workers, pytest.raises(TrainingError) as ended:
        run_side_by_side(workers, folder, None, steps)
    return (folder / "main").read_text(), str(ended.value)


@pytest.mark.slow
def test_a_worker_that_dies_is_tried_again_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written, ended = run_with_deaths(LocalWorkers([{}, {}]), tmp_path)
    assert (written, "doomed: its worker died twice" in ended, "logs/doomed.log" in ended) == ("alive", True, True)
    assert "some/one: its worker or another one died" in (out := capsys.readouterr().out)
    assert "done 1 of 3: some/one" in out
    assert (tmp_path / "logs/some-one.log").read_text() == "alive\n"


@pytest.mark.long
@pytest.mark.usefixtures("ray")
def test_a_killed_worker_of_ray_is_tried_again_once(tmp_path: Path, trial):
    trial("Dead processes are detected", "SIGKILL of a worker of a chain on Ray", 3)
    written, ended = run_with_deaths(RayWorkers(2, 1, 0), tmp_path)
    assert (written, "doomed: its worker died twice" in ended) == ("alive", True)


@pytest.mark.long
@pytest.mark.usefixtures("ray")
def test_a_chain_on_ray_has_the_figures_of_one_in_order(tmp_path: Path, trial):
    trial("Reproducible figures", "a chain's stages on two workers of Ray")
    tiny.prepare(tmp_path)
    words = ("--methods=[start, bc]", "--threads=1")
    assert tiny.chain(tmp_path, *words, "--name=order").code == 0
    said = tiny.chain(tmp_path, *words, "--name=ray", "--engine=ray", "--workers=2")
    assert said.code == 0, said.err
    tables = [pl.read_csv(tmp_path / f"runs/{name}/comparison.csv") for name in ("order", "ray")]
    ours, theirs = (table.filter(pl.col("metric") != "cost/seconds") for table in tables)
    assert ours.equals(theirs)
