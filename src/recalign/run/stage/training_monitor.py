"""Log learning rate, gradient norm, step time and memory of every training run."""

from __future__ import annotations

import resource
import sys
import time

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from recalign.recommender.training import logs_now


class TrainingMonitor(Callback):
    """Log ``train/lr``, ``train/grad_norm``, ``speed/step_seconds`` and ``speed/memory_gb``.

    Only steps that are logged anyway do more: they read the device then, and no other step waits for it. The gradient's
    norm is the 2-norm over all parameters, before it is clipped. A step's time is the mean since the last row,
    validation left out.
    """

    def __init__(self) -> None:
        self._began = (0.0, 0)  # time, steps until then

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)  # a run that is continued within an epoch starts none

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

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
            memory = peak_memory(trainer.strategy.root_device)
            pl_module.log_dict({"speed/step_seconds": seconds, "speed/memory_gb": memory})
            self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._began = time.monotonic(), trainer.global_step


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has had, in GB: a GPU's, else the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
