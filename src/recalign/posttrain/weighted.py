"""A-SFT and its family: the log's own items, weighted by how much better than expected each turned out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from recalign.errors import InputError, require_positive
from recalign.posttrain.advantage import Transform, weights
from recalign.posttrain.base import PostTraining
from recalign.posttrain.data import PostTrainingData
from recalign.posttrain.losses import weighted_likelihood
from recalign.recommender.policy import Policy
from recalign.sequences import Batch

LEAST = 0.05
"""Effective sample size, as a share of the events that have an advantage, below which a few decide everything."""


class WeightedSFT(PostTraining):
    """L = sum_e w_e * -log pi(a_e | s_e) / sum_e w_e with w_e = f(A_e): advantage-weighted supervised fine-tuning.

    Under ``signed`` some weights are below 0, and those events are lowered (`recalign.posttrain.losses`).

    Logs ``train/loss``; ``advantage/{ess,max_weight,lowered,clipped,share}``: effective sample size as a share of the
    events, largest over mean weight, share of the weight that is below 0, share of clipped weights, share of events
    that have an advantage; ``policy/kl``. Where a temperature decides, it warns before training of an effective sample
    below `LEAST` of the events that have an advantage.
    The form that is recommended is conf/asft.yaml's, not that of the arguments' own defaults.

    Raises (before training):
        InputError: every event's weight is 0.

    Args:
        init_from: checkpoint whose policy is the start; null: the newest of this log.
        transform: f: constant, linear, exponential, rank, sign or signed (`recalign.posttrain.advantage`).
        temperature: beta of f, in standard deviations of the reward; large: behaviour cloning, small: greedy.
        clip: the largest weight, in units of the mean weight; null: no limit.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that is kept; null: whatever is left.
        policy: a policy to start from instead of a checkpoint's (Python only).
    """

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "temperature", "clip")

    def __init__(
        self,
        init_from: str | None = None,
        transform: Transform = "exponential",
        temperature: float = 1.0,
        clip: float | None = 10.0,
        lr: float = 3e-4,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.transform: Transform = transform
        self.temperature, self.clip = temperature, clip
        self.drops_out = transform != "signed"  # which compares pi with the start
        self.train()
        self.start_E: Tensor | None = None  # log pi_start of each logged event, where it is needed

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            assert isinstance(self.data, PostTrainingData)
            self._require_weights(torch.from_numpy(self.data.advantages))

    def _require_weights(self, advantage_E: Tensor) -> None:
        known_T = advantage_E[~advantage_E.isnan()]
        size_T = weights(known_T, self.transform, self.temperature, self.clip)[0].double().abs()
        if not size_T.any():
            raise InputError(
                f"every weight is 0: no event has an advantage above 0 (the largest is {known_T.max():.3g})",
                where=f"model.transform {self.transform}",
                remedy="give a data.reward that is above 0 for what was good, another data.baseline or transform",
            )
        share = float(size_T.sum().square() / (len(size_T) * size_T.square().sum()))
        if share < LEAST and self.transform in ("exponential", "rank"):
            rank_zero_warn(
                f"few events have nearly all of the weight: in effect {share:.1%} of {len(size_T):,}, below "
                f"{LEAST:.0%}; raise model.temperature (now {self.temperature:g})"
            )

    def on_train_start(self) -> None:
        if self.transform == "signed":
            self.start_E = self._start_log_probs()

    @torch.no_grad()
    def _start_log_probs(self) -> Tensor:
        """Once, so that a step costs what one of cloning costs. Shape: (rows of the event table,), NaN elsewhere."""
        out = torch.full((len(self.data.sequences.frame),), torch.nan, device=self.device)
        for batch in self.data.loader(self.data.training(), seen=False):
            there = batch.to(self.device)
            with self.trainer.precision_plugin.train_step_context():  # rounded as pi is, which is compared with it
                out[there.event_T] = self.reference.log_prob(self.reference.encode(there), there.target_T)
        return out

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        advantage_T = self.advantages(batch)
        weight_T, cut = weights(advantage_T, self.transform, self.temperature, self.clip)
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        start_T = None if self.start_E is None else self.start_E[batch.event_T]
        loss, figures = weighted_likelihood(logp_T, weight_T, start_T)
        share = (~advantage_T.isnan()).float().mean()
        self.log("train/loss", loss, batch_size=len(weight_T))
        self.log_dict({f"advantage/{k}": v for k, v in {**figures, **cut, "share": share}.items()})
        self.log_drift(batch)
        return loss
