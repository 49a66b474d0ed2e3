"""A policy's own checkpoint is enough, wherever its folder was moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny

from recalign.cli import main


@pytest.mark.slow
@pytest.mark.parametrize("method", ["asft", "grpo"])  # grpo holds a reward model in training
def test_a_moved_policy_recommends_what_it_did(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = tiny.prepare(tmp_path / "here")
    fit = ["--config=conf/logs/simulated.yaml", "--data.max_length=24", "--trainer.max_epochs=1"]
    fit += ["--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=1", "--trainer.accelerator=cpu"]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("RECALIGN_DATA", str(folder / "data"))
    for stage in ("recommender", "reward", method):
        assert main(["fit", f"--config={stage}", *fit]) == 0
    run = Path("runs/simulated") / method / "seed-0"
    capsys.readouterr()
    assert main(["recommend", str(run)]) == 0
    here = capsys.readouterr().out
    shutil.move(run, tmp_path / "mine")
    shutil.rmtree("runs")
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "mine"]) == 0
    assert capsys.readouterr().out.replace("mine/", "") == here.replace(f"{run}/", "")
    assert not Path("runs").exists()
