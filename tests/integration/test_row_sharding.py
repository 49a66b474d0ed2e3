"""Two processes with a part of the items each train, rank and save what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import several
import small
import torch
from lightning import seed_everything
from shared_fits import CASES, STEPS, TOKENS

from recalign.recommender import PolynomialAveraging, RowSharding
from recalign.recommender.checkpoint import load_net
from recalign.run.stage.callbacks import RunCheckpoint, StepSeeds, TrainingMonitor

pytestmark = pytest.mark.long

FITS = {
    "full softmax": {"gradient_clip_val": 0.5},
    "sampled softmax": {"averaged": True},
    "asft": {"gradient_clip_val": 0.5},
    "keep": {},
}
"""Cases of `shared_fits`, and how each is trained."""


CONTINUED, HALF = "sampled softmax", STEPS // 2


def fitted(
    case: str,
    root: Path,
    folder: Path,
    averaged: bool = False,
    begin: Path | None = None,
    steps: int = STEPS,
    **settings: Any,
) -> dict[str, Any]:
    kind, make, data_settings = CASES[case]
    seed_everything(0, verbose=False)
    data = small.data_of(kind, root, "tastes", batch_tokens=TOKENS, **data_settings)
    module, watch = make(data), small.Watch()
    module.memory = False
    callbacks = [
        watch,
        StepSeeds(0),
        TrainingMonitor(),
        RunCheckpoint(),
        *([PolynomialAveraging()] if averaged else []),
    ]
    limits = {"max_steps": steps, "check_val_every_n_epoch": 1, "enable_checkpointing": True}
    trainer = small.trainer_of(folder / case, -1, *callbacks, **limits, **settings)
    trainer.fit(module, data, ckpt_path=begin, weights_only=True)
    trainer.save_checkpoint(folder / f"{case}.ckpt")
    lists = trainer.predict(module, data)
    figures = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("speed/")}
    return {
        "loss": [one["train/loss"] for one in watch.steps],
        "norm": [one["train/grad_norm"] for one in watch.steps],
        "figures": figures,
        "rows": len(module.policy.item_embedding.weight),
        "lists": dict(pair for users, _, items in lists for pair in zip(users.tolist(), items.tolist(), strict=True)),
    }


def all_fitted(root: Path, folder: Path) -> dict[str, Any]:
    def sharded(case: str, folder: Path = folder, **more: Any) -> dict[str, Any]:
        return fitted(case, root, folder, devices=several.PROCESSES, strategy=RowSharding(), **FITS[case], **more)

    found = {case: sharded(case) for case in FITS}
    sharded(CONTINUED, folder / "half", steps=HALF)
    found["continued"] = sharded(CONTINUED, folder / "more", begin=last_of(folder / "half"))
    return found | {"finished": sharded(CONTINUED, folder / "none", begin=last_of(folder))}


def last_of(folder: Path) -> Path:
    return folder / CONTINUED / "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def pairs(log_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, several.together(all_fitted, log_root, folder)


@pytest.mark.parametrize("case", FITS)
def test_two_processes_with_a_part_of_the_items_train_as_one(pairs, case: str, log_root: Path, tmp_path: Path):
    folder, (first, second) = pairs
    first, second = first[case], second[case]
    one = fitted(case, log_root, tmp_path, **FITS[case])
    assert first["loss"] == second["loss"]
    assert len(one["loss"]) == STEPS
    assert first["loss"] == pytest.approx(one["loss"], rel=1e-5, abs=1e-5)
    assert first["norm"] == pytest.approx(one["norm"], rel=1e-4, abs=1e-5)
    assert first["figures"] == pytest.approx(one["figures"], rel=1e-4, abs=1e-4, nan_ok=True)
    assert abs(first["rows"] - second["rows"]) <= 1
    assert first["rows"] + second["rows"] == one["rows"]
    assert first["lists"] | second["lists"] == one["lists"]
    two, whole = (load_net(path / f"{case}.ckpt", "policy").net.state_dict() for path in (folder, tmp_path))
    for name, weight in whole.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-4)


def test_a_run_goes_on_in_two_processes_as_if_it_had_not_stopped_and_in_one(pairs, log_root: Path, tmp_path: Path):
    folder, found = pairs
    for each in found:
        assert each["continued"]["loss"] == each[CONTINUED]["loss"][HALF:]
        assert each["continued"]["lists"] == each[CONTINUED]["lists"]
        assert each["finished"]["loss"] == []
    finished, whole = (
        dict(load_net(path / f"{CONTINUED}.ckpt", "policy").net.named_parameters())
        for path in (folder / "none", folder)
    )
    assert all(torch.equal(finished[name], weight) for name, weight in whole.items())
    one = fitted(CONTINUED, log_root, tmp_path, begin=last_of(folder / "half"), **FITS[CONTINUED])
    assert one["loss"] == pytest.approx(found[0]["continued"]["loss"], rel=1e-5, abs=1e-5)
    assert {path.name for path in last_of(folder).parent.iterdir()} == {"best.ckpt", "last.ckpt"}
