"""What a run says."""

import io
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from recalign.stage import console, run_stage
from recalign.stage.console import RunProgress, quiet, warn_if_bf16_is_slow


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


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch):
    said = io.StringIO()
    monkeypatch.setattr(console, "Console", lambda **_: Console(file=said))
    monkeypatch.setattr(RunProgress.__init__, "__defaults__", (0.0,))
    run_stage(["fit", "--config", "toy.yaml"])
    lines = said.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[-1].startswith("recommender  epoch 2/2  train/loss 0.")
    assert "batch 12/12" in lines[-1]
    assert lines[-1].endswith("0:00 left")


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch):
    said = io.StringIO()
    monkeypatch.setattr(console, "Console", lambda **_: Console(file=said, force_terminal=True, width=100))
    for command in ("fit", "validate", "test", "predict"):
        run_stage([command, "--config", "toy.yaml"])
    assert "recommender" in said.getvalue()
    assert "left" in said.getvalue()


def test_our_own_words_through_lightnings_logger_are_heard(caplog: pytest.LogCaptureFixture):
    from lightning.pytorch.utilities.rank_zero import rank_zero_info

    with quiet(), caplog.at_level("INFO"):
        rank_zero_info("weights from elsewhere")
    assert "weights from elsewhere" in caplog.text
