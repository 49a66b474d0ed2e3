"""A server needs a short list of packages, and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_an_environment_without_torch_answers(bundled, tmp_path):
    def run(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        return done.stdout

    run(sys.executable, "-m", "venv", str(tmp_path / "slim"))
    python = str(tmp_path / "slim" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "-r", str(ROOT / "requirements-serve.txt"))
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(ROOT))
    code = (
        "import importlib.util, recalign, recalign.cli, recalign.serving.app, recalign.serving.command\n"
        "import recalign.feedback.feedback_command\n"
        f"answer = recalign.load_bundle({str(bundled)!r}).recommend({{'items': [3], 'times': [5], 'k': 2}})\n"
        "print(len(answer.items), importlib.util.find_spec('torch'))"
    )
    assert run(python, "-c", code).strip() == "2 None"
    assert "--token_file" in run(str(tmp_path / "slim" / "bin" / "recalign"), "serve", "--help")
