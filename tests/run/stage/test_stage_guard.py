"""The guard against NaN, and seeds that a continued run repeats."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recalign.run.stage.callbacks import NaNGuard, StepSeeds, TrainingError


def trainer(batch: int, **more: Any) -> Any:
    """A trainer at the end of its batch-th batch (from 0)."""
    values = {"log_every_n_steps": 5, "num_training_batches": 10, "accumulate_grad_batches": 2, "global_rank": 0} | more
    values["strategy"] = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=batch), **values)


def test_the_first_bad_batch_is_named_although_it_is_read_later(folder: Path):
    guard = NaNGuard(folder / "last.ckpt")
    for batch, loss in enumerate([1.0, 2.0, float("inf"), float("nan")]):
        guard.on_train_batch_end(trainer(batch), None, {"loss": torch.tensor(loss)})  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"step 1 \(epoch 0, batch 2\); no checkpoint was written yet"):
        guard.on_train_batch_end(trainer(4), None, torch.tensor(1.0))  # type: ignore[arg-type]


def test_nan_guard_writes_no_checkpoint_after_a_bad_batch(folder: Path):
    guard = NaNGuard(folder / "last.ckpt")
    guard.on_train_batch_end(trainer(11), None, {"loss": torch.tensor(1.0)})  # type: ignore[arg-type]
    guard.on_save_checkpoint(trainer(11), None, {})  # type: ignore[arg-type]
    guard.on_train_batch_end(trainer(12), None, {"loss": torch.tensor(float("nan"))})  # type: ignore[arg-type]
    (folder / "last.ckpt").touch()
    with pytest.raises(TrainingError, match=r"epoch 1, batch 2\); the last good checkpoint is .*last\.ckpt"):
        guard.on_save_checkpoint(trainer(12), None, {})  # type: ignore[arg-type]


def test_a_value_is_read_back_only_now_and_then(monkeypatch: pytest.MonkeyPatch, folder: Path):
    reads = []
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: reads.append(1) or self.item())
    guard = NaNGuard(folder / "last.ckpt")
    for batch in range(20):
        guard.on_train_batch_end(trainer(batch), None, {"loss": torch.tensor(1.0)})  # type: ignore[arg-type]
    assert len(reads) == 4  # every log_every_n_steps = 5


def test_a_batch_that_was_skipped_is_no_reason_to_stop(folder: Path):
    guard = NaNGuard(folder / "last.ckpt")
    for output in (None, {}):
        guard.on_train_batch_end(trainer(4), None, output)  # type: ignore[arg-type]
    assert guard.first_bad is None  # it noted nothing that a later check could raise


def test_seeds_depend_on_seed_batch_and_process_alone():
    def draw(seed: int, batch: int, rank: int) -> float:
        torch.rand(7)
        StepSeeds(seed).on_train_batch_start(trainer(batch, global_rank=rank))
        return float(torch.rand(()))

    draws = {(s, b, r): draw(s, b, r) for s in range(3) for b in range(5) for r in range(2)}
    assert len(set(draws.values())) == len(draws)
    assert all(draw(*key) == value for key, value in draws.items())
