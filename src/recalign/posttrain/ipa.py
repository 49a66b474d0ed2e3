"""IPA: DPO on pairs of the best and the worst of the policy's own top items, by predicted reward.

Legend: T states, C items listed, old the policy at the beginning of the epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, row_counts
from recalign.errors import AtLeast2, NonNegative, Positive, PositiveUnit
from recalign.posttrain.base import Metrics
from recalign.posttrain.pairs import preference
from recalign.posttrain.rollout import OnlineTraining, seen_pairs


def best_and_worst(item_TC: Tensor, reward_TC: Tensor) -> tuple[Tensor, Tensor]:
    """The items with the highest and the lowest reward at each state; item 0 is padding.

    Shape: int64 (T, C), (T, C) -> int64 (T, 2), and (T,): difference of their rewards, 0 if there is no pair.
    """
    none_TC = item_TC == 0
    best_T = reward_TC.masked_fill(none_TC, -torch.inf).max(dim=1)
    worst_T = reward_TC.masked_fill(none_TC, torch.inf).min(dim=1)
    pair_T2 = item_TC.gather(1, torch.stack([best_T.indices, worst_T.indices], dim=1))
    return pair_T2, (best_T.values - worst_T.values).clamp(min=0)


class IPA(OnlineTraining):
    """Iterative preference alignment (OneRec, arXiv 2502.18965): DPO on the policy's own lists, beside cloning.

    L = cloning * mean -log pi(a | s) + mean -log sigma(beta (Delta+ - Delta-)), Delta = log pi - log old.

    At a share of a batch's states, ``old`` lists its most probable unseen items; a policy over codes finds them by beam
    search. The item with the highest predicted reward is the winner, the one with the lowest the loser. ``old`` is set
    to the policy at the beginning of every epoch. Events without a reward do not count.

    Logs ``ipa/{accuracy,margin,winner,loser}`` as `Preferences` does; ``ipa/gap``, the difference of a pair's
    rewards, in standard deviations; ``ipa/nll``, -log pi of the logged items.

    Args:
        candidates: C, length of the lists.
        share: share of the states that get a pair; the paper uses 0.01.
        beta: scale of the log-ratios.
        cloning: weight of behaviour cloning.
        lr: AdamW's learning rate.
        **online: arguments of `OnlineTraining`.
    """

    LOG_PREFIX = "ipa"

    def __init__(
        self,
        candidates: AtLeast2 = 50,
        share: PositiveUnit = 0.1,
        beta: Positive[float] = 0.1,
        cloning: NonNegative[float] = 1.0,
        lr: float = 1.5e-5,
        **online: Any,
    ) -> None:
        super().__init__(share=share, lr=lr, **online)
        self.candidates, self.beta, self.cloning = candidates, beta, cloning

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.sync_old_policy()

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics] | None:
        rated = batch.keep(~batch.reward_T.isnan())
        if not any(row_counts(len(rated.target_T), self.device)):
            return None
        nll = -all_gather_rows(self.policy.log_prob(self.policy.encode(rated), rated.target_T)).mean()
        shown = self.sampled_targets(rated)
        pair_T2, gap_T = self._pairs(shown)
        paired_T = gap_T > 0
        gap_T = all_gather_rows(gap_T[paired_T])
        if not len(gap_T):
            return self.cloning * nll, {"nll": nll.detach()}
        delta_T2 = all_gather_rows(self.log_ratios(shown.keep(paired_T), pair_T2[paired_T], self.old))
        loss, metrics = preference(delta_T2[:, 0], delta_T2[:, 1:], "dpo", self.beta)
        return loss + self.cloning * nll, {**metrics, "gap": gap_T.mean(), "nll": nll.detach()}

    @torch.no_grad()
    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`best_and_worst` of the items that ``old`` lists."""
        count = min(self.candidates, self.policy.num_warm)
        item_TC = self.old.top_k(self.old.encode(batch), count, seen_pairs(batch))[1]
        return best_and_worst(item_TC, self.frozen_reward(batch, item_TC.clamp(min=1)))
