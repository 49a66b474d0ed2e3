"""Behaviour cloning: a policy learns to predict the next items of histories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.recommender.checkpoint import build_net, prior_names
from recalign.recommender.policy import Policy, mean_nll
from recalign.recommender.prior import training_pass
from recalign.recommender.training import PolicyModule

CLONED = "cloned"
"""The fact that marks networks from cloning: trained on all users' choices, and on rewards of users A at most."""


MEMORY = "policy.memory."
"""Prefix of the memory's names in a checkpoint."""


class RecommenderData(EventDataModule):
    """Next items of all users (or of ``users``), in training and validation. Rewards are not targets."""


class Cloning(PolicyModule):
    """Behaviour cloning of any policy: maximise the likelihood of each next item, L = mean_t -log pi(a_t | s_t).

    Logs ``train/loss``, and what `PolicyModule` and `calibration` log.

    Args:
        policy: the policy, trained in place.
        prior: whether the policy gets an item prior when training ends (`calibration`).
        memory: whether it also gets a memory of co-occurrence, if that ranks better on validation; needs ``prior``.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items per user that `predict` writes.
    """

    calibration: ClassVar[Callable[[dict[str, float], bool], Callback]]
    """Makes the callback that chooses prior and memory at the end; the package sets it to `CalibratePrior`."""

    def __init__(
        self,
        policy: Policy,
        prior: bool = True,
        memory: bool = True,
        lr: float = 2e-3,
        weight_decay: float = 0.3,
        top_k: int = 10,
    ) -> None:
        super().__init__(policy, lr, weight_decay, top_k)
        self.save_hyperparameters(logger=False, ignore=["policy", "top_k"])
        self.prior, self.memory = prior, memory
        self.prior_facts: dict[str, float] = {}

    def configure_callbacks(self) -> list[Callback]:
        calibration = [type(self).calibration(self.prior_facts, self.memory)] if self.prior else []
        return [*super().configure_callbacks(), *calibration]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {CLONED: True} | ({"prior": self.prior_facts} if self.prior_facts else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.trainer.training:  # resume a calibrated checkpoint without its prior, in the average too
            own, weights = self.state_dict(), checkpoint["state_dict"]
            weights |= {name: own[name] for name in prior_names(self)}
            checkpoint["state_dict"] = {name: x for name, x in weights.items() if not name.startswith(MEMORY)}
            return
        memory = checkpoint["recipes"]["policy"]["init_args"].get("memory")
        if memory or self.policy.memory is not None:
            self.policy.remember(memory and build_net(memory))

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.policy.prior_strength = 0.0  # before the weight average copies the policy
            if self.policy.memory is not None:
                self.policy.remember(None)
            if self.datamodule:
                count_V = self.datamodule.sequences.item_counts(self.datamodule.users)
                self.policy.set_counts(torch.from_numpy(count_V))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with training_pass(self.policy):
            loss = self.loss(self.visible(batch))
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """The mean over the targets, a scalar."""
        return mean_nll(self.policy, self.policy.encode(batch), batch.target_T)
