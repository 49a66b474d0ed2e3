"""Modules under a plain `lightning.Trainer` with a plain DataLoader, as Lightning's own users write it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from lightning import LightningModule, seed_everything
from torch.utils.data import DataLoader

from recalign.data.sequences import Batch, EventDataModule
from recalign.errors import InputError
from recalign.posttrain import GRPO, PostTrainingData, Preferences, SignedSFT, WeightedSFT
from recalign.posttrain.pairs_data import PairData
from recalign.recommender import OneRecRecommender, Recommender, RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData, RewardModel

STEPS = {"limit_train_batches": 2, "limit_val_batches": 0}


def plain(data: EventDataModule) -> DataLoader[Batch]:
    """The training batches of a DataModule in a DataLoader that knows nothing of it."""
    return DataLoader(list(data.train_dataloader()), batch_size=None)  # type: ignore[arg-type]


def losses(module: LightningModule, folder: Path, *given: Any, **data: Any) -> list[float]:
    """The losses of two steps."""
    seed_everything(0, verbose=False)
    watch = small.Watch()
    small.trainer_of(folder, 1, watch, **STEPS).fit(module, *given, **data)
    return [step["train/loss"] for step in watch.steps]


MODULES: dict[str, tuple[type[EventDataModule], Callable[[EventDataModule, str], Any]]] = {
    "recommender": (RecommenderData, lambda data, _: Recommender(data.num_items, small.encoder(0.1))),
    "reward": (RewardData, lambda data, start: RewardModel(data.num_items, init_from=start, members=2)),
    "asft": (PostTrainingData, lambda _, start: WeightedSFT(init_from=start)),
    "signed": (PostTrainingData, lambda _, start: SignedSFT(init_from=start, keep=None)),
    "dpo": (PairData, lambda _, start: Preferences(init_from=start)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_losses_are_those_with_the_datamodule(log_root, cloned, tmp_path, name):
    kind, make = MODULES[name]
    data = small.data_of(kind, log_root, "tastes")

    def module() -> Any:
        torch.manual_seed(0)
        return make(data, str(cloned))

    found = losses(module().bind(data), tmp_path, plain(data))
    assert len(found) == 2
    assert found == losses(module(), tmp_path, datamodule=data)


@pytest.mark.parametrize("make", [Recommender, OneRecRecommender])
def test_cloning_needs_no_more_than_batches(log_root, tmp_path, make):
    """The checkpoint then says nothing of a catalogue, and there is no item prior."""
    data = small.data_of(RecommenderData, log_root, "tastes")
    module = make(data.num_items)
    assert len(losses(module, tmp_path, plain(data))) == 2
    loaded = load_net(small.saved(module, tmp_path / "policy.ckpt"), "policy")
    assert (loaded.catalogue, loaded.users, loaded.net.prior_strength) == (None, None, 0)
    batches = DataLoader(list(data.predict_dataloader()), batch_size=None)
    found = small.trainer_of(tmp_path).predict(module, batches)
    assert sum(len(user_T) for user_T, *_ in found) == data.sequences.num_users
    assert not (tmp_path / "recommendations.parquet").exists()


def test_what_needs_the_log_says_so_before_training(log_root, cloned, rewarded, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    for module in (
        RewardModel(data.num_items, init_from=str(cloned)),
        WeightedSFT(init_from=str(cloned)),
        GRPO(init_from=str(cloned), reward_model=str(rewarded)),
    ):
        with pytest.raises(InputError, match=rf"{type(module).__name__} needs the log(.|\n)*module\.bind\(data\)"):
            losses(module, tmp_path, plain(data))


def test_a_copy_of_a_module_is_without_its_log(log_root):
    """An average of the weights is such a copy."""
    data = small.data_of(RecommenderData, log_root, "tastes")
    module = Recommender(data.num_items, small.encoder()).bind(data)
    assert copy.deepcopy(module).datamodule is None
    assert module.datamodule is data


class Popularity(LightningModule):
    """A module of somebody else: one logit an item."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.logit_V = torch.nn.Parameter(torch.zeros(items))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = -self.logit_V.log_softmax(dim=0)[batch.target_T - 1].mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def test_a_datamodule_serves_any_module(log_root, tmp_path):
    data = small.data_of(RecommenderData, log_root, "tastes")
    first, second = losses(Popularity(data.num_items), tmp_path, datamodule=data)
    assert first == pytest.approx(math.log(data.num_items))
    assert second != first
