"""What a run says."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar

from recalign.run.stage import parse_stage, run_stage
from recalign.run.stage.console import LineProgress, last_progress, quiet

FIT = ["fit", "--config", "toy.yaml"]


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(LineProgress.__init__, "__defaults__", (0.0,))
    run_stage(parse_stage(["fit", "--config", "toy.yaml"]))
    lines = [line for line in capsys.readouterr().err.splitlines() if "batch" in line]  # others may keep the cores busy
    assert len(lines) == 12
    assert lines[-1].startswith("recommender  epoch 2  train/loss 0.")
    assert lines[-1].endswith("batch 12/12  0:00:00 left")


def test_what_is_prepared_before_the_first_batch_is_no_part_of_the_pace(monkeypatch: pytest.MonkeyPatch, capsys):
    now = 0.0
    monkeypatch.setattr("recalign.run.stage.console.time.monotonic", lambda: now)
    place = SimpleNamespace(batch_idx=-1)
    trainer = SimpleNamespace(current_epoch=0, num_training_batches=100, max_epochs=1, max_steps=-1)
    trainer.accumulate_grad_batches, trainer.progress_bar_metrics, trainer.early_stopping_callbacks = 1, {}, []
    trainer.fit_loop = SimpleNamespace(epoch_loop=place)
    line = LineProgress("reward")
    for seconds in (600, 2, 4, 3):
        now += seconds
        trainer.early_stopping_callbacks = [None] * (seconds == 3)
        line.every, place.batch_idx = 0.0, place.batch_idx + 1
        line.on_train_batch_end(trainer)  # type: ignore[arg-type]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "reward  epoch 1    batch 1/100"
    left = ["2/100  0:03:16 left", "3/100  0:04:51 left", "4/100  at most 0:04:48 left"]
    assert said[1:] == [f"reward  epoch 1    batch {one}" for one in left]


def test_a_log_says_how_far_a_stage_is(tmp_path: Path):
    log = tmp_path / "reward.log"
    assert last_progress(log, 0) == ""
    log.write_text("reward  epoch 7    batch 2/100  0:03:16 left\n")
    before = log.stat().st_size
    for line, said in (
        ("starts from runs", ""),
        ("reward  epoch 1  reward/rmse 0.9  batch 1/100", "epoch 1"),
        ("reward  epoch 2  reward/rmse 0.9  batch 9/100  at most 0:01:20 left", "epoch 2, at most 0:01:20 left"),
        ("warning: 3 days left", "epoch 2, at most 0:01:20 left"),
    ):
        log.write_text(log.read_text() + line + "\n")
        assert last_progress(log, before) == said


def test_on_a_terminal_there_is_lightnings_bar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for command in ("fit", "validate", "test", "predict"):
        result = run_stage(parse_stage([command, "--config", "toy.yaml"]))
        assert isinstance(result.trainer.progress_bar_callback, RichProgressBar)


def test_our_own_words_through_lightnings_logger_are_heard(caplog: pytest.LogCaptureFixture):
    from lightning.pytorch.utilities.rank_zero import rank_zero_info

    with quiet(), caplog.at_level("INFO"):
        rank_zero_info("weights from elsewhere")
    assert "weights from elsewhere" in caplog.text


def test_lightnings_own_words_are_not_heard_after_a_stage_of_a_chain_either(caplog: pytest.LogCaptureFixture):
    with quiet(), caplog.at_level("INFO"):
        with quiet():
            Trainer(logger=False, accelerator="cpu")
        Trainer(logger=False, accelerator="cpu")
    assert caplog.text == ""
    with caplog.at_level("INFO"):
        Trainer(logger=False, accelerator="cpu")
    assert "GPU available" in caplog.text


def test_a_warning_is_one_plain_line():
    before = warnings.formatwarning
    with quiet():
        assert warnings.formatwarning("few\n  events", UserWarning, "a.py", 3) == "warning: few events\n"
    assert warnings.formatwarning is before
