"""A server needs a short list of packages, and no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def copied() -> list[str]:
    """What the image is made of."""
    lines = (ROOT / "Dockerfile.serve").read_text(encoding="utf-8").splitlines()
    return [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]


def test_the_image_is_made_of_the_package_alone():
    """A layer keeps what it was given: logs, decisions and secrets of a working folder are not to be in one."""
    assert set(copied()) == {"pyproject.toml", "requirements-serve.txt", "README.md", "LICENSE", "conf", "src"}


@pytest.mark.long
def test_an_environment_without_torch_answers(bundled, tmp_path):
    def run(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        return done.stdout

    run(sys.executable, "-m", "venv", str(tmp_path / "slim"))
    python = str(tmp_path / "slim" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "-r", str(ROOT / "requirements-serve.txt"))
    (tmp_path / "app").mkdir()
    for name in copied():
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / "app" / name)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(tmp_path / "app"))
    code = (
        "import importlib.util, recalign, recalign.cli, recalign.serve.server.app, recalign.serve.server.command\n"
        "import recalign.serve.feedback.feedback_command\n"
        f"answer = recalign.load_bundle({str(bundled)!r}).recommend({{'items': [3], 'times': [5], 'k': 2}})\n"
        "print(len(answer.items), importlib.util.find_spec('torch'))"
    )
    assert run(python, "-c", code).strip() == "2 None"
    assert "--token_file" in run(str(tmp_path / "slim" / "bin" / "recalign"), "serve", "--help")
