"""A chain in a world so small that every stage takes a second."""

from __future__ import annotations

import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from markupsafe import Markup, escape

from recalign.cli import main
from recalign.data.simulation import World, simulate, write

CONF = Path(__file__).parents[2] / "conf"
WORLD = World(users=60, items=50, events=1500)
CHAIN = """
log: simulated
methods: [popularity, start, rerank, bc, asft]
highlight: asft
placebos: {asft_permuted: asft, asft_random: asft}
data: {root: data, max_length: 24}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}
workers: 1
"""


@dataclass(frozen=True)
class Said:
    """What a command leaves: exit code and the two streams."""

    code: int
    out: str
    err: str


def recalign(folder: Path, *words: str) -> Said:
    """Run ``recalign`` in a folder, in this process."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("RECALIGN_DATA", raising=False)
        patch.setattr("recalign.evaluation.plots.drawn", picture)  # they take as long as the stages
        code = main(list(words))
    return Said(code, out.getvalue(), err.getvalue())


def picture(description: str, height: float, draw: object, columns: int = 1) -> Markup:
    """The place of a picture on a page."""
    return Markup(f'<svg role="img" aria-label="{escape(description)}" height="{height}"></svg>')


def prepare(folder: Path) -> Path:
    """A folder with conf/, a simulated log under data/ and the chain conf/chains/tiny.yaml."""
    shutil.copytree(CONF, folder / "conf")
    write(simulate(WORLD), folder / "data")
    (folder / "conf/chains/tiny.yaml").write_text(CHAIN)
    return folder


def chain(folder: Path, *words: str) -> Said:
    """Run the tiny chain, with the stages' commands printed."""
    return recalign(folder, "chain", "--config", "conf/chains/tiny.yaml", "--verbose", *words)


def figures(folder: Path) -> list[str]:
    """The comparison, without what things cost."""
    rows = (folder / "runs/tiny/comparison.csv").read_text().splitlines()
    return [row for row in rows if ",cost/" not in row]
