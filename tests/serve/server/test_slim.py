"""A server needs a short list of packages, and no torch; the steps of its image make one that answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from served import ASKED, TOKEN, Server

ROOT = Path(__file__).parents[3]
LINES = (ROOT / "Dockerfile.serve").read_text(encoding="utf-8").splitlines()
MOST = 400
"""MB that are installed in the image."""


def steps(word: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{word} ")]


def copied() -> list[str]:
    """What the image is made of."""
    return [name for step in steps("COPY") if not step.startswith("--from=build") for name in step.split()[:-1]]


def ranges(requirements: list[str]) -> dict[str, str]:
    """Versions by package."""
    found = (re.match(r"([\w-]+)(?:\[[\w,]+\])?([^#;]*)", line) for line in requirements if not line.startswith("#"))
    return {one[1].lower(): one[2].strip() for one in found if one}


def test_the_image_is_made_of_the_package_alone():
    """Logs, decisions and secrets of a working folder are not to be in one, and nothing is removed from a layer."""
    assert set(copied()) == {"pyproject.toml", "requirements-serve.txt", "README.md", "LICENSE", "conf", "src"}
    assert not re.search(r"\brm\b", "\n".join(steps("RUN")))


def test_the_image_has_the_versions_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = ranges([*project["dependencies"], *project["optional-dependencies"]["serve"]])
    image = ranges((ROOT / "requirements-serve.txt").read_text(encoding="utf-8").splitlines())
    assert len(image) > 8
    assert {name: known.get(name) for name in image} == image


@pytest.mark.slow
def test_the_steps_of_the_image_make_a_server_that_answers(bundled, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["RECALIGN_TOKEN"] = TOKEN

    def here(text: str) -> str:
        return text.replace("/venv", str(tmp_path / "venv")).replace("python -m ", f"{sys.executable} -m ")

    (tmp_path / "app").mkdir()
    for name in copied():
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / "app" / name)
    for step in steps("RUN"):
        if not step.startswith("useradd"):
            subprocess.run(here(step), shell=True, check=True, cwd=tmp_path / "app", env=environment)
    shutil.rmtree(tmp_path / "app")

    python = tmp_path / "venv" / "bin" / "python"
    code = "import importlib.util, recalign.serve.feedback.feedback_command; print(importlib.util.find_spec('torch'))"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert found.stdout == "None\n"
    installed = sum(file.stat().st_size for file in (tmp_path / "venv").rglob("*") if not file.is_symlink()) / 1e6
    print(f"{installed:.0f} MB are installed")
    assert installed < MOST

    entry, health = (json.loads(here(steps(word)[0].removeprefix("CMD "))) for word in ("ENTRYPOINT", "HEALTHCHECK"))
    words = [str(bundled) if word == "/bundles" else word for word in entry]
    process = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        server = Server(process, int(process.stdout.readline().split(":")[2].split(",")[0]))
        assert server.ask("/recommend", ASKED)[0] == 401
        status, _, answer = server.ask("/recommend", ASKED, Authorization=f"Bearer {TOKEN}")
        assert (status, len(answer["items"])) == (200, 4)
        subprocess.run([one.replace(":8000", f":{server.port}") for one in health], check=True, env=environment)
    finally:
        process.terminate()
        process.communicate()
