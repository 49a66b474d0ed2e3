"""A polynomial-decay average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from recalign.recommender.row_sharding import whole_numel

EVERY_STEP = 2**22
"""Up to so many parameters, the average is updated at every step; with n times as many, at every n-th."""


class PolynomialAveraging(WeightAveraging):
    """Validate and checkpoint a polynomial-decay average of the weights. Training itself does not change.

    After step t the average is a_t = (1 - c_t) a_{t-1} + c_t w_t with c_t = (power + 1) / (t + power): the weight of
    step s grows as s^power, and the average is t / (power + 2) steps old (Shamir and Zhang, arXiv 1212.1824).

    Large models are averaged less often (`EVERY_STEP`), so that the pass over the weights does not dominate a step;
    gaps are at most 1 + t / 32 steps. An update then has the weight of all steps since the last one.

    Lightning's class copies the module in `setup`, before the module knows its buffers (`RewardModel` sizes them by the
    data) and before it is on its device. This class copies it at the start of the fit, and keeps the update counter on
    the CPU, where reading it does not synchronise. Inherited private attributes are those of Lightning 2.6.6.

    Args:
        power: how fast early steps are forgotten, 0 or above; 0: the plain mean of all steps.
    """

    def __init__(self, power: float = 6.0) -> None:
        if power < 0:
            raise ValueError(f"power must not be negative, not {power}")
        super().__init__(use_buffers=False, multi_avg_fn=self._update)
        self.power = power

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._average_model, self._latest_update_step = None, 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        super().setup(trainer, pl_module, "fit")  # copies the loaded weights: a strategy may load after on_fit_start
        if has_steps_left(trainer, checkpoint):  # else the loaded weights are the average
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._average_model is None:
            super().setup(trainer, pl_module, "fit")
            self._average_model.n_averaged = torch.tensor(0)  # type: ignore[attr-defined]
        self._average_model.module.to(pl_module.device)  # type: ignore[union-attr]
        self._interval = math.ceil(whole_numel(pl_module) / EVERY_STEP)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        step = step_idx + 1
        return step - self._latest_update_step >= min(self._interval, 1 + step // 32)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        steps = range(self._latest_update_step + 1, trainer.global_step + 1)
        self._share = 1 - math.prod((step - 1) / (step + self.power) for step in steps)  # 1 - c = (t - 1) / (t + power)
        super().on_train_batch_end(trainer, pl_module, *args)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._average_model = None  # the module holds it now; later changes to the module get saved too

    def _update(self, average: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, self._share)


def has_steps_left(trainer: Trainer, checkpoint: dict[str, Any]) -> bool:
    """Whether a fit that resumes from a checkpoint has epochs and steps left."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    limits = (trainer.max_epochs, epochs), (trainer.max_steps, checkpoint["global_step"])
    return all(limit in (None, -1) or done < limit for limit, done in limits)
