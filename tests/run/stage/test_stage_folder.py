"""A run folder that cannot be written, before and while training."""

import errno
from pathlib import Path
from typing import Any

import pytest

from recalign.run.stage import RunFolder, parse_stage, run_stage

RUN = RunFolder(Path("runs/toy/recommender/seed-0"))
FIT = ["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar", "false"]


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_manifest_that_cannot_be_written_either_hides_nothing(monkeypatch: pytest.MonkeyPatch):
    def fill(*_: Any) -> None:
        monkeypatch.setattr("recalign.run.stage.folder.write_json", no_space)
        no_space()

    monkeypatch.setattr("stage_doubles.Toy.on_validation_start", fill)
    with pytest.raises(OSError, match="No space left on device"):
        run_stage(parse_stage(FIT))


def test_a_failed_run_without_a_checkpoint_leaves_the_run_before_it_kept():
    RUN.checkpoints.mkdir(parents=True)
    RUN.best.write_text("good")
    RUN.start_afresh()
    assert (RUN.previous / "checkpoints/best.ckpt").read_text() == "good"
    RUN.figures("fit").write_text("a run that failed at once")
    RUN.start_afresh()
    assert (RUN.previous / "checkpoints/best.ckpt").read_text() == "good"
    assert not RUN.figures("fit").exists()


def test_a_trial_is_known_by_its_chain_and_method():
    assert RunFolder(Path("runs/mine/asft/seed-0")).chain_and_stage == ("mine", "asft")
    assert RunFolder(Path("runs/mine/trial-1/seed-0")).chain_and_stage == ("mine", "trial-1")
    assert RunFolder(Path("runs/mine/asft/trials/trial-3/seed-0")).chain_and_stage == ("mine", "asft-trial-3")
    assert RunFolder(Path("runs/mine/dpo/tuning/trial-3/seed-0")).chain_and_stage == ("mine", "dpo-trial-3")


def test_bundles_stay_when_a_run_is_trained_again(tmp_path: Path):
    """They may be served from there."""
    folder = RunFolder(tmp_path / "runs/mine/asft/seed-0")
    for number in range(3):  # a finished run, one that has no checkpoint yet, and one that was killed in between
        (folder.path / "bundles").mkdir(parents=True, exist_ok=True)
        (folder.path / f"bundles/{number}").touch()
        if number == 0:
            folder.checkpoints.mkdir()
            folder.last.touch()
        folder.start_afresh()
    (folder.path / "bundles").rename(folder.path.with_name("seed-0.bundles"))
    folder.start_afresh()
    assert sorted(path.name for path in (folder.path / "bundles").iterdir()) == ["0", "1", "2"]
