"""Preferences over items: DPO, IPO, S-DPO and SimPO on pairs, KTO on single events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recalign.errors import require_positive
from recalign.posttrain.base import PostTraining
from recalign.posttrain.losses import Figures, PairLoss, kto, preference
from recalign.posttrain.losses.pairs import WITHOUT_REFERENCE
from recalign.posttrain.pairs_data import PairData
from recalign.sequences import Batch


class Preferences(PostTraining):
    """Raise the winner of each pair above its losers: DPO, IPO, S-DPO or SimPO, on `recalign.posttrain.PairData`.

    Targets without a pair do not count.

    Logs ``pairs/accuracy``, the share of pairs whose winner has the larger log-ratio to the start; ``pairs/margin``,
    the mean difference of the two; ``pairs/{winner,loser}``, their means; ``pairs/share``, of the training events that
    have a pair.

    Args:
        loss: dpo, ipo, sdpo or simpo (`recalign.posttrain.losses.pairs`).
        beta: how much a log-ratio counts: small lets the policy move far for its pairs, large holds it near.
        gamma: the margin that SimPO asks for; the others do not read it.
        lr: AdamW's learning rate.
        **training: what `PostTraining` takes.
    """

    LEARNS_FROM = PairData
    FIGURES = "pairs"
    drops_out = False

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "beta")

    def __init__(
        self, loss: PairLoss = "dpo", beta: float = 0.1, gamma: float = 0.0, lr: float = 1.5e-5, **training: Any
    ) -> None:
        super().__init__(lr=lr, **training)
        self.kind: PairLoss = loss
        self.beta, self.gamma = beta, gamma

    def loss(self, batch: Batch) -> tuple[Tensor, Figures] | None:
        assert batch.rejected_TN is not None
        paired_T = (batch.rejected_TN > 0).all(dim=1)
        if not paired_T.any():
            return None
        item_TC = torch.cat([batch.target_T[:, None], batch.rejected_TN], dim=1)[paired_T]
        paired = batch.keep(paired_T)
        value_TC = self.policy.log_probs(self.policy.encode(paired), item_TC)
        if self.kind not in WITHOUT_REFERENCE:
            value_TC = value_TC - self.reference_log_probs(paired, item_TC)
        loss, figures = preference(value_TC[:, 0], value_TC[:, 1:], self.kind, self.beta, self.gamma)
        return loss, {**figures, "share": self.data.share}  # type: ignore[attr-defined]


class KTO(PostTraining):
    """Raise good events and lower bad ones, without pairs: KTO on `recalign.posttrain.PostTrainingData`.

    An event is good if its advantage is above 0 (its reward above the baseline), bad if below.

    Logs what `Preferences` logs, with good events as winners and bad ones as losers; ``pairs/share``, of the batch's
    events that are either; ``pairs/good``, of those that are good; ``pairs/z``, the reference point of both.

    Args:
        beta: how fast the value of an item saturates.
        good: weight of good events.
        bad: weight of bad events.
        lr: AdamW's learning rate.
        **training: what `PostTraining` takes.
    """

    FIGURES = "pairs"
    drops_out = False

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "beta")

    def __init__(
        self, beta: float = 0.1, good: float = 1.0, bad: float = 1.0, lr: float = 1.5e-5, **training: Any
    ) -> None:
        super().__init__(lr=lr, **training)
        self.beta, self.good, self.bad = beta, good, bad

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        mismatched_T = batch.target_T.roll(len(batch.target_T) // 2)  # half a batch away are other users
        item_TC = torch.stack([batch.target_T, mismatched_T], dim=1)
        ratio_TC = self.policy.log_probs(self.policy.encode(batch), item_TC) - self.reference_log_probs(batch, item_TC)
        return kto(ratio_TC[:, 0], ratio_TC[:, 1], self.advantages(batch), self.beta, self.good, self.bad)
