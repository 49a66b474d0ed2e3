"""Event weights w = f(A) of A-SFT and its family, and predicted rewards and values for advantages A_e = r_e - V(s_e).

Advantages are in standard deviations of the log's rewards, so that one temperature means the same on every log, and the
same as 1 / lambda of reranking.
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
    """w = 1: behaviour cloning, on events that have a reward, as in all methods."""
    return torch.ones_like(advantage_T).where(~advantage_T.isnan(), torch.nan)


def linear(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = max(A, 0): without a baseline, reward-weighted cloning."""
    return advantage_T.clamp(min=0)


def exponential(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = exp(A / beta): A-SFT; the tilt of the KL-regularised optimum (AWR, arXiv 1910.00177).

    Up to a factor, which cancels in the loss: the largest weight is 1, so that none overflows.
    """
    return ((advantage_T - advantage_T.nan_to_num(nan=-torch.inf).max()) / temperature).exp()


def rank(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = exp((2u - 1) / beta), u the quantile of A in its batch (ties counted half): robust to outliers."""
    known_T = ~advantage_T.isnan()
    sorted_T = advantage_T.nan_to_num(nan=torch.inf).sort().values  # without a reward: last
    below_T = torch.searchsorted(sorted_T, advantage_T.nan_to_num(nan=torch.inf))
    up_to_T = torch.searchsorted(sorted_T, advantage_T.nan_to_num(nan=torch.inf), right=True)
    u_T = (below_T + up_to_T) / (2 * known_T.sum())
    return ((2 * u_T - 1) / temperature).exp().where(known_T, torch.nan)


def sign(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = 1[A > 0]: filtered cloning."""
    return (advantage_T > 0).to(advantage_T.dtype)


def signed(advantage_T: Tensor, temperature: float) -> Tensor:
    """w = A: `weighted_likelihood` lowers events with a negative weight."""
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
        clip: largest size of a weight, in units of the mean size before clipping; None: no limit.

    Returns:
        w_T, below 0 under ``signed`` alone, and ``clipped``, the share of weights that were cut.
    """
    w_T = TRANSFORMS[transform](advantage_T, temperature).nan_to_num(nan=0.0)
    if clip is None:
        return w_T, {"clipped": w_T.new_zeros(())}
    size_T = w_T.abs()
    limit = clip * size_T.sum() / (size_T > 0).sum().clamp(min=1)
    return w_T.clamp(-limit, limit), {"clipped": (size_T > limit).float().mean()}


@torch.no_grad()
def predicted_rewards(reward: RewardEnsemble, self_influence_EF: Tensor, batches: Iterable[Batch]) -> Tensor:
    """The reward model's expected reward of every target, without the target's own influence on it.

    Args:
        reward: a reward model.
        self_influence_EF: how far each event moved its own item's factors when they were fitted
            (`recalign.reward.RewardData.self_influence`), which pulls the prediction towards the event's own reward.
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
    """The expected reward under the starting policy before every target.

    V(s) = E_{a ~ pi}[r(s, a)], or, with ``soft`` = lambda, V(s) = lambda log E_{a ~ pi}[exp(r(s, a) / lambda)], the
    normaliser of the exponential tilt: pi exp((r - V) / lambda) sums to 1.

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
