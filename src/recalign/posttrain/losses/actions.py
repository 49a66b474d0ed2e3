"""Sampled actions: PPO, GRPO, ECPO, and REINFORCE with the top-K correction.

Legend: T states, S items drawn at each, pi the policy, old the policy that they were drawn from, start the frozen one
that post-training began with, A advantages.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recalign.posttrain.losses.figures import Figures


def group_advantages(reward_TS: Tensor) -> Tensor:
    """A = (r - mean) / (std + 1e-4) within the S > 1 items drawn at a state (GRPO, arXiv 2402.03300). Shape: (T, S)."""
    centred_TS = reward_TS - reward_TS.mean(dim=1, keepdim=True)
    return centred_TS / (reward_TS.std(dim=1, keepdim=True) + 1e-4)


def clipped_surrogate(
    logp_TS: Tensor, old_TS: Tensor, advantage_TS: Tensor, clip: float, early: float | None = None
) -> tuple[Tensor, Figures]:
    """L = -mean min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi(a | s) / old(a | s) (PPO, arXiv 1707.06347).

    With ``early`` = delta, old is max(sg(pi) / (1 + eps + delta), old), sg: no gradient (ECPO, arXiv 2506.13695,
    section 2.4): a ratio never exceeds 1 + eps + delta, so an unlikely item of negative advantage that has become more
    likely cannot pull without bound.

    Args:
        logp_TS: log pi(a | s) of the items drawn.
        old_TS: log old(a | s); no gradient flows through it.
        advantage_TS: A; no gradient flows through it.
        clip: eps.
        early: delta; None: as PPO.

    Returns:
        The loss, and ``clipped``, the share of items that the clip keeps from pulling, and ``ratio``, the largest rho.
    """
    old_TS, advantage_TS = old_TS.detach(), advantage_TS.detach()
    if early is not None:
        old_TS = torch.maximum(logp_TS.detach() - math.log(1 + clip + early), old_TS)
    ratio_TS = (logp_TS - old_TS).exp()
    free_TS = ratio_TS * advantage_TS
    bound_TS = ratio_TS.clamp(1 - clip, 1 + clip) * advantage_TS
    figures = {"clipped": (bound_TS < free_TS).float().mean(), "ratio": ratio_TS.detach().max()}
    return -torch.minimum(free_TS, bound_TS).mean(), figures


def kl_estimate(logp_TS: Tensor, start_TS: Tensor) -> Tensor:
    """mean(e^d - d - 1), d = log start(a | s) - log pi(a | s): KL(pi || start) from items drawn from pi, a scalar.

    Never negative and without bias for items drawn from pi (the third estimator of J. Schulman's note on approximating
    KL divergence, 2020; GRPO's choice).
    """
    d_TS = start_TS.detach() - logp_TS
    return (d_TS.exp() - d_TS - 1).mean()


def top_k_reinforce(
    logp_T: Tensor, behaviour_T: Tensor, reward_T: Tensor, k: int, cap: float
) -> tuple[Tensor, Figures]:
    """L = -mean w lambda_K R log pi(a | s), w = min(pi / beta, cap), lambda_K = K (1 - pi)^(K - 1).

    Off-policy REINFORCE for a list of K items (Chen et al., arXiv 1812.02353): w corrects for the policy beta that
    chose the logged items, lambda_K counts that an item need only be among the K shown. No gradient through either.

    Args:
        logp_T: log pi(a | s) of the logged items.
        behaviour_T: log beta(a | s).
        reward_T: R, NaN where there is none: the event does not count.
        k: K; 1: no correction.
        cap: largest importance weight.

    Returns:
        The loss, and ``ess``, the effective sample size of the importance weights as a share of the events, ``capped``,
        the share of them that was cut, and ``lambda``, the mean of lambda_K.
    """
    known_T = ~reward_T.isnan()
    now_T = logp_T.detach()
    ratio_T = (now_T - behaviour_T).exp() * known_T
    weight_T = ratio_T.clamp(max=cap)
    lambda_T = k * (1 - now_T.exp()).clamp(min=0) ** (k - 1)
    count = known_T.sum().clamp(min=1)
    loss = -(weight_T * lambda_T * reward_T.nan_to_num() * logp_T).sum() / count
    figures = {
        "ess": weight_T.sum().square() / (count * weight_T.square().sum()).clamp(min=torch.finfo(logp_T.dtype).tiny),
        "capped": (ratio_T > cap).sum() / count,
        "lambda": (lambda_T * known_T).sum() / count,
    }
    return loss, figures
