"""GBPO and WBC: raise events that turned out well and lower those that did not, weighted by |A|.

Legend: T events, A advantages, z the logit of "a good choice", sg no gradient.
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
"""Nats on either side of the log-probabilities within which b is looked for, and how often they are halved."""


def sides(advantage_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positive and negative parts of the advantages, and the sum of |A|. Detached; events with NaN do not count."""
    advantage_T = advantage_T.detach().nan_to_num()
    total = advantage_T.abs().sum().clamp(min=torch.finfo(advantage_T.dtype).tiny)
    return advantage_T.clamp(min=0), (-advantage_T).clamp(min=0), total


def gbpo(logp_T: Tensor, start_T: Tensor, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = (sum_{A > 0} -A pi / max(old, sg(pi)) + sum_{A < 0} |A| pi / max(old, 1 - sg(pi))) / sum |A|.

    Gradient-bounded policy optimisation (OneRec-V2, arXiv 2508.20900). The start, cloned from the log, stands in for
    old, the policy that chose the logged items. At the start the gradients are -A grad log pi and |A| grad pi /
    max(pi, 1 - pi); they shrink with pi / old for items that are less likely than under old.

    Args:
        logp_T: log pi(a | s) of the logged items.
        start_T: log old(a | s); no gradient flows through it.
        advantage_T: A; NaN: the event does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |A| below 0; ``pi``, the mean probability of the items that
        are lowered, which scales their gradient.
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

    *Weighted binary classification* (GenPage, arXiv 2606.31031): each item that was shown is a good or a bad choice by
    the sign of its reward, and counts by its magnitude; there are no items at random and no baseline. GenPage reads z
    off the item's logit. A softmax policy has none: its logits may all be shifted. So z is its log-probability, shifted
    by the one b for which the loss of the batch is least; no gradient flows through b, which by its being a minimum
    would have none. The sum of |r| sigma(z) is then that of the positive r: were all z alike, sigma(z) would be the
    share of the weight that is good.

    Args:
        logp_T: log pi(a | s) of the items shown.
        reward_T: r; NaN: the row does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |r| below 0; ``right``, the share of rows on their side of
        z = 0, weighted by |r|; ``shift``, b. Where all r have one sign there is nothing to tell apart: the loss is 0.
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
    """The b at which sum_t (up_t + down_t) sigma(logp_t - b) = sum_t up_t, by bisection; far off where a side is empty.

    Shape: (T,), weights of good and of bad rows -> ().
    """
    weight_T, up = up_T + down_T, up_T.sum()
    low, high = logp_T.min() - MARGIN, logp_T.max() + MARGIN
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = (weight_T * (logp_T - middle).sigmoid()).sum() > up  # the sum falls with b
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


class WBC(PostTraining):
    """Classify what was shown as good or bad choices, weighted by how good or bad they were (`wbc`).

    `recalign.posttrain.ShownData` has what was passed over too. In a log of choices alone rewards below 0 have to say
    what was bad, or a baseline (``data.baseline``), which is not in the source.

    Logs ``wbc/{negative,right,shift}``.

    Args:
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.

    Raises (before training):
        InputError: all rows are good, or all bad.
    """

    LOG_PREFIX = "wbc"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            advantage_E = self.data.advantages  # type: ignore[attr-defined]
            if not ((advantage_E > 0).any() and (advantage_E < 0).any()):
                side = "below" if (advantage_E > 0).any() else "above"
                what = f"no row has a reward {side} 0, so there is nothing to tell apart"
                remedy = (
                    "give passed rows a reward below 0 (data.log.passed_reward: -1), or write data.reward so that bad "
                )
                remedy += "choices are below 0; data.baseline: user sets those below the user's mean there"
                raise InputError(what, where="data.reward", remedy=remedy)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        return wbc(all_gather_rows(logp_T), all_gather_rows(self.advantages(batch)))
