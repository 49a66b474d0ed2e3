"""Artefacts of a finished chain that were altered: the next call has the figures of before, or names what is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

pytestmark = pytest.mark.long
RUNS = Path("runs/tiny")
KINDS = ("one bit flipped", "cut short", "emptied", "exchanged with another of its kind")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny chain has run, and its cache."""
    folder = tiny.prepare(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALIGN_CACHE", str(folder / "cache"))
        said = tiny.chain(folder)
    assert said.code == 0, said.err
    return folder


def altered(path: Path, kind: str, others: list[Path], random: np.random.Generator) -> bool:
    """Alter a file; whether its content is another one then."""
    before = path.read_bytes()
    if kind == "exchanged with another of its kind":
        same = [other for other in others if other.suffix == path.suffix and other != path]
        if not same:
            return False
        content = same[int(random.integers(len(same)))].read_bytes()
    elif kind == "one bit flipped":
        place, bit = int(random.integers(len(before))), int(random.integers(8))
        content = before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :]
    else:
        content = before[: int(random.integers(len(before))) if kind == "cut short" else 0]
    path.unlink()  # another inode, as where a file was copied from elsewhere
    path.write_bytes(content)
    return content != before


def test_figures_are_those_of_before_or_the_file_is_named(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: Any, share: Any
):
    whole, checked, page = (
        tiny.figures(first),
        *((first / RUNS / one).read_bytes() for one in ("check.json", "report.html")),
    )
    random = np.random.default_rng(int(os.environ.get("RECALIGN_SEED", "0")))
    known = [path.relative_to(first) for top in ("runs", "cache") for path in sorted((first / top).rglob("*"))]
    known = [path for path in known if (first / path).is_file() and (first / path).stat().st_size]
    for number in range(share(240)):
        folder = shutil.copytree(first, tmp_path / "altered")
        monkeypatch.setenv("RECALIGN_CACHE", str(folder / "cache"))
        name, kind = known[int(random.integers(len(known)))], KINDS[number % len(KINDS)]
        if altered(folder / name, kind, [folder / other for other in known], random):
            said = tiny.chain(folder)
            told = f"{kind}: {name}\n{said.out}\n{said.err}"
            assert "Traceback" not in said.err, told
            assert said.code in (0, 2), told
            if said.code == 0:
                assert tiny.figures(folder) == whole, told
                assert (folder / RUNS / "check.json").read_bytes() == checked, told
                made = (folder / RUNS / "report.html").read_bytes()
                assert made == page or name.name != "report.html", told
            else:
                assert name.name in said.err or str(name.parent.relative_to(RUNS)) in said.err, told
                assert "\n  -> " in said.err, told
            trial("Altered files are detected", f"a file of a chain or its cache {kind}")
        shutil.rmtree(folder)
