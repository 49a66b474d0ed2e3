"""What a run says."""

import warnings
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from recalign.stage import run_stage
from recalign.stage.console import LineProgress, quiet, warn_if_bf16_is_slow


def test_bf16_on_a_cpu_without_it_is_one_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: "flags : fpu avx2 avx512f")
    with pytest.warns(UserWarning, match="no bf16 instructions"):
        warn_if_bf16_is_slow("bf16-mixed", on_cpu=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_bf16_is_slow("bf16-mixed", on_cpu=False)
        warn_if_bf16_is_slow("32-true", on_cpu=True)
        warn_if_bf16_is_slow(None, on_cpu=True)
        monkeypatch.setattr(Path, "read_text", lambda self: "flags : avx512f avx512_bf16")
        warn_if_bf16_is_slow("bf16-mixed", on_cpu=True)


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(LineProgress.__init__, "__defaults__", (0.0,))
    run_stage(["fit", "--config", "toy.yaml"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("recommender  epoch 2  train/loss 0.")
    assert lines[-1].endswith("batch 12/12  0:00:00 left")


def test_on_a_terminal_there_is_lightnings_bar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for command in ("fit", "validate", "test", "predict"):
        result = run_stage([command, "--config", "toy.yaml"])
        assert isinstance(result.trainer.progress_bar_callback, RichProgressBar)


def test_our_own_words_through_lightnings_logger_are_heard(caplog: pytest.LogCaptureFixture):
    from lightning.pytorch.utilities.rank_zero import rank_zero_info

    with quiet(), caplog.at_level("INFO"):
        rank_zero_info("weights from elsewhere")
    assert "weights from elsewhere" in caplog.text


def test_a_warning_is_one_plain_line():
    before = warnings.formatwarning
    with quiet():
        assert warnings.formatwarning("few\n  events", UserWarning, "a.py", 3) == "warning: few events\n"
    assert warnings.formatwarning is before
