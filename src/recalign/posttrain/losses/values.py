"""Values: CQL, IQL, AWAC and SA2C in a contextual bandit, where Q(s, a) is the expected reward: nothing follows it.

Legend: T events, a the logged item, s its history, r its reward (NaN where there is none: the event does not count).
"""

from __future__ import annotations

from torch import Tensor

from recalign.posttrain.losses.figures import Figures


def mean_known(value_T: Tensor, reward_T: Tensor) -> Tensor:
    """Mean over the events that have a reward, 0 where none has. Shape: (T,), (T,) -> a scalar."""
    known_T = ~reward_T.isnan()
    return value_T.where(known_T, 0.0).sum() / known_T.sum().clamp(min=1)


def squared_error(value_T: Tensor, reward_T: Tensor) -> Tensor:
    """mean (Q(s, a) - r)^2: the temporal difference with gamma = 0, a scalar."""
    return mean_known((value_T - reward_T.nan_to_num()).square(), reward_T)


def conservative(q_T: Tensor, all_T: Tensor, reward_T: Tensor, alpha: float) -> tuple[Tensor, Figures]:
    """L = 1/2 mean (Q(s, a) - r)^2 + alpha mean (logsumexp_b Q(s, b) - Q(s, a)): CQL(H), arXiv 2006.04779, eq. 4.

    Args:
        q_T: Q(s, a) of the logged items.
        all_T: logsumexp over the catalogue at temperature tau: tau log sum_b exp(Q(s, b) / tau).
        reward_T: r.
        alpha: weight of the second term, which lowers items that were not chosen.

    Returns:
        The loss, and ``td``, the mean squared error, and ``gap``, the second term without alpha, at least 0.
    """
    td, gap = squared_error(q_T, reward_T), mean_known(all_T - q_T, reward_T)
    return td / 2 + alpha * gap, {"td": td.detach(), "gap": gap.detach()}


def expectile(error_T: Tensor, tau: float, reward_T: Tensor) -> Tensor:
    """mean |tau - 1[u < 0]| u^2 with u = Q - V: its minimum over V is the tau-expectile of Q (IQL, arXiv 2110.06169).

    Args:
        error_T: u; Q carries no gradient.
        tau: 0.5: the mean; towards 1: the maximum.
        reward_T: r.
    """
    side_T = (tau - (error_T < 0).to(error_T.dtype)).abs()
    return mean_known(side_T * error_T.square(), reward_T)


def exponential_weights(advantage_T: Tensor, beta: float, reward_T: Tensor) -> Tensor:
    """w = min(exp(beta A), 100), 0 where there is no reward (IQL and AWAC, as CORL has them). No gradient flows."""
    weight_T = (beta * advantage_T.detach()).exp().clamp(max=100.0)
    return weight_T.where(~reward_T.isnan(), 0.0)


def actor_critic_weights(q_T: Tensor, other_TN: Tensor, reward_T: Tensor) -> Tensor:
    """w = max(A, 0), A = Q(s, a) - mean_n Q(s, b_n) over sampled items b_n (SA2C, arXiv 2111.03474). No gradient.

    The source weighs by A itself; here an item worth less than random ones is left out, not unlearned.

    Shape: (T,), (T, N), (T,) -> (T,), 0 where there is no reward.
    """
    advantage_T = (q_T - other_TN.mean(dim=1)).detach()
    return advantage_T.clamp(min=0).where(~reward_T.isnan(), 0.0)
