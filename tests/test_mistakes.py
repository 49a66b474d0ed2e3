"""Plausible mistakes (mistakes.yaml): each ends in one message with what, where and the remedy, and exit code 2."""

from __future__ import annotations

import random
import shutil
import traceback
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
import tiny
import yaml
from lightning import Trainer

from recalign.cli import with_config_files
from recalign.run.stage import parse_stage
from recalign.run.words import flatten, short

MISTAKES = yaml.safe_load((Path(__file__).parent / "mistakes.yaml").read_text())
LOG = """
data:
  root: .
  log: {name: own, files: [own.csv], user: who, item: what, timestamp: moment}
  reward: stars
  high: {expression: stars >= 4}
  split: {class_path: recalign.data.sequences.LeaveLast, init_args: {test: 1, validation: 1}}
  max_length: 16
"""
NEEDY = """
from lightning.pytorch.callbacks import Callback

class Needy(Callback):
    def __init__(self):
        import no_such_package
"""
SHORT = ("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
PLACES = {
    "START": "runs/own/recommender/seed-0/checkpoints/best.ckpt",
    "REWARD": "runs/own/reward/seed-0/checkpoints/best.ckpt",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, files that are no log, and two fitted stages."""
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(tiny.CONF, folder / "conf")
    draw = random.Random(0)
    users = [(user, draw.sample(range(1, 21), 8)) for user in range(1, 31)]
    rows = [f"{u},{i},{100 * k + u},{draw.randint(1, 5)}" for u, items in users for k, i in enumerate(items)]
    texts = {
        "own.yaml": LOG,
        "own.csv": "\n".join(["who,what,moment,stars", *rows]),
        "headless.csv": "\n".join(rows),
        "dates.csv": "who,what,moment,stars\n1,2,15/10/2020,3\n1,3,16/10/2020,4\n",
        "own.csv.zst": "?",
        "broken.yaml": "model: {lr: 1\ndata: ]",
        "needy.py": NEEDY,
        "misspelt.yaml": "model: {init_args: {temprature: 0.5}}",
        "twice.yaml": "model:\n  lr: 1\n  lr: 2\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    table = BytesIO()
    pl.read_csv(folder / "own.csv").write_parquet(table)
    (folder / "cut.parquet").write_bytes(table.getvalue()[:-20])
    (folder / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    for stage in ("recommender", "reward"):
        assert tiny.recalign(folder, "fit", stage, "own.yaml", *SHORT).code == 0
    return folder


def case(mistake: dict):
    """A mistake, with a reason if its message is still wanting."""
    marks = [pytest.mark.xfail(reason=mistake["fails"], strict=True)] if "fails" in mistake else []
    marks += [pytest.mark.slow] * (mistake["run"][0] == "chain")  # which parse every stage
    return pytest.param(mistake, id=" ".join(mistake["run"]), marks=marks)


@pytest.mark.parametrize("mistake", [case(mistake) for mistake in MISTAKES])
def test_a_mistake_is_named_with_its_place_and_a_remedy(folder: Path, mistake: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(folder)
    said = tiny.recalign(folder, *(PLACES.get(word, word) for word in mistake["run"]))
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    assert not [word for word in mistake["says"] if word not in said.err], said.err
    assert "\n  -> " in said.err  # the remedy


DRAWN = 200
STAGES = ("recommender", "reward", "judge", "asft", "dpo", "kto", "grpo", "ppo", "reinforce", "iql")
WRONG = {
    bool: ["much", "7"],
    int: ["much", "1.5", "-1", "0"],
    float: ["much", ".nan", "-1", "0"],
    list: ["{a: 1}"],
    dict: ["much"],
}
"""Values that an option of a type cannot take, or that are out of most ranges."""
IN_RANGE = {
    "0": "alpha bad beta cloning cooccurrence_dim dropout gamma good "
    "gradient_clip_val id_dropout keep kl lr min_delta negative num_factors num_sanity_val_steps "
    "overfit_batches patience reload_dataloaders_every_n_epochs save_top_k seed seed_everything share_a test "
    "untouched validation value_lr weight_decay width",
    "-1": "max_epochs max_steps negative num_sanity_val_steps save_top_k",
    "7": "cache",
    "much": "cache",
}
"""Those of `WRONG` that options do take, by their last names."""


def options() -> dict[str, list[tuple[str, str]]]:
    """Every option of each stage, as a user types it, with the values that are drawn for it."""
    found = {}
    for stage in STAGES:
        config = parse_stage(["fit", *with_config_files("fit", [stage, "own.yaml"])]).config
        given = {short(key): value for key, value in flatten(config).items() if "class_path" not in key}
        found[stage] = [(key, value) for key, one in given.items() for value in WRONG.get(type(one), [])]
        found[stage] += [(misspelt(key), "1") for key in given]
    return found


def misspelt(key: str) -> str:
    """A key with two letters of its last name exchanged, or one doubled."""
    above, dot, name = key.rpartition(".")
    at = len(name) // 2
    exchanged = name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :]
    return above + dot + (exchanged if exchanged != name else f"{name}{name[-1]}")


def refusals(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Drawn mistakes that are not refused as they should be, with what was said of each."""
    draw = random.Random(37)
    known = options()
    for _ in range(count):
        stage = draw.choice(STAGES)
        key, value = draw.choice(known[stage])
        command = ("fit", stage, "own.yaml", *SHORT, "--run.name=drawn", f"--{key}={value}")
        try:
            said = tiny.recalign(folder, *command)
        except Exception:
            yield " ".join(command), traceback.format_exc()
            continue
        name = key.rpartition(".")[2]
        taken = said.code == 0 and name in IN_RANGE.get(value, "").split()
        if not taken and (said.code != 2 or name not in said.err or "\n  -> " not in said.err):
            yield " ".join(command), f"{said.code}: {said.err}"


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, pytest.param(DRAWN, marks=pytest.mark.long)])
def test_drawn_mistakes_are_refused_by_name(folder: Path, trial, share, count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Trainer, "fit", lambda *args, **kwargs: None)  # all is checked before
    made = share(count) if count == DRAWN else count
    trial("Clear errors", "options misspelt, of a wrong type, out of range", made)
    if wrong := [f"{command}\n{said}" for command, said in refusals(folder, made)]:
        pytest.fail("\n".join(wrong))


def test_there_are_enough():
    assert len({tuple(mistake["run"]) for mistake in MISTAKES}) == len(MISTAKES) >= 60
