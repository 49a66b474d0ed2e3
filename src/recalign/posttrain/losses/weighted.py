"""Weighted likelihood: behaviour cloning, its weighted forms, and A-SFT.

Legend: T events, pi the policy, a_t the logged item, s_t its history.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recalign.posttrain.losses.figures import Figures


def weighted_likelihood(logp_T: Tensor, weight_T: Tensor) -> tuple[Tensor, Figures]:
    """L = sum_t w_t * -log pi(a_t | s_t) / sum_t w_t.

    One formula for behaviour cloning (w = 1), filtered cloning (w in {0, 1}), reward-weighted cloning (w = r),
    exponential reward weighting (w = exp(r / beta); arXiv 2603.10279) and A-SFT (w = f(r - V); Netflix TechBlog,
    October 2025, whose own formula is not public; the closest published one is AWR, arXiv 1910.00177).

    The sums run over a batch. Dividing by the sum of the weights makes the step's size independent of their scale. If
    every weight is 0, so is the loss.

    Args:
        logp_T: log pi(a_t | s_t).
        weight_T: w_t >= 0; no gradient flows through it.

    Returns:
        The loss, and ``ess``, the effective sample size as a share of the events, (sum w)^2 / (T sum w^2), and
        ``max_weight``, the largest weight over the mean weight.
    """
    weight_T = weight_T.detach()
    total = weight_T.sum()
    tiny = torch.finfo(weight_T.dtype).tiny
    loss = -(weight_T * logp_T).sum() / total.clamp(min=tiny)
    count = len(weight_T)
    figures = {
        "ess": total.square() / (count * weight_T.square().sum()).clamp(min=tiny),
        "max_weight": weight_T.max() * count / total.clamp(min=tiny),
    }
    return loss, figures
