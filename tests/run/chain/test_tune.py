"""Tuning in small: trials are trained once, end early where they are behind, and the best becomes a YAML for `fit`."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import yaml

from recalign.errors import InputError
from recalign.run.chain.search import Search
from recalign.run.chain.tune import best_value

FOLDER = Path("runs/simulated/recommender/tuning")
SPACE = "recommender: {model.lr: {low: 1.0e-3, high: 1.0e-2, log: true}, model.temperature: [0.05, 0.1]}"
STAGE = ("recommender", "simulated", "--data.root=data", "--trainer.limit_train_batches=2", "--data.max_length=24")


def tune(folder: Path, *words: str) -> tiny.Said:
    return tiny.recalign(
        folder, "tune", *STAGE, "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1", *words
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Said]:
    """A folder in which two settings of a recommender were tried. Left as it is by every test."""
    folder = tiny.prepare(tmp_path_factory.mktemp("tuned"))
    (folder / "conf/search.yaml").write_text(SPACE)
    (folder / "other.yaml").write_text("asft: {model.lr: [0.1]}")
    (folder / "odd.yaml").write_text("recommender: {model.size: [1]}")
    return folder, tune(folder, "--trials=2")


@pytest.fixture
def again(first: tuple[Path, tiny.Said], tmp_path: Path) -> Path:
    return shutil.copytree(first[0], tmp_path / "again")


@pytest.mark.slow
def test_a_full_disk_is_not_taken_for_a_setting_that_cannot_be_trained(again: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise InputError("cannot be written: No space left on device") from OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr("recalign.run.chain.tune.train", full)
    said = tune(again, "--trials=3")
    assert said.code == 2
    assert "No space left on device" in said.err
    assert "cannot be trained" not in said.out
    stub: Any = SimpleNamespace(settings={"asft": [{}]}, seed=0, plan=SimpleNamespace(parsed=full))
    with pytest.raises(InputError, match="No space left"):
        Search._try(stub, "asft", 0, {})


@pytest.mark.slow
def test_the_best_trial_becomes_a_yaml_that_fit_takes(again: Path, first: tuple[Path, tiny.Said]):
    said = first[1]
    assert said.code == 0, said.err
    tuned = yaml.safe_load((again / FOLDER / "tuned.yaml").read_text())["model"]
    runs = [yaml.safe_load((again / FOLDER / f"trial-{n}/seed-0/config.yaml").read_text()) for n in (0, 1)]
    figures = [best_value(again / FOLDER / f"trial-{n}/seed-0/metrics.csv", "rank/all/ndcg@10", "max") for n in (0, 1)]
    best = runs[figures.index(max(figures))]["model"]["init_args"]
    assert tuned == {key: best[key] for key in ("lr", "temperature")}
    fitted = tiny.recalign(again, "fit", *STAGE[:2], str(FOLDER / "tuned.yaml"), *STAGE[2:], "--trainer.max_epochs=1")
    assert fitted.code == 0, fitted.err
    config = yaml.safe_load((again / "runs/simulated/recommender/seed-0/config.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == tuned["lr"]
    assert config["data"]["init_args"]["log"]["name"] == "simulated"
    lines = said.out.splitlines()
    assert any(re.match(r"trial 2 of 2.*: trial-1, model\.lr \d", line) for line in lines)
    table = lines[next(n for n, line in enumerate(lines) if "trials of recommender" in line) :]
    assert max(map(len, table[:-1])) <= 80


@pytest.mark.slow
def test_a_longer_search_keeps_what_was_tried_and_one_that_was_killed_goes_on(again: Path):
    shutil.rmtree(again / FOLDER / "trial-1")
    before = (again / FOLDER / "trial-0/seed-0/manifest.json").read_text()
    said = tune(again, "--trials=3")
    assert said.code == 0, said.err
    assert said.out.count("unchanged") == 1
    assert (again / FOLDER / "trial-0/seed-0/manifest.json").read_text() == before
    assert len(list((again / FOLDER).glob("trial-*/seed-0/manifest.json"))) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.lr=0.1", "--model.temperature=0.1"], "nothing is left to search"),
        (["--run.name=big", "--model.lr=0.1", "--model.temperature=0.1"], "nothing is left to search"),
        (["--space=other.yaml"], "no search space for 'recommender'"),
        (["--space=odd.yaml"], "recommender has no setting 'model.size'"),
    ],
)
def test_a_space_that_does_not_fit_is_named_before_anything_is_trained(first: tuple[Path, tiny.Said], words, said: str):
    result = tune(first[0], *words)
    assert (result.code, result.out, said in result.err) == (2, "", True)


def test_a_figure_that_is_not_logged_is_named(again: Path):
    result = tune(again, "--trials=2", "--metric=rank/all/ndcg", "--goal=max")
    assert (result.code, "trial 2" in result.out) == (2, False)
    assert "the run logs no 'rank/all/ndcg'" in result.err
    assert "did you mean rank/all/ndcg@10?" in result.err


def test_tune_refuses_missing_upstream_runs(first: tuple[Path, tiny.Said]):
    result = tiny.recalign(first[0], "tune", "asft", "simulated", "--data.root=data", "--run.chain=other")
    assert (result.code, result.out) == (2, "")
    assert "recalign fit recommender LOG --seed_everything=0 --run.chain=other" in result.err


def test_the_best_value_leaves_out_what_is_no_number(tmp_path: Path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n1,nan\n2,0.5\n3,\n4,0.25\n")
    assert best_value(file, "loss", "min") == 0.25
    file.write_text("step,loss\n1,nan\n")
    with pytest.raises(InputError, match="no number as 'loss'"):
        best_value(file, "loss", "min")
