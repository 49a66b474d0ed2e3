"""Other weights validated and handed over than training goes on from."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class SwappedWeights(Callback):
    """Puts other weights in the place of those that are trained while these are validated, and at the end.

    Training is left as it is: no step starts from the others. A checkpoint holds the others as its ``state_dict``, and
    the weights that training goes on from as ``current_model_state``. Subclasses keep ``self._others`` up to date.
    """

    def __init__(self) -> None:
        self._others: list[Tensor] = []  # one for each of `_weights`; none outside of training

    def _weights(self, module: LightningModule) -> list[Tensor]:
        """The weights that have others."""
        return list(module.parameters())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._others = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)
        self._others = []

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        if self._others:
            for other, weight in zip(self._others, self._weights(module), strict=True):
                last = weight.clone()
                weight.copy_(other)
                other.copy_(last)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._others:
            others = dict(zip(self._weights(pl_module), self._others, strict=True))
            named = pl_module.named_parameters(remove_duplicate=False)  # shared weights have several names
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            replaced = {name: others[weight] for name, weight in named if weight in others}
            checkpoint["state_dict"] = checkpoint["state_dict"] | replaced

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The module has been given the others; to go on it needs its own weights."""
        if trainer.state.fn == TrainerFn.FITTING and "current_model_state" in checkpoint:
            self._others = [weight.detach().clone() for weight in self._weights(pl_module)]
            pl_module.load_state_dict(checkpoint["current_model_state"])
