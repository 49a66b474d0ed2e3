"""Weighted likelihood: behaviour cloning, its weighted forms, and A-SFT.

Legend: T events, pi the policy, a_t the logged item, s_t its history.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recalign.posttrain.losses.figures import Figures


def weighted_likelihood(logp_T: Tensor, weight_T: Tensor, start_T: Tensor | None = None) -> tuple[Tensor, Figures]:
    """L = (sum_{w_t > 0} w_t * -log pi(a_t | s_t) + sum_{w_t < 0} |w_t| g(Delta_t)) / sum_t |w_t|.

    One formula for behaviour cloning (w = 1), filtered cloning (w in {0, 1}), reward-weighted cloning (w = r),
    exponential reward weighting (w = exp(r / beta); arXiv 2603.10279) and A-SFT (w = f(r - V); Netflix TechBlog,
    October 2025, whose own formula is not public; the closest published one is AWR, arXiv 1910.00177).

    Items with w < 0 are lowered with slope g' = min(pi / pi_start, 1), which vanishes as they become unlikely, unlike
    that of w log pi. This is the taper of TOPR (arXiv 2503.14286), with the start, cloned from the log, as behaviour
    policy: Delta = log pi - log pi_start, g = exp(Delta) below 0 and 1 + Delta above.

    Sums run over a batch. Dividing by the sum of the weights makes the step's size independent of their scale. If every
    weight is 0, so is the loss.

    Args:
        logp_T: log pi(a_t | s_t).
        weight_T: w_t; no gradient flows through it.
        start_T: log pi_start(a_t | s_t); None where no weight is below 0.

    Returns:
        The loss, and ``ess``, the effective sample size as a share of the events, (sum |w|)^2 / (T sum w^2),
        ``max_weight``, the largest weight over the mean weight, and ``lowered``, the share of the weight below 0.
    """
    weight_T = weight_T.detach()
    up_T, down_T = weight_T.clamp(min=0), (-weight_T).clamp(min=0)
    total = (up_T + down_T).sum()
    tiny = torch.finfo(weight_T.dtype).tiny
    cost_T = -up_T * logp_T
    if start_T is not None:
        cost_T = cost_T + down_T * _tapered(logp_T - start_T)
    loss = cost_T.sum() / total.clamp(min=tiny)
    count = len(weight_T)
    figures = {
        "ess": total.square() / (count * weight_T.square().sum()).clamp(min=tiny),
        "max_weight": weight_T.abs().max() * count / total.clamp(min=tiny),
        "lowered": down_T.sum() / total.clamp(min=tiny),
    }
    return loss, figures


def _tapered(delta_T: Tensor) -> Tensor:
    """g, with slope min(exp(delta), 1)."""
    return torch.where(delta_T > 0, 1 + delta_T, delta_T.clamp(max=0).exp())
