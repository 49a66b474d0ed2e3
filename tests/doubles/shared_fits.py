"""Fits that several processes share: every kind of model, and commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import several
import small
import torch
from lightning import LightningModule, seed_everything
from taste import Taste

from recalign.data.sequences import Batch
from recalign.nn import LazyDecoder
from recalign.posttrain import CQL, GRPO, PPO, WBC, PairData, PostTrainingData, Preferences, SignedSFT, WeightedSFT
from recalign.posttrain.experimental import AWAC, IQL, KTO, Reinforce
from recalign.recommender import OneRecRecommender, PolynomialAveraging, Recommender, RecommenderData, SequencePolicy
from recalign.reward import Judge, RewardData, RewardModel
from recalign.run.stage import parse_stage, run_stage
from recalign.run.stage.callbacks import StepSeeds

STEPS = 50
CURVE_STEPS = 20
CURVES = Path(__file__).parents[1] / "trajectories/losses.json"
DRAWN = 1.5409961  # by torch.nn.init.trunc_normal_ after torch.manual_seed(0), where the curves were written
COMMITTED = 1e-4
"""Relative bound between a step's loss and the committed one: it may come from another machine or torch."""
TOKENS = 200  # 6 of the longest histories a batch: shares are uneven, and some are empty


def start(items: int) -> SequencePolicy:
    torch.manual_seed(1)
    return SequencePolicy(small.encoder(), items, 0.1)


def cloning(data: Any, **settings: Any) -> LightningModule:
    return Recommender(data.num_items, small.encoder(), temperature=0.1, **settings)


def onerec(data: Any) -> LightningModule:
    torch.manual_seed(1)
    decoder = LazyDecoder(16, layers=1, max_length=32, dropout=0.0)
    return OneRecRecommender(data.num_items, decoder=decoder, beam=4)


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
    "onerec": (RecommenderData, onerec, {}),
    "reward": (RewardData, rewards, {}),
    "reward, members apart": (RewardData, lambda data: rewards(data, share="nothing"), {}),
    "judge": (RewardData, judging, {"users": "B1"}),
    "asft": (PostTrainingData, aligning(WeightedSFT, clip=2.0), {}),
    "rank": (PostTrainingData, aligning(WeightedSFT, transform="rank"), {}),
    "signed": (PostTrainingData, aligning(SignedSFT), {}),
    "keep": (PostTrainingData, aligning(WeightedSFT, keep=0.9), {}),
    "dpo": (PairData, aligning(Preferences), {}),
    "kto": (PostTrainingData, aligning(KTO), {}),
    "reinforce": (PostTrainingData, aligning(Reinforce), {}),
    "ppo": (PostTrainingData, drawing(PPO), {}),
    "grpo": (PostTrainingData, drawing(GRPO), {}),
    "cql": (PostTrainingData, aligning(CQL), {}),
    "iql": (PostTrainingData, aligning(IQL), {}),
    "awac": (PostTrainingData, aligning(AWAC), {}),
    "wbc": (PostTrainingData, aligning(WBC), {}),
}


def committed(case: str) -> list[float]:
    """The loss curve of a fit that is committed; skips where this torch draws other initial weights (2.8 does)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = float(torch.nn.init.trunc_normal_(torch.empty(8))[0])
    if abs(first - DRAWN) > 1e-5:
        pytest.skip(f"torch {torch.__version__} draws other initial weights than the committed curves begin with")
    return json.loads(CURVES.read_text())[case]


class Through:
    """A loader whose batches go through a function that makes one or more of each."""

    def __init__(self, loader: Any, function: Callable[[Batch], list[Batch]]) -> None:
        self.loader, self.function = loader, function
        self.sampler = loader.sampler  # Lightning tells it the epoch

    def __iter__(self) -> Iterator[Batch]:
        return (made for batch in self.loader for made in self.function(batch))


def curve(
    case: str, root: Path, folder: Path, function: Callable[[Batch], list[Batch]] | None = None, **settings: Any
) -> list[float]:
    """The losses of the first steps of a fit of `trained`, each the mean over the batches of its step.

    Args:
        case: of `CASES`.
        root: holds the log.
        folder: the trainer may write here.
        function: what is done to every batch.
        **settings: the trainer's.
    """
    kind, make, data_settings = CASES[case]
    seed_everything(0, verbose=False)
    data = small.data_of(kind, root, "tastes", batch_tokens=TOKENS, **data_settings)
    module, watch = make(data), small.Watch()
    if function:
        data.train_dataloader = lambda: Through(type(data).train_dataloader(data), function)
    settings = {"max_steps": CURVE_STEPS, "limit_val_batches": 0, **settings}
    small.trainer_of(folder, -1, watch, StepSeeds(0), **settings).fit(module, data)
    return np.reshape([one["train/loss"] for one in watch.steps], (CURVE_STEPS, -1)).mean(axis=1).tolist()


def trained(case: str, root: Path, folder: Path, devices: int = 1) -> dict[str, Any]:
    """The losses of every step, the figures, the weights and the events of a fit."""
    kind, make, settings = CASES[case]
    seed_everything(0, verbose=False)
    data = small.data_of(kind, root, "tastes", batch_tokens=TOKENS, **settings)
    module, watch = make(data), small.Watch()
    averaged = [PolynomialAveraging()] if case == "reward" else []
    strategy = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
    trainer = small.trainer_of(
        folder, -1, watch, StepSeeds(0), *averaged, max_steps=STEPS, check_val_every_n_epoch=1, **strategy
    )
    trainer.fit(module, data)
    figures = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("speed/")}
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    return {
        "loss": [one["train/loss"] for one in watch.steps],
        "figures": figures,
        "weights": weights,
        "events": module.events,
    }


def all_trained(cases: list[str], root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    return {case: trained(case, root, folder, several.PROCESSES) for case in cases}


def run_all(folder: Path, commands: list[list[str]]) -> None:
    os.chdir(folder)
    for words in commands:
        run_stage(parse_stage(words))
