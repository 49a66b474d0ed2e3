"""Preferences: winners against losers (DPO, IPO, S-DPO, SimPO), and good against bad events (KTO).

Legend: T states, N items that each state's winner is preferred to, Delta = log pi(y | s) - log pi_ref(y | s) the
log-ratio of an item y to the reference, Delta+ that of the winner, Delta- that of a loser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recalign.posttrain.losses.figures import Figures

PairLoss = Literal["dpo", "ipo", "sdpo", "simpo"]


def dpo(winner_T: Tensor, loser_TN: Tensor, beta: float, gamma: float) -> Tensor:
    """L = mean -log sigma(beta (Delta+ - Delta-)): direct preference optimisation (arXiv 2305.18290, equation 7).

    With several losers, each makes a pair.
    """
    return -logsigmoid(beta * (winner_T[:, None] - loser_TN)).mean()


def ipo(winner_T: Tensor, loser_TN: Tensor, beta: float, gamma: float) -> Tensor:
    """L = mean (Delta+ - Delta- - 1 / (2 beta))^2: identity preference optimisation (arXiv 2310.12036).

    It asks for a fixed margin. Form and name of beta as in TRL's `dpo_trainer.py`.
    """
    return (winner_T[:, None] - loser_TN - 1 / (2 * beta)).square().mean()


def sdpo(winner_T: Tensor, loser_TN: Tensor, beta: float, gamma: float) -> Tensor:
    """L = mean -log sigma(-log sum_j exp(beta (Delta-_j - Delta+))): softmax DPO (arXiv 2406.09215).

    The winner against all its losers at once; with one loser it is DPO.
    """
    return -logsigmoid(-(beta * (loser_TN - winner_T[:, None])).logsumexp(dim=1)).mean()


def simpo(winner_T: Tensor, loser_TN: Tensor, beta: float, gamma: float) -> Tensor:
    """L = mean -log sigma(beta (log pi(y+ | s) - log pi(y- | s)) - gamma): SimPO (arXiv 2405.14734).

    Takes log-probabilities where the others take log-ratios. An item has length 1, so nothing is normalised by it.
    """
    return -logsigmoid(beta * (winner_T[:, None] - loser_TN) - gamma).mean()


PAIR_LOSSES: dict[PairLoss, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "dpo": dpo,
    "ipo": ipo,
    "sdpo": sdpo,
    "simpo": simpo,
}
WITHOUT_REFERENCE: tuple[PairLoss, ...] = ("simpo",)
"""Losses of log-probabilities instead of log-ratios."""


def preference(
    winner_T: Tensor, loser_TN: Tensor, loss: PairLoss, beta: float, gamma: float = 0.0
) -> tuple[Tensor, Figures]:
    """The loss of pairs.

    Args:
        winner_T: Delta+ (SimPO: log pi(y+ | s)).
        loser_TN: Delta-_j (SimPO: log pi(y-_j | s)).
        loss: which.
        beta: how much a log-ratio counts: small lets the policy move far for its pairs, large holds it near.
        gamma: the margin that SimPO asks for; the others read none.

    Returns:
        The loss, and ``accuracy``, the share of pairs with Delta+ > Delta-; ``margin``, the mean of Delta+ - Delta-;
        ``winner`` and ``loser``, their means: both may fall while the margin grows.
    """
    gap_TN = winner_T[:, None] - loser_TN
    figures = {
        "accuracy": (gap_TN > 0).float().mean(),
        "margin": gap_TN.mean(),
        "winner": winner_T.mean(),
        "loser": loser_TN.mean(),
    }
    return PAIR_LOSSES[loss](winner_T, loser_TN, beta, gamma), {k: v.detach() for k, v in figures.items()}


def kto(
    ratio_T: Tensor,
    mismatched_T: Tensor,
    advantage_T: Tensor,
    beta: float,
    good: float = 1.0,
    bad: float = 1.0,
) -> tuple[Tensor, Figures]:
    """L = mean of lambda (1 - sigma(+-beta (Delta - z))): Kahneman-Tversky optimisation (arXiv 2402.01306).

    An item is good (+) or bad (-) by itself, without a pair. z, the reference point, is max(mean Delta of items that do
    not belong to the state, 0), as in TRL's `kto_trainer.py`.

    Args:
        ratio_T: Delta of each state's own item.
        mismatched_T: Delta of an item of another event; no gradient flows through it.
        advantage_T: above 0: good; below: bad; 0 or NaN: neither, and left out.
        beta: how fast the value of an item saturates.
        good, bad: lambda of either.

    Returns:
        The loss, and ``accuracy``, the share of items on their own side of z; ``margin``, mean Delta of the good less
        that of the bad; ``winner`` and ``loser``, either; ``share``, of the events that are good or bad; ``good``, of
        those that are good; ``z``.
    """
    sign_T = advantage_T.nan_to_num().sign()
    z = mismatched_T.detach().mean().clamp(min=0)
    lambda_T = torch.where(sign_T > 0, good, bad) * sign_T.abs()
    count = sign_T.abs().sum().clamp(min=1)
    loss = (lambda_T * (1 - (beta * sign_T * (ratio_T - z)).sigmoid())).sum() / count
    winner, loser = _mean(ratio_T, sign_T > 0), _mean(ratio_T, sign_T < 0)
    figures = {
        "accuracy": ((sign_T * (ratio_T - z)) > 0).sum() / count,
        "margin": winner - loser,
        "winner": winner,
        "loser": loser,
        "share": sign_T.abs().mean(),
        "good": (sign_T > 0).sum() / count,
        "z": z,
    }
    return loss, {k: v.detach() for k, v in figures.items()}


def _mean(value_T: Tensor, chosen_T: Tensor) -> Tensor:
    return (value_T * chosen_T).sum() / chosen_T.sum().clamp(min=1)
