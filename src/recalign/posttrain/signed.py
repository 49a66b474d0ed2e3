"""A-SFT with weights that may be negative: events with less reward than expected are lowered.

Legend as in `recalign.posttrain.weighted`; E all logged events.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows
from recalign.posttrain.base import Metrics
from recalign.posttrain.weighted import WeightedLikelihood, above_zero, clip_weights, weight_metrics
from recalign.recommender.prior import training_pass


def tapered_likelihood(logp_T: Tensor, weight_T: Tensor, start_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = (sum_{w_t > 0} w_t * -log pi(a_t | s_t) + sum_{w_t < 0} |w_t| g(Delta_t)) / sum_t |w_t|; 0 if all w_t = 0.

    Items with w < 0 are lowered with slope g' = min(pi / pi_start, 1). It vanishes as they become unlikely; the slope
    of w log pi does not. This is the tapering of TOPR (arXiv 2503.14286), with the start, cloned from the log, as
    behaviour policy: Delta = log pi - log pi_start, g = exp(Delta) for Delta < 0, else 1 + Delta.

    Args:
        logp_T: log pi(a_t | s_t), of the events of all processes, like the other arguments.
        weight_T: w_t; no gradient flows through it.
        start_T: log pi_start(a_t | s_t).

    Returns:
        The loss, and the metrics of `weight_metrics`.
    """
    up_T, down_T = weight_T.detach().clamp(min=0), (-weight_T.detach()).clamp(min=0)
    delta_T = logp_T - start_T
    # Not clamp: from torch 2.15 on its gradient is 0 at the bound, where every item begins.
    below_T = delta_T.where(~(delta_T > 0), 0.0)
    lowered_T = torch.where(delta_T > 0, 1 + delta_T, below_T.exp())
    loss = (down_T * lowered_T - up_T * logp_T).sum() / above_zero((up_T + down_T).sum())
    return loss, weight_metrics(weight_T.detach())


class SignedSFT(WeightedLikelihood):
    """`WeightedLikelihood` with w = A: events with a negative weight are lowered (`tapered_likelihood`)."""

    use_dropout = False
    """The loss compares pi with the start."""
    start_E: Tensor
    """log pi_start of each logged event."""

    def weights(self, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
        return clip_weights(advantage_T.nan_to_num(nan=0.0), self.clip)

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Compute log pi_start of every event once, so that a step costs no more than in cloning."""
        self.start_E = torch.full((len(self.data.sequences.impressions),), torch.nan, device=self.device)
        for batch in self.data.loader(self.data.training(), seen=False):
            there = batch.to(self.device)
            precision_of_pi = self.trainer.precision_plugin.train_step_context()
            with training_pass(*self.policies()), precision_of_pi:
                logp_T = self.reference.log_prob(self.reference.encode(there), there.target_T)
                self.start_E[there.event_T] = logp_T

    def likelihood(self, batch: Batch, weight_T: Tensor) -> tuple[Tensor, Metrics]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        return tapered_likelihood(all_gather_rows(logp_T), weight_T, all_gather_rows(self.start_E[batch.event_T]))
