"""From advantages to weights, and the expected rewards that only a reward model can give.

An advantage is how much better than expected an event was: A_e = r_e - V(s_e). It reaches the module in standard
deviations of the log's rewards, so that one temperature means the same on every log, and as much as 1 / lambda of
reranking does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from recalign.recommender.policy import Policy, chunks
from recalign.reward import RewardEnsemble
from recalign.sequences import Batch

Transform = Literal["constant", "linear", "exponential", "rank", "sign", "signed"]


def constant(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = 1: behaviour cloning, on the events that have a reward, so that all methods see the same ones."""
    return torch.ones_like(advantage_T).where(~advantage_T.isnan(), torch.nan)


def linear(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = max(A, 0): with no baseline, the reward itself (reward-weighted cloning)."""
    return advantage_T.clamp(min=0)


def exponential(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = exp(A / beta): the tilt of the KL-regularised optimum (AWR, arXiv 1910.00177).

    Given up to a factor that cancels in the loss: the largest weight is 1, so that none overflows.
    """
    return ((advantage_T - advantage_T.nan_to_num(nan=-torch.inf).max()) / temperature).exp()


def rank(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = exp((2u - 1) / beta), u the share of the batch that A is above (ties counted half): blind to outliers."""
    known_T = ~advantage_T.isnan()
    sorted_T = advantage_T.nan_to_num(nan=torch.inf).sort().values  # what has no reward stands last
    below_T = torch.searchsorted(sorted_T, advantage_T.nan_to_num(nan=torch.inf))
    up_to_T = torch.searchsorted(sorted_T, advantage_T.nan_to_num(nan=torch.inf), right=True)
    u_T = (below_T + up_to_T) / (2 * known_T.sum())
    return ((2 * u_T - 1) / temperature).exp().where(known_T, torch.nan)


def sign(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = 1[A > 0]: the direction alone (filtered cloning)."""
    return (advantage_T > 0).to(advantage_T.dtype)


def signed(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = A: below 0 for what was valued less than expected, which `weighted_likelihood` lowers."""
    return advantage_T


TRANSFORMS: dict[Transform, Callable[[Tensor, float], Tensor]] = {
    "constant": constant,
    "linear": linear,
    "exponential": exponential,
    "rank": rank,
    "sign": sign,
    "signed": signed,
}


def weights(
    advantage_T: Tensor, transform: Transform, temperature: float, clip: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weight of each event.

    Args:
        advantage_T: A, NaN where an event has no reward: its weight is 0.
        transform: f.
        temperature: beta, in standard deviations of the reward.
        clip: the largest weight allowed, of either sign, in units of the mean before clipping; None: no limit.

    Returns:
        w_T, below 0 under ``signed`` alone, and ``clipped``, the share of the events whose weight was cut.
    """
    w_T = TRANSFORMS[transform](advantage_T, temperature).nan_to_num(nan=0.0)
    if clip is None:
        return w_T, {"clipped": w_T.new_zeros(())}
    size_T = w_T.abs()
    limit = clip * size_T.sum() / (size_T > 0).sum().clamp(min=1)
    return w_T.clamp(-limit, limit), {"clipped": (size_T > limit).float().mean()}


@torch.no_grad()
def predicted_rewards(reward: RewardEnsemble, self_influence_EF: Tensor, batches: Iterable[Batch]) -> Tensor:
    """The reward model's expected reward of every target, without the target's own share in it.

    Args:
        reward: a reward model.
        self_influence_EF: how far each event of the table moved the figures of its own item when they were fitted
            (`recalign.reward.RewardData.self_influence`): it would take what is predicted towards its own reward.
        batches: the targets.

    Shape: (events,), NaN elsewhere.
    """
    out = torch.full((len(self_influence_EF),), torch.nan)
    for batch in batches:
        event_T = batch.event_T.cpu()
        moved_TF = self_influence_EF[event_T].to(batch.event_T.device)
        out[event_T] = reward.predict_trained(reward.states(batch), batch.target_T, moved_TF).cpu()
    return out


@torch.no_grad()
def state_values(
    policy: Policy, reward: RewardEnsemble, batches: Iterable[Batch], rows: int, soft: float | None
) -> Tensor:
    """What the starting policy could expect before every target.

    V(s) = E_{a ~ pi}[r(s, a)], or, with ``soft`` = lambda, V(s) = lambda log E_{a ~ pi}[exp(r(s, a) / lambda)], which
    is the exact normaliser of the exponential tilt: pi exp((r - V) / lambda) sums to 1.

    Shape: (rows of the event table,), NaN elsewhere.
    """
    out = torch.full((rows,), torch.nan)
    for batch in batches:
        pi_state, r_states = policy.encode(batch), reward.states(batch)
        for part in chunks(len(pi_state), policy.num_items):
            logp_TV = policy.log_probs(pi_state[part])
            r_TV = reward.predict(r_states[:, part])
            if soft is None:
                value_T = (logp_TV.exp() * r_TV).sum(dim=1)
            else:
                value_T = soft * (logp_TV + r_TV / soft).logsumexp(dim=1)
            out[batch.event_T[part].cpu()] = value_T.cpu()
    return out
