"""Behaviour cloning: a policy learns to continue its users' histories."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.splits import TRAIN
from recalign.errors import InputError
from recalign.recommender.calibration import CalibratePrior
from recalign.recommender.checkpoint import Loaded, load_net, load_weights, prior_names
from recalign.recommender.policy import mean_nll
from recalign.recommender.prior import training_pass
from recalign.recommender.sequence_policy import Feedback, HistoryPolicy
from recalign.recommender.training import PolicyModule

CLONED = "cloned"
"""A fact of what cloning trained: it read everybody's choices, and rewards of users A at most."""


class RecommenderData(EventDataModule):
    """Next items of all users (or of ``users``), validated on their next items. Cloning reads no reward."""


class Cloning(PolicyModule):
    """Behaviour cloning of any policy: maximise the likelihood of each next item, L = mean_t -log pi(a_t | s_t).

    Logs ``train/loss``, what `PolicyModule` logs, and what `CalibratePrior` does.

    Args:
        policy: the policy, trained in place.
        prior: whether the policy gets an item prior when training ends (`CalibratePrior`).
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items a user that `predict` writes.
        init_from: checkpoint of a policy whose weights are loaded by name; mismatches are reported.
    """

    policy: HistoryPolicy

    def __init__(
        self,
        policy: HistoryPolicy,
        prior: bool = True,
        lr: float = 2e-3,
        weight_decay: float = 0.3,
        top_k: int = 10,
        init_from: str | None = None,
    ) -> None:
        super().__init__(policy, lr, weight_decay, top_k)
        self.save_hyperparameters(logger=False, ignore=["policy", "top_k"])
        self.prior = prior
        self.prior_facts: dict[str, float] = {}
        self.hidden_U: Tensor | None = None  # users whose rewards no policy may learn from
        self.start: Loaded | None = None
        if init_from:
            start = load_net(init_from, "policy")
            self.start_from(start)
            self.start = dataclasses.replace(start, net=None)

    def start_from(self, start: Loaded) -> None:
        """Take the weights of another policy, as far as they fit."""
        load_weights(self.policy, start.net.state_dict(), where=start.where, partial=True)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        """The checkpoints that these settings need, by argument; only one that is named."""
        return {"init_from": "recommender"} if init_args.get("init_from") else {}

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), *([CalibratePrior(self.prior_facts)] if self.prior else [])]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {CLONED: True} | ({"prior": self.prior_facts} if self.prior_facts else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.trainer.training:  # a calibrated one may be continued, without its prior: also the average of it
            own = self.state_dict()
            checkpoint["state_dict"] |= {name: own[name] for name in prior_names(self)}

    def setup(self, stage: str) -> None:
        if self.start:
            self.start.check(self.data)
        self.hidden_U = None
        if stage != "fit":
            return
        self.policy.prior_strength = 0.0  # before an average of the policy is begun
        if self.datamodule:
            count_V = self.datamodule.sequences.item_counts(self.datamodule.users)
            self.policy.set_counts(torch.from_numpy(count_V))
        if self.policy.past_rewards is not None:
            self._calibrate_feedback(self.policy.past_rewards)

    def _calibrate_feedback(self, feedback: Feedback) -> None:
        """Standardise the rewards that the policy sees, by users A's, and hide those of the others."""
        seen_U, frame = self.data.sequences.users_in("A"), self.data.sequences.frame
        self.hidden_U = ~torch.from_numpy(seen_U)
        own = pl.Series(seen_U).gather(frame["user"]) & (pl.col("split") == TRAIN)
        reward = frame.filter(own)["reward"].drop_nulls().to_numpy()
        if not len(reward) or np.ptp(reward) == 0:  # rounding may give equal values a deviation
            text = "the policy is to see rewards, but users A have none in training, or all are the same"
            remedy = "give a reward expression that differs between events, or set model.feedback to false"
            raise InputError(text, where="model.feedback", remedy=remedy)
        feedback.calibrate(float(reward.mean()), float(reward.std(ddof=1)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with training_pass(self.policy):  # the prior is off: `without_prior` would read its strength from the device
            loss = self.loss(self.visible(batch))
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """The mean over the targets, a scalar."""
        return mean_nll(self.policy, self.policy.encode(batch), batch.target_T)

    def visible(self, batch: Batch) -> Batch:
        """The batch without hidden rewards."""
        if self.hidden_U is None:
            return batch
        self.hidden_U = self.hidden_U.to(batch.user_B.device)  # once
        hidden_B1 = self.hidden_U[batch.user_B, None]
        return dataclasses.replace(batch, reward_BL=batch.reward_BL.masked_fill(hidden_B1, torch.nan))
