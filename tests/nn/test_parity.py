"""HSTU and the sampled softmax against stored numbers of the published research code."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

FOLDER = os.environ.get("RECALIGN_PARITY")
FILES = sorted(Path(FOLDER).glob("*.safetensors")) if FOLDER else []

pytestmark = pytest.mark.skipif(not FILES, reason="RECALIGN_PARITY names no folder with parity files (*.safetensors)")


@pytest.fixture(scope="module")
def parity():
    script = Path(__file__).parents[2] / "benchmarks" / "parity" / "run.py"
    spec = importlib.util.spec_from_file_location("parity", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_parity_with_the_reference_in_float64(parity, file):
    assert max(parity.compare(file)) <= 1e-10


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_parity_error_in_float32_is_bounded(parity, file):
    errors = parity.compare(file, torch.float32)
    assert max(errors.hidden, errors.loss) <= 1e-4
    assert max(errors) > 0


def test_parity_script_prints_a_line_per_file_and_exits_by_success(parity, capsys, monkeypatch):
    assert parity.main(FILES) == 0
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [str(file) for file in FILES]
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    assert parity.main(FILES[:1]) == 1
