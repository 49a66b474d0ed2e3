"""GBPO and WBC: raise events that turned out well and lower those that did not, weighted by |A|.

Legend: T events, A advantages, z the logit of "a good choice", sg detached.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows
from recalign.errors import InputError
from recalign.posttrain.base import Metrics, PostTraining

MARGIN, STEPS = 30.0, 40
"""Nats by which the search for b exceeds the range of the log-probabilities, and number of bisections."""


def sides(advantage_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positive and negative parts of the advantages, and the sum of |A|. Detached; NaN counts as 0."""
    advantage_T = advantage_T.detach().nan_to_num()
    total = advantage_T.abs().sum().clamp(min=torch.finfo(advantage_T.dtype).tiny)
    return advantage_T.clamp(min=0), (-advantage_T).clamp(min=0), total


def gbpo(logp_T: Tensor, start_T: Tensor, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = (sum_{A > 0} -A pi / max(old, sg(pi)) + sum_{A < 0} |A| pi / max(old, 1 - sg(pi))) / sum |A|.

    Gradient-bounded policy optimisation (OneRec-V2, arXiv 2508.20900). The start, cloned from the log, replaces old,
    the policy that chose the logged items. At the first step the gradients are -A grad log pi and |A| grad pi /
    max(pi, 1 - pi); they shrink with pi / old for items less likely than under old.

    Args:
        logp_T: log pi(a | s) of the logged items.
        start_T: log old(a | s); no gradient flows through it.
        advantage_T: A; NaN: the event does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |A| below 0; ``pi``, the mean probability of the lowered
        items, which scales their gradient.
    """
    (up_T, down_T, total), now_T, start_T = sides(advantage_T), logp_T.detach(), start_T.detach()
    rest_T = (-torch.expm1(now_T)).clamp(min=0).log()  # log(1 - pi)
    raised_T = (logp_T - torch.maximum(start_T, now_T)).exp()
    lowered_T = (logp_T - torch.maximum(start_T, rest_T)).exp()
    below_T = down_T > 0
    return (down_T * lowered_T - up_T * raised_T).sum() / total, {
        "negative": down_T.sum() / total,
        "pi": (now_T.exp() * below_T).sum() / below_T.sum().clamp(min=1),
    }


class GBPO(PostTraining):
    """Raise and lower logged items by how much better or worse than expected they were, in bounded steps (`gbpo`).

    Logs ``gbpo/{negative,pi}``. It takes the arguments of `PostTraining`.
    """

    LOG_PREFIX = "gbpo"
    use_dropout = False

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        start_T = self.reference_log_probs(batch, batch.target_T[:, None])[:, 0]
        return gbpo(all_gather_rows(logp_T), all_gather_rows(start_T), all_gather_rows(self.advantages(batch)))


def wbc(logp_T: Tensor, reward_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = min_b sum_t |r_t| BCE(sigma(z_t), [r_t > 0]) / sum_t |r_t|, z_t = log pi(a_t | s_t) - b.

    *Weighted binary classification* (GenPage, arXiv 2606.31031): each shown item is a good or a bad choice by the
    sign of its reward, with the magnitude as its weight; there is no negative sampling and no baseline. GenPage uses
    the item's logit as z. A softmax policy's logits are defined only up to a constant per state, so z is the item's
    log-probability, shifted by the b that minimises the loss of the batch. b is detached; at a minimum its gradient
    would be 0 anyway. There sum |r| sigma(z) equals the sum of the positive r: if all z were equal, sigma(z) would be
    the good rows' share of the weight.

    Args:
        logp_T: log pi(a | s) of the items shown.
        reward_T: r; NaN: the row does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |r| below 0; ``right``, the share of rows on their side of
        z = 0, weighted by |r|; ``shift``, b. If all r have one sign, there is nothing to classify: the loss is about 0.
    """
    up_T, down_T, total = sides(reward_T)
    shift = intercept(logp_T.detach(), up_T, down_T)
    z_T = logp_T - shift
    right_T = (up_T * (z_T.detach() > 0)) + down_T * (z_T.detach() < 0)
    return (up_T * softplus(-z_T) + down_T * softplus(z_T)).sum() / total, {
        "negative": down_T.sum() / total,
        "right": right_T.sum() / total,
        "shift": shift,
    }


def intercept(logp_T: Tensor, up_T: Tensor, down_T: Tensor) -> Tensor:
    """The b at which sum_t (up_t + down_t) sigma(logp_t - b) = sum_t up_t, by bisection; far off if a side is empty.

    Shape: (T,), weights of good and of bad rows -> ().
    """
    weight_T, up = up_T + down_T, up_T.sum()
    low, high = logp_T.min() - MARGIN, logp_T.max() + MARGIN
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = (weight_T * (logp_T - middle).sigmoid()).sum() > up  # the sum decreases with b
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


class WBC(PostTraining):
    """Classify shown items as good or bad choices, weighted by how good or bad they were (`wbc`).

    `recalign.posttrain.ShownData` includes skipped rows (shown but not chosen). In a log without them, bad choices need
    rewards below 0, or a baseline (``data.baseline``), which GenPage does not have.

    Logs ``wbc/{negative,right,shift}``.

    Args:
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.

    Raises (before training):
        InputError: no row is good, or none is bad.
    """

    LOG_PREFIX = "wbc"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            advantage_E = self.data.advantages  # type: ignore[attr-defined]
            if not ((advantage_E > 0).any() and (advantage_E < 0).any()):
                side = "below" if (advantage_E > 0).any() else "above"
                what = f"no row has an advantage {side} 0, so good and bad choices cannot be told apart"
                remedy = "write data.reward so that good choices are above 0 and bad ones below, give rows shown but "
                remedy += "not chosen a reward below 0 (data.log.passed_reward: -1), or set data.baseline: user"
                raise InputError(what, where="data.reward", remedy=remedy)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        return wbc(all_gather_rows(logp_T), all_gather_rows(self.advantages(batch)))
