"""Preferences over items: DPO and its kin on pairs, KTO on single events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recalign.errors import require_positive
from recalign.posttrain.base import PostTraining
from recalign.posttrain.losses.pairs import WITHOUT_REFERENCE, PairLoss, kto, preference
from recalign.posttrain.pairs_data import PairData
from recalign.recommender.policy import Policy
from recalign.sequences import Batch


class Preferences(PostTraining):
    """Raises the winner of each pair above its losers: DPO, IPO, S-DPO or SimPO, on `recalign.posttrain.PairData`.

    Targets without a pair do not count.

    Logs ``train/loss``; ``pairs/{accuracy,margin,winner,loser}``: share of pairs whose winner stands above the loser,
    mean difference of their log-ratios, and the mean log-ratio of either; ``pairs/share``, the share of the training
    events that have a pair; ``policy/kl``.

    Args:
        init_from: checkpoint whose policy is the start and the reference; null: the newest of this log.
        loss: dpo, ipo, sdpo or simpo (`recalign.posttrain.losses.pairs`).
        beta: how much a log-ratio counts: small lets the policy move far for its pairs, large holds it near.
        gamma: the margin that SimPO asks for; the others read none.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that is kept; null: whatever is left.
        policy: a policy to start from instead of a checkpoint's (Python only).
    """

    LEARNS_FROM = PairData
    drops_out = False

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "beta")

    def __init__(
        self,
        init_from: str | None = None,
        loss: PairLoss = "dpo",
        beta: float = 0.1,
        gamma: float = 0.0,
        lr: float = 3e-5,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.loss: PairLoss = loss
        self.beta, self.gamma = beta, gamma

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.rejected_TN is not None
        self.log_drift(batch)
        paired_T = (batch.rejected_TN > 0).all(dim=1)
        if not paired_T.any():
            return self.idle(batch)
        item_TC = torch.cat([batch.target_T[:, None], batch.rejected_TN], dim=1)[paired_T]
        paired = batch.keep(paired_T)
        value_TC = self.policy.log_probs(self.policy.encode(paired), item_TC)
        if self.loss not in WITHOUT_REFERENCE:
            value_TC = value_TC - self.reference_log_probs(paired, item_TC)
        loss, figures = preference(value_TC[:, 0], value_TC[:, 1:], self.loss, self.beta, self.gamma)
        self.log("train/loss", loss, batch_size=len(item_TC))
        self.log_dict({f"pairs/{k}": v for k, v in figures.items()})
        self.log("pairs/share", self.data.share)  # type: ignore[attr-defined]
        return loss


class KTO(PostTraining):
    """Raises good events and lowers bad ones: KTO, on the advantages of `recalign.posttrain.PostTrainingData`.

    An event is good if its reward is above the baseline (by default its user's earlier mean), bad if below.

    Logs what `Preferences` logs, of good events (winner) and bad ones (loser), ``pairs/share`` of a batch's events that
    are either, ``pairs/good`` of those that are good, and ``pairs/z``, the point that both are measured from.

    Args:
        init_from: checkpoint whose policy is the start and the reference; null: the newest of this log.
        beta: how fast the value of an item saturates.
        good: weight of good events.
        bad: weight of bad events.
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
        require_positive("model", given, "beta")

    def __init__(
        self,
        init_from: str | None = None,
        beta: float = 0.1,
        good: float = 1.0,
        bad: float = 1.0,
        lr: float = 3e-5,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.beta, self.good, self.bad = beta, good, bad

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        advantage_T = self.advantages(batch)
        mismatched_T = batch.target_T.roll(len(batch.target_T) // 2)  # half a batch away stand other users
        item_TC = torch.stack([batch.target_T, mismatched_T], dim=1)
        ratio_TC = self.policy.log_probs(self.policy.encode(batch), item_TC) - self.reference_log_probs(batch, item_TC)
        loss, figures = kto(ratio_TC[:, 0], ratio_TC[:, 1], advantage_T, self.beta, self.good, self.bad)
        self.log("train/loss", loss, batch_size=len(item_TC))
        self.log_dict({f"pairs/{k}": v for k, v in figures.items()})
        self.log_drift(batch)
        return loss
