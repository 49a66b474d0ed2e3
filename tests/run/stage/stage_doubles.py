"""Small stand-ins with the shape of the real stages: a model with an encoder, one with upstreams, and their data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

STAGE = """
seed_everything: 0
run: {name: recommender}
checkpoint: {monitor: rank/loss}
trainer: {max_epochs: 2, accelerator: cpu, devices: 1, log_every_n_steps: 2, num_sanity_val_steps: 0}
model:
  class_path: stage_doubles.Toy
  init_args:
    encoder: {class_path: stage_doubles.Mixer, init_args: {max_length: "${data.init_args.max_length}"}}
data:
  class_path: stage_doubles.ToyData
  init_args:
    log: {name: toy, files: [toy.csv], user: uid, columns: {stars: rating}}
    reward: rating
    split: {class_path: stage_doubles.LeaveLast, init_args: {test: 3, validation: 2}}
    seed: ${seed_everything}
"""


@dataclass
class Log:
    """A log's mapping."""

    name: str
    files: list[str]
    user: str = "user"
    time_unit: Literal["s", "ms"] = "s"
    columns: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    time_resolution: int | None = None


@dataclass
class High:
    """What is high."""

    expression: str
    quantile: float | None = None


class Split:
    """Base of the splits."""


@dataclass(frozen=True)
class LeaveLast(Split):
    test: int = 10
    validation: int = 5


@dataclass(frozen=True)
class TimeSplit(Split):
    cuts: tuple[float, float] = (0.8, 0.9)


class EpochSampler(Sampler[int]):
    """An order that is a function of (seed, epoch), and that knows where it stands."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch, self.done = count, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        first, self.done = self.done, 0
        for number in range(first, self.count):
            self.done = number + 1
            yield int(order[number])
        self.done = 0


class Rows(Dataset[Tensor]):
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)


class Loader(DataLoader[Tensor]):
    sampler: EpochSampler

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch, "done": self.sampler.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.epoch, self.sampler.done = state["epoch"], state["done"]


class ToyData(LightningDataModule):
    """``batches`` batches of random numbers; no file is read."""

    def __init__(
        self,
        log: Log,
        reward: str | None = None,
        split: Split = LeaveLast(),
        max_length: int = 8,
        root: str | None = None,
        seed: int | None = 0,
        batches: int = 6,
        items: int = 7,
        high: High | None = None,
    ) -> None:
        super().__init__()
        self.log_, self.reward, self.split, self.max_length, self.seed = log, reward, split, max_length, seed
        self.root = root
        self.num_items = items
        self.values = self.read(batches)

    def read(self, batches: int) -> Tensor:
        return torch.randn(batches, 5, 4, generator=torch.Generator().manual_seed(1))

    @property
    def fingerprint(self) -> str:
        return f"{self.log_.name}/{self.reward}/{self.num_items}"

    def train_dataloader(self) -> Loader:
        rows = Rows(self.values)
        return Loader(rows, sampler=EpochSampler(len(rows), self.seed), batch_size=None)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Rows(self.values[:2]), batch_size=None)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


class ToyPostData(ToyData):
    """The data of the stage that starts from others."""

    UPSTREAM: ClassVar[dict[str, str]] = {"reward_model": "reward"}

    def __init__(self, log: Log, reward_model: str | None = None, max_length: int = 8, seed: int = 0) -> None:
        super().__init__(log, max_length=max_length, seed=seed)
        self.reward_model = reward_model


class Encoder(nn.Module):
    """Base of the encoders."""


class Mixer(Encoder):
    def __init__(self, dim: int = 4, max_length: int = 8, dropout: float = 0.5) -> None:
        super().__init__()
        self.max_length = max_length
        self.linear, self.dropout = nn.Linear(dim, dim), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear(x))


class OtherMixer(Mixer):
    """Another encoder with the same arguments."""


class Toy(LightningModule):
    """A model with an encoder and dropout."""

    def __init__(
        self,
        encoder: Encoder,
        num_items: int,
        learning_rate: float = 0.05,
        loss: Literal["full", "sampled"] = "full",
        poison: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder, self.learning_rate, self.poison = encoder, learning_rate, poison
        self.head = nn.Linear(4, num_items)

    def step(self, batch: Tensor) -> Tensor:
        return (self.head(self.encoder(batch)) - 1).square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        if self.poison is not None and self.global_step >= self.poison:
            loss = loss * float("nan")
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        torch.rand(3)  # validation draws random numbers, as sampled metrics do
        self.log("rank/loss", self.step(batch))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/loss", self.step(batch))

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.head(self.encoder(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class OtherToy(Toy):
    """Another class with the same weights."""


class ToyPost(LightningModule):
    """A model that starts from another stage's checkpoint."""

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender"}

    def __init__(self, num_items: int, init_from: str | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.init_from = init_from
        self.head = nn.Linear(4, num_items)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.head(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing is measured."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAt(Callback):
    """Fails at a step, as a machine does that loses its power."""

    def __init__(self, step: int) -> None:
        self.at = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.at + 1:
            raise RuntimeError("pulled the plug")
