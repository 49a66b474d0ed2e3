"""Callbacks of every training run: stop at a NaN, seed each batch, log speed and rates."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from recalign.errors import TrainingError
from recalign.recommender.training import logs_now


def batches_done(trainer: Trainer) -> int:
    """Training batches since the start of the run, over all its continuations; the one that runs does not count."""
    return trainer.fit_loop.total_batch_idx + 1


class NaNGuard(Callback):
    """Stop at a loss that is NaN or infinite; name its step, its batch and the last checkpoint before it.

    The first bad batch is noted on the device; it is read back only every ``log_every_n_steps`` steps, at the end of
    an epoch and before a checkpoint is written, so that no step waits for the device and no bad weights are saved.

    Args:
        last: where the last good checkpoint lies, if one was written.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.first_bad: Tensor | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is None:  # the module skipped this batch
            return
        loss = loss.detach()
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, device=loss.device)
        bad = (self.first_bad < 0) & ~torch.isfinite(loss).all()
        self.first_bad = torch.where(bad, batches_done(trainer) - 1, self.first_bad)
        if batches_done(trainer) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def _check(self, trainer: Trainer, *_: object) -> None:
        if self.first_bad is None or (number := int(self.first_bad)) < 0:
            return
        epoch, batch = divmod(number, int(trainer.num_training_batches))
        step = number // trainer.accumulate_grad_batches
        last = f"the last good checkpoint is {self.last}" if self.last.exists() else "no checkpoint was written yet"
        raise TrainingError(
            f"the loss became NaN or infinite at step {step} (epoch {epoch}, batch {batch}); {last}\n"
            "  -> lower the learning rate, clip gradients (--trainer.gradient_clip_val 1), or train in fp32"
        )

    on_train_epoch_end = on_save_checkpoint = _check


class StepSeeds(Callback):
    """Seed torch before every batch with a function of (seed, batch number, process).

    Dropout and sampled negatives then depend on neither validation nor where a run was interrupted: Lightning does
    not restore random states, and without this a continued run would differ from one that was never interrupted.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        rank = trainer.global_rank * 0xBF58476D1CE4E5B9  # dropout differs between processes
        seed = (self.seed * 0x9E3779B97F4A7C15 + rank + batches_done(trainer)) % 2**63
        # torch.manual_seed asks every kind of device and takes 0.1 ms, which a short step would notice.
        torch.default_generator.manual_seed(seed)
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)


class TrainingMonitor(Callback):
    """Log ``train/lr``, ``train/grad_norm``, ``speed/step_seconds`` and ``speed/memory_gb``.

    Only steps that are logged anyway do more: they read the device then, and no other step waits for it. The gradient's
    norm is the 2-norm over all parameters, before it is clipped. A step's time is the mean since the last row, without
    validation; memory is the most that this process has had, a GPU's or else the machine's.
    """

    def __init__(self) -> None:
        self._began = (0.0, 0)  # time, steps until then

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if logs_now(trainer):
            gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
            pl_module.log("train/lr", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        began, before = self._began
        steps = trainer.global_step - before  # 0 while a step accumulates batches
        if steps and trainer.global_step % max(trainer.log_every_n_steps, 1) == 0:  # type: ignore[attr-defined]
            seconds = (time.monotonic() - began) / steps
            if trainer.strategy.root_device.type == "cuda":
                memory = torch.cuda.max_memory_allocated(trainer.strategy.root_device) / 1e9
            else:
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
            pl_module.log_dict({"speed/step_seconds": seconds, "speed/memory_gb": memory})
            self._restart(trainer)

    def _restart(self, trainer: Trainer, *_: object) -> None:
        self._began = time.monotonic(), trainer.global_step

    # a run that is continued within an epoch starts none
    on_train_start = on_train_epoch_start = on_validation_end = _restart
