"""A-SFT and its family: the log's own events, each weighted by how much better than expected it turned out."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from recalign.errors import InputError
from recalign.posttrain.advantage import Transform, weights
from recalign.posttrain.base import PostTraining
from recalign.posttrain.losses import Figures, weighted_likelihood
from recalign.sequences import Batch

MIN_EFFECTIVE = 0.05
"""Share of the events that have an advantage; below such an effective sample size, a few events decide everything."""


class WeightedSFT(PostTraining):
    """L = sum_e w_e * -log pi(a_e | s_e) / sum_e w_e with w_e = f(A_e): advantage-weighted supervised fine-tuning.

    Under ``signed`` weights may be negative; those events are lowered (`recalign.posttrain.losses.weighted`).

    Logs ``advantage/ess``, the effective sample size as a share of the events; ``advantage/max_weight``, largest over
    mean weight; ``advantage/lowered``, share of the weight below 0; ``advantage/clipped``, share of the weights cut;
    ``advantage/share``, of the events that have an advantage. Warns before training of an effective sample size below
    `MIN_EFFECTIVE` where a higher temperature would raise it.

    Args:
        transform: f: constant, linear, exponential, rank, sign or signed (`recalign.posttrain.advantage`).
        temperature: beta of f, in standard deviations of the reward; large: behaviour cloning, small: greedy.
        clip: largest weight, in units of the mean weight; null: no limit.
        **training: what `PostTraining` takes.

    Raises (before training):
        InputError: every event's weight is 0.
    """

    FIGURES = "advantage"

    def __init__(
        self,
        transform: Transform = "exponential",
        temperature: float = 0.3,
        clip: float | None = 10.0,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.transform: Transform = transform
        self.temperature, self.clip = temperature, clip
        self.drops_out = transform != "signed"  # which compares pi with the start
        self.train()
        self.start_E: Tensor | None = None  # log pi_start of each logged event, under signed

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._require_weights(torch.from_numpy(self.data.advantages))  # type: ignore[attr-defined]

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
        if share < MIN_EFFECTIVE and self.transform in ("exponential", "rank"):
            rank_zero_warn(
                f"few events have nearly all of the weight: in effect {share:.1%} of {len(size_T):,}, below "
                f"{MIN_EFFECTIVE:.0%}; raise model.temperature (now {self.temperature:g})"
            )

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Under ``signed``, compute log pi_start of every event once; a step then costs what one of cloning costs."""
        if self.transform != "signed":
            return
        self.start_E = torch.full((len(self.data.sequences.frame),), torch.nan, device=self.device)
        for batch in self.data.loader(self.data.training(), seen=False):
            there = batch.to(self.device)
            with self.trainer.precision_plugin.train_step_context():  # rounded as pi is
                logp_T = self.reference.log_prob(self.reference.encode(there), there.target_T)
                self.start_E[there.event_T] = logp_T

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        advantage_T = self.advantages(batch)
        weight_T, cut = weights(advantage_T, self.transform, self.temperature, self.clip)
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        start_T = None if self.start_E is None else self.start_E[batch.event_T]
        loss, figures = weighted_likelihood(logp_T, weight_T, start_T)
        return loss, {**figures, **cut, "share": (~advantage_T.isnan()).float().mean()}
