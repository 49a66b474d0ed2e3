"""The optimiser of an update goes on from the day before, in place of beginning anew."""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class KeepMoments(Callback):
    """Begin with the moments and the step count of an earlier run's AdamW; rows of new items begin at 0.

    Args:
        path: checkpoint of that run, of the same settings and no more items.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:  # a run that goes on has its own
            return
        (earlier,), (optimiser,) = torch.load(self.path, weights_only=True)["optimizer_states"], trainer.optimizers
        parameters = [one for group in optimiser.param_groups for one in group["params"]]
        numbers = [number for group in earlier["param_groups"] for number in group["params"]]
        for parameter, number in zip(parameters, numbers, strict=True):
            if number in earlier["state"]:
                found = earlier["state"][number]
                optimiser.state[parameter] = {name: grown(one, parameter, name) for name, one in found.items()}


def grown(state: Tensor, parameter: Tensor, name: str) -> Tensor:
    """A state of an optimiser for a parameter with further rows, at which it is 0."""
    if name == "step" or state.shape == parameter.shape:
        return state.clone()
    whole = torch.zeros_like(parameter)
    whole[: len(state)] = state
    return whole
