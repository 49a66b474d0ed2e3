"""The small log in the three stages' hands."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from torch import nn

from recalign.data.events import LogMapping
from recalign.data.sequences import Batch, EventDataModule, High, LeaveLast, UserCohort
from recalign.nn import HSTU, Encoder, LazyDecoder, Pooled
from recalign.posttrain import PostTrainingData
from recalign.posttrain.base import PostTraining
from recalign.recommender import CodePolicy, Policy
from recalign.recommender.memory import Memory
from recalign.recommender.onerec import random_codes

SETTINGS: dict[str, Any] = {
    "reward": "rating",
    "high": High("reward >= 4"),
    "split": LeaveLast(test=3, validation=2),
    "max_length": 32,
    "batch_tokens": 512,
    "users": "A",
}


OBSERVED = {"source": "observed", "baseline": "user_item"}
"""Advantages that need no other stage's checkpoint."""
FREE = {"keep": None, "weight_decay": 0.0}
"""Post-training that nothing holds back."""


def log(name: str = "small") -> LogMapping:
    return LogMapping(name=name, files=[f"{name}.csv"])


def data_of(kind: type[EventDataModule], root: Path, name: str = "small", **settings: Any) -> Any:
    """A DataModule over ``<name>.csv``; advantages are observed unless settings say otherwise."""
    observed = OBSERVED if issubclass(kind, PostTrainingData) else {}
    return kind(log=log(name), root=str(root), **{**SETTINGS, **observed, **settings})


def free(method: type[PostTraining], **settings: Any) -> Any:
    """A post-training module that nothing holds back, unless settings say otherwise."""
    return method(**{**FREE, **settings})


def a_gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.device, dict[type, list[Any]]]:
    """A GPU that is not there: networks and batches that move to it are noted, and stay where they are.

    So it shows that they are moved, with results that can be compared; that all tensors made on the way lie where they
    do, the meta device shows (`test_devices.py`), on which nothing can be compared.

    Returns:
        The device; what has moved, by kind: ``nn.Module`` and ``Batch``.
    """
    gpu = torch.device("cuda", 0)
    moved: dict[type, list[Any]] = {nn.Module: [], Batch: []}

    def to(one: Any, device: torch.device) -> Any:
        assert device == gpu
        moved[nn.Module if isinstance(one, nn.Module) else Batch].append(one)
        return one

    for kind in moved:
        monkeypatch.setattr(kind, "to", to)
    return gpu, moved


def on_a_gpu(data: EventDataModule, monkeypatch: pytest.MonkeyPatch) -> dict[type, list[Any]]:
    """Give a DataModule a trainer on `a_gpu`; what has moved."""
    gpu, moved = a_gpu(monkeypatch)
    monkeypatch.setattr(data, "trainer", SimpleNamespace(strategy=SimpleNamespace(root_device=gpu)))
    return moved


def coded(items: int) -> CodePolicy:
    """A policy over random codes."""
    sizes = [math.isqrt(items - 1) + 1] * 2
    policy = CodePolicy(LazyDecoder(16, layers=1, max_length=64, dropout=0.0), items, sizes)
    policy.set_codes(random_codes(items, sizes))
    return policy


def encoder(dropout: float = 0.0) -> Encoder:
    return HSTU(dim=16, layers=1, max_length=32, dropout=dropout)


def pooled() -> Encoder:
    return Pooled(dim=8, max_length=32, dropout=0.0)


class Watch(Callback):
    """Keeps every step's figures."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.steps.append({k: float(v) for k, v in trainer.callback_metrics.items()})


class Histograms(Logger):
    """Keeps the distributions that are logged, by name."""

    name, version = "histograms", 0

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, list[np.ndarray]] = {}

    def log_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self.kept.setdefault(name, []).append(values)

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


def histograms(module: LightningModule, data: EventDataModule, folder: Path) -> dict[str, list[np.ndarray]]:
    """The distributions that two steps leave, of which the second is logged."""
    logger = Histograms()
    once = {"limit_train_batches": 2, "limit_val_batches": 0, "log_every_n_steps": 2}
    fit(module, data, folder, logger=logger, **once)
    return logger.kept


def trainer_of(folder: Path, epochs: int = 1, *callbacks: Callback, **settings: Any) -> Trainer:
    """A quiet Trainer that writes into ``folder`` alone."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    quiet |= {"log_every_n_steps": 1}
    return Trainer(max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **settings})


def fit(module: LightningModule, data: EventDataModule, folder: Path, epochs: int = 1, **settings: Any) -> Watch:
    """Train; the figures of every step."""
    seed_everything(0, verbose=False)
    watch = Watch()
    trainer_of(folder, epochs, watch, **settings).fit(module, data)
    return watch


def saved(module: LightningModule, path: Path) -> Path:
    """The checkpoint of a module that was just trained."""
    module.trainer.save_checkpoint(path)
    return path


def with_memory(policy: Any) -> Any:
    """Every item has a few neighbours, some of them twice; the first has none."""
    memory = Memory(policy.num_items, neighbours=6, newest=4)
    memory.neighbour_WK.random_(1, policy.num_items + 1)[:2] = 0
    memory.cosine_WK.uniform_()[:2] = 0
    memory.strength = 2.0
    policy.remember(memory)
    return policy


def batch_of(data: EventDataModule, part: str = "test", rows: int | None = None) -> Batch:
    """All windows of a part (or the first of them) in one batch, with what was seen."""
    windows = data.training() if part == "train" else data.windows(part)  # type: ignore[arg-type]
    loader = data.loader(windows)
    make = loader.dataset.make  # type: ignore[attr-defined]
    return make(torch.arange(rows or len(windows)).numpy(), data.max_length)


def naive_ranks(
    logp_TV: torch.Tensor, item_T: torch.Tensor, seen_N: torch.Tensor, margin: float = 1e-5
) -> list[tuple[int, int]]:
    """Lowest and highest rank, counted one by one: rounding may put scores that differ by ``margin`` either way."""
    ranks = []
    for t, (row, item) in enumerate(zip(logp_TV.tolist(), item_T.tolist(), strict=True)):
        hidden = {item, *seen_N[1, seen_N[0] == t].tolist()}
        gaps = [s - row[item - 1] for v, s in enumerate(row, start=1) if v not in hidden]
        first = 1 + sum(gap > margin for gap in gaps)
        last = 1 + sum(gap >= -margin for gap in gaps)
        ranks.append((first, last) if item else (0, 0))
    return ranks


def liked(policy: Policy, data: EventDataModule, part: str = "test") -> float:
    """Mean probability of the half of the catalogue that each user likes: items of the parity of its own id."""
    batch = batch_of(data, part)
    users = data.sequences.users.gather(batch.user_B[batch.row_T].numpy()).to_numpy()
    items = data.sequences.items.to_numpy()
    good_TV = torch.from_numpy((users[:, None] - items) % 2 == 0)
    with torch.no_grad():
        return (policy.eval().log_probs(policy.encode(batch)).exp() * good_TV).sum(dim=1).mean().item()


def says_users(path: Path, users: UserCohort) -> Path:
    """Let a checkpoint say that it was trained on these users."""
    torch.save({**torch.load(path, weights_only=True), "users": asdict(users)}, path)
    return path
