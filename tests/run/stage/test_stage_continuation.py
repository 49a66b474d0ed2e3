"""A killed run that is continued ends as one that never was."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import killed
import pytest
import torch

from recalign.run.stage import RunFolder

TOY = ["--config", "toy.yaml", "--trainer.log_every_n_steps=1"]
WITHIN = [*TOY, "--checkpoint.save_last_every_n_steps=3"]  # of 6 steps an epoch: also at the last batch of each
STOPPED = [*TOY, "--trainer.max_epochs=6", "--early_stopping={monitor: rank/loss, mode: max, patience: 2}"]


def run_of(name: str) -> RunFolder:
    return RunFolder(Path(f"runs/toy/{name}/seed-0"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that saves within epochs and was never killed."""
    from conftest import STAGE

    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("toy.yaml").write_text(STAGE)
        assert killed.fit(*WITHIN) == 0
    return RunFolder(place / run_of("recommender").path)


@pytest.mark.slow
@pytest.mark.parametrize("at_write", [21, 34])  # in the first epoch's end, and after a row that no checkpoint knows
def test_a_killed_run_ends_as_if_it_had_not_been(whole: RunFolder, at_write: int):
    assert killed.fit(*WITHIN, at_write=at_write) == killed.KILLED
    killed.continue_until_done(run_of("recommender"), *WITHIN)
    assert killed.differences(whole, run_of("recommender")) == []


def test_a_run_that_is_asked_to_end_saves_and_says_143(whole: RunFolder):
    assert killed.fit(*TOY, at_write=12, by=signal.SIGTERM) == 143
    manifest = json.loads(run_of("recommender").manifest.read_text())
    assert (manifest["status"], manifest["error"]) == ("failed", "SIGTERMException")
    assert run_of("recommender").last.exists()  # within the first epoch, where none was due
    killed.continue_until_done(run_of("recommender"), *TOY)
    assert killed.differences(whole, run_of("recommender")) == []


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_when_it_is_done_repeats_its_last_epoch(whole: RunFolder):
    """Of the last epoch's file Lightning would train nothing, and so leave out what is done when training ends."""
    assert 143 in (killed.fit(*TOY, at_write=n, by=signal.SIGTERM) for n in range(41, 36, -1))  # until one is heard
    assert torch.load(run_of("recommender").last, weights_only=True)["epoch"] == 0
    killed.continue_until_done(run_of("recommender"), *TOY)
    assert killed.differences(whole, run_of("recommender")) == []


def test_a_moved_run_knows_its_best_epoch_when_it_is_continued():
    """By this monitor the first epoch is the best, so that one after it must not take its place."""
    worse = [*TOY, "--checkpoint.monitor=rank/loss", "--checkpoint.mode=max"]
    assert killed.fit(*worse) == 0
    assert killed.fit(*worse, "--trainer.max_epochs=1", "--run.name=again") == 0
    moved = RunFolder(Path("elsewhere/toy/again/seed-0"))
    moved.path.parent.mkdir(parents=True)
    run_of("again").path.rename(moved.path)
    assert killed.fit(*worse, "--run.name=again", "--run.root=elsewhere", "--ckpt_path=last") == 0
    assert killed.differences(run_of("recommender"), moved) == []


@pytest.mark.slow
def test_a_run_that_stopped_early_does_not_go_on_when_it_is_continued():
    assert killed.fit(*STOPPED) == 0
    assert killed.fit(*STOPPED, "--run.name=again") == 0
    for _ in range(2):
        assert killed.fit(*STOPPED, "--run.name=again", "--ckpt_path=last") == 0
    assert killed.differences(run_of("recommender"), run_of("again")) == []
