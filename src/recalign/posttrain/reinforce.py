"""REINFORCE on the log, corrected for who chose and for how many items are shown (Chen et al., arXiv 1812.02353)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recalign.errors import require_positive
from recalign.posttrain.base import PostTraining
from recalign.posttrain.losses import top_k_reinforce
from recalign.recommender.policy import Policy
from recalign.sequences import Batch


class Reinforce(PostTraining):
    """Logged items, weighted by their reward, by pi / beta and by lambda_K (`losses.top_k_reinforce`).

    The policy beta that chose the items is not known: the starting policy, cloned from the log, stands for it. The
    reward is the batch's advantage, so that its baseline is what keeps the variance down.

    Logs ``train/loss``; ``reinforce/{ess,capped,lambda}``; ``policy/kl``.

    Args:
        init_from: checkpoint whose policy is the start; null: the newest of this log.
        k: K, items that are shown together; 1: no correction for it.
        cap: largest importance weight pi / beta.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that is kept; null: whatever is left.
        policy: a policy to start from instead of a checkpoint's (Python only).
    """

    drops_out = False

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "k", "cap")

    def __init__(
        self,
        init_from: str | None = None,
        k: int = 10,
        cap: float = 10.0,
        lr: float = 3e-5,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.k, self.cap = k, cap

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        behaviour_T = self.reference_log_probs(batch, batch.target_T[:, None])[:, 0]
        loss, figures = top_k_reinforce(logp_T, behaviour_T, self.advantages(batch), self.k, self.cap)
        self.log("train/loss", loss, batch_size=len(logp_T))
        self.log_dict({f"reinforce/{k}": v for k, v in figures.items()})
        self.log_drift(batch)
        return loss
