"""Two processes on a CPU train as one does."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import several
import small
import torch
from lightning import LightningModule, seed_everything
from lightning.pytorch.callbacks import Callback
from taste import Taste

from recalign import files
from recalign.posttrain import (
    AWAC,
    CQL,
    GRPO,
    IQL,
    KTO,
    PPO,
    SA2C,
    PairData,
    PostTrainingData,
    Preferences,
    Reinforce,
    ReturnConditioned,
    WeightedSFT,
)
from recalign.recommender import PolynomialAveraging, Recommender, RecommenderData, SequencePolicy
from recalign.reward import Judge, RewardData, RewardModel
from recalign.stage import RunFolder, run_stage
from recalign.stage.guard import StepSeeds

CONF = Path(__file__).parents[2] / "conf"
LOG = """
data:
  log: {name: tastes, files: [tastes.csv]}
  root: ROOT
  high: {expression: reward >= 4}
  split: {class_path: recalign.sequences.LeaveLast, init_args: {test: 3, validation: 2}}
  max_length: 32
  batch_tokens: 512
trainer: {accelerator: cpu, max_epochs: 2, enable_progress_bar: false, log_every_n_steps: 1}
"""
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
STEPS = 50
TOKENS = 200  # 6 of the longest histories a batch: shares are uneven, and some are empty


class Steps(Callback):
    """The figures of every step, and those of the last validation."""

    def __init__(self) -> None:
        self.loss: list[float] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.loss.append(float(trainer.callback_metrics["train/loss"]))


def start(items: int) -> SequencePolicy:
    torch.manual_seed(1)
    return SequencePolicy(small.encoder(), items, 0.1)


def cloning(data: Any, **settings: Any) -> LightningModule:
    return Recommender(data.num_items, small.encoder(), temperature=0.1, **settings)


def rewards(data: Any, **settings: Any) -> LightningModule:
    return RewardModel(data.num_items, policy=start(data.num_items), members=2, **settings)


def judging(data: Any) -> LightningModule:
    return Judge(data.num_items, small.pooled())


def aligning(method: type, **settings: Any) -> Callable[[Any], LightningModule]:
    return lambda data: method(policy=start(data.num_items), **{"keep": None, "lr": 1e-3, **settings})


def drawing(method: type, **settings: Any) -> Callable[[Any], LightningModule]:
    def make(data: Any) -> LightningModule:
        taste = Taste([int(item) % 2 for item in data.sequences.items])
        return aligning(method, reward_net=taste, candidates=20, refresh=2, **settings)(data)

    return make


CASES: dict[str, tuple[type, Callable[[Any], LightningModule], dict[str, Any]]] = {
    "full softmax": (RecommenderData, cloning, {}),
    "sampled softmax": (RecommenderData, lambda data: cloning(data, negatives=8), {}),
    "reward": (RewardData, rewards, {}),
    "joint": (
        RewardData,
        lambda data: rewards(data, trunk="joint", share="nothing"),
        {"auxiliary": {"again": "rating"}},
    ),
    "judge": (RewardData, judging, {"users": "B1"}),
    "asft": (PostTrainingData, aligning(WeightedSFT, clip=2.0), {}),
    "rank": (PostTrainingData, aligning(WeightedSFT, transform="rank"), {}),
    "signed": (PostTrainingData, aligning(WeightedSFT, transform="signed"), {}),
    "keep": (PostTrainingData, aligning(WeightedSFT, keep=0.9), {}),
    "dpo": (PairData, aligning(Preferences), {}),
    "kto": (PostTrainingData, aligning(KTO), {}),
    "reinforce": (PostTrainingData, aligning(Reinforce), {}),
    "return-conditioned": (PostTrainingData, aligning(ReturnConditioned), {}),
    "ppo": (PostTrainingData, drawing(PPO), {}),
    "grpo": (PostTrainingData, drawing(GRPO), {}),
    "cql": (PostTrainingData, aligning(CQL), {}),
    "iql": (PostTrainingData, aligning(IQL), {}),
    "awac": (PostTrainingData, aligning(AWAC), {}),
    "sa2c": (PostTrainingData, aligning(SA2C), {}),
}
BRIEF = ("full softmax", "sampled softmax", "reward", "keep", "dpo", "kto", "ppo", "iql")
OWN_DRAWS = ("awac",)
"""Methods whose processes draw items of their own, so that only the mean agrees."""


def trained(case: str, root: Path, folder: Path, devices: int = 1) -> dict[str, Any]:
    """The losses of every step, the figures, the weights and the events of a fit."""
    kind, make, settings = CASES[case]
    seed_everything(0, verbose=False)
    data = small.data_of(kind, root, "tastes", batch_tokens=TOKENS, **settings)
    module, steps = make(data), Steps()
    averaged = [PolynomialAveraging()] if case == "reward" else []
    strategy = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    trainer = small.trainer_of(
        folder, -1, steps, StepSeeds(0), *averaged, max_steps=STEPS, check_val_every_n_epoch=1, **strategy
    )
    trainer.fit(module, data)
    figures = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("speed/")}
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    return {"loss": steps.loss, "figures": figures, "weights": weights, "events": module.events}


def all_trained(cases: list[str], root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    return {case: trained(case, root, folder, several.PROCESSES) for case in cases}


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest, log_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case, trained by two processes."""
    cases = list(CASES) if request.config.getoption("--long") else list(BRIEF)
    return several.together(all_trained, cases, log_root, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(
    "case", [case if case in BRIEF else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_two_processes_train_as_one(pairs, case: str, log_root: Path, tmp_path: Path):
    first, second = (copy.deepcopy(found[case]) for found in pairs)
    assert first["loss"] == second["loss"]
    assert first["figures"] == pytest.approx(second["figures"], nan_ok=True)
    assert all(first["weights"][name].equal(second["weights"][name]) for name in first["weights"])
    one = trained(case, log_root, tmp_path)
    assert len(one["loss"]) == STEPS
    assert first["events"] == one["events"]
    tolerance = 0.2 if case in OWN_DRAWS else 1e-5
    assert first["loss"] == pytest.approx(one["loss"], rel=tolerance, abs=tolerance)


def fit(name: str, *more: str, stage: str = "recommender") -> list[str]:
    return ["fit", f"--config={CONF}/{stage}.yaml", "--config=log.yaml", f"--run.name={name}", *more]


def predict(name: str, *more: str) -> list[str]:
    return ["predict", "--config", f"runs/tastes/{name}/seed-0/config.yaml", *more]


def run_all(folder: Path, commands: list[list[str]]) -> None:
    os.chdir(folder)
    for words in commands:
        run_stage(words)


@pytest.fixture
def place(log_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "log.yaml").write_text(LOG.replace("ROOT", str(log_root)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_two_that_was_interrupted_ends_as_one_that_was_not(place: Path):
    several.together(
        run_all,
        place,
        [
            fit("whole", *TWO),
            fit("broken", *TWO, "--trainer.max_steps=6"),  # in the middle of the second epoch
            fit("broken", *TWO, "--ckpt_path=last"),
            predict("whole"),
        ],
    )
    whole, broken = (RunFolder(Path(f"runs/tastes/{name}/seed-0")) for name in ("whole", "broken"))
    states = [torch.load(run.last, weights_only=True)["current_model_state"] for run in (whole, broken)]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    rows = [pl.read_csv(run.figures("fit")).drop("speed/events_per_second") for run in (whole, broken)]
    assert rows[0].equals(rows[1])
    assert rows[0]["train/loss"].drop_nulls().len() == rows[0]["step"].n_unique()  # written once
    shared = pl.read_parquet(whole.path / "recommendations.parquet")
    run_stage(predict("whole", "--trainer.devices=1", "--trainer.strategy=auto"))
    alone = pl.read_parquet(whole.path / "recommendations.parquet")
    assert shared.drop("score").equals(alone.drop("score"))
    assert shared["score"].to_numpy() == pytest.approx(alone["score"].to_numpy(), abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("cluster", ["nodes", "slurm"])
def test_two_nodes_train_as_two_devices_do(place: Path, cluster: str):
    several.together(run_all, place, [fit("devices", *TWO)])
    nodes = [*TWO[1:], "--trainer.num_nodes=2", "--trainer.devices=1"]
    several.together(run_all, place, [fit("nodes", *nodes)], cluster=cluster)
    devices, nodes = (torch.load(f"runs/tastes/{name}/seed-0/checkpoints/best.ckpt") for name in ("devices", "nodes"))
    assert all(weight.equal(nodes["state_dict"][name]) for name, weight in devices["state_dict"].items())


@pytest.mark.long
def test_a_reward_model_of_two_is_trusted_as_that_of_one(place: Path):
    several.together(run_all, place, [fit("recommender", *TWO), fit("two", *TWO, stage="reward")])
    run_stage(fit("one", stage="reward"))
    two, one = (files.read_json(Path(f"runs/tastes/{name}/seed-0/trust.json")) for name in ("two", "one"))
    assert two["verdict"] == one["verdict"]
