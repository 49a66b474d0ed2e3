"""REINFORCE on the log, corrected for who chose and for how many items are shown (Chen et al., arXiv 1812.02353)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recalign.posttrain.base import PostTraining
from recalign.posttrain.losses import Figures, top_k_reinforce
from recalign.sequences import Batch


class Reinforce(PostTraining):
    """Weight logged items by their reward, by pi / beta and by lambda_K (`losses.top_k_reinforce`).

    The policy beta that chose the items is unknown; the start, cloned from the log, stands in for it. The reward is the
    batch's advantage, whose baseline keeps the variance down.

    Logs ``reinforce/{ess,capped,lambda}``.

    Args:
        k: K, items shown together; 1: no correction.
        cap: largest importance weight pi / beta.
        lr: AdamW's learning rate.
        **training: what `PostTraining` takes.
    """

    FIGURES = "reinforce"
    drops_out = False

    def __init__(self, k: int = 10, cap: float = 10.0, lr: float = 1.5e-5, **training: Any) -> None:
        super().__init__(lr=lr, **training)
        self.k, self.cap = k, cap

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        behaviour_T = self.reference_log_probs(batch, batch.target_T[:, None])[:, 0]
        return top_k_reinforce(logp_T, behaviour_T, self.advantages(batch), self.k, self.cap)
