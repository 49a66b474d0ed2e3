"""Ray: a local cluster of two workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mortal
import polars as pl
import pytest
import tiny

from recalign.chain.cluster import RayWorkers
from recalign.chain.graph import Task, side_by_side
from recalign.errors import InputError, TrainingError

pytestmark = pytest.mark.long
ray = pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray's workers find the doubles."""
    paths = [str(Path(mortal.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray.shutdown()


def test_a_killed_worker_is_tried_again_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tasks = [
        Task("one", partial(mortal.die_once, tmp_path / "died")),
        Task("two", mortal.join, ("one",)),
        Task("doomed", mortal.die_with, ("two",)),
    ]
    with RayWorkers(2, 1, 0) as workers, pytest.raises(TrainingError, match=r"doomed: its worker died twice"):
        side_by_side(tasks, 1, workers, tmp_path / "logs")
    assert "one: its worker died" in capsys.readouterr().out


def test_a_chain_on_ray_has_the_figures_of_one_in_order(tmp_path: Path):
    tiny.prepare(tmp_path)
    words = ("--methods=[start, bc]", "--threads=1")
    assert tiny.chain(tmp_path, *words, "--name=order").code == 0
    said = tiny.chain(tmp_path, *words, "--name=ray", "--engine=ray", "--workers=2")
    assert said.code == 0, said.err
    tables = [pl.read_csv(tmp_path / f"runs/{name}/comparison.csv") for name in ("order", "ray")]
    ours, theirs = (table.filter(pl.col("metric") != "cost/seconds") for table in tables)
    assert ours.equals(theirs)


def test_a_cluster_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match="no Ray cluster to reach"):
        RayWorkers(None, 1, 0)
