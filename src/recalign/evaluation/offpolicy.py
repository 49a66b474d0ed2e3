"""The value of a policy from what others showed: importance weights, a reward model, and a limit below which neither.

Of N exposures with logging propensities beta_n, a target policy pi, rewards r_n and a reward model q, with
w_n = min(pi(a_n | s_n) / beta_n, clip):

- ``ips`` = mean(w r): inverse propensity score (Horvitz & Thompson 1952). Unbiased where beta > 0 wherever pi > 0, and
  of high variance: rewards far from 0 are multiplied by w too.
- ``snips`` = sum(w r) / sum(w): self-normalised (Swaminathan & Joachims 2015). Slightly biased, and unmoved by a
  constant added to all rewards.
- ``dm`` = mean(sum_a pi(a | s) q(s, a)): the direct method. As good as the reward model, and no better.
- ``dr`` = dm + mean(w (r - q(s, a))): doubly robust (Dudik, Langford & Li 2011). Unbiased if either
  beta or q is right.

All four are ratios of sums over users, so that one bootstrap of users gives their intervals. The effective sample size
(Kish 1965) is that of the users, (sum_u w_u)^2 / sum_u w_u^2 with w_u the sum of the user's weights: users are what is
drawn again, and an interval is worth what their number is.

Suffixes: N exposures, U users, C candidates of a user (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recalign.errors import InputError
from recalign.metrics.bootstrap import CrossedBootstrap, Estimate

LEAST_ESS = 50.0
"""Users in effect below which no estimate is given. In 200 simulated worlds (docs/offpolicy.md) 95 % intervals of
``dr`` and ``snips`` held the truth in 93 % or more from 30 users on and in under 90 % below 10; 50 leaves a margin."""

ESTIMATORS = ("ips", "snips", "dm", "dr")


@dataclass(frozen=True)
class Exposures:
    """What was shown, by whom, and what a target policy and a reward model say of it. All shapes (N,).

    Attributes:
        user_N: integers, whose exposure it is: exposures of one user are resampled together.
        reward_N: the observed reward.
        propensity_N: beta(a | s), the chance with which the logging policy showed the item, above 0 and up to 1.
        target_N: pi(a | s), the target policy's.
        predicted_N: q(s, a), the reward model's reward of the item that was shown; None without a reward model.
        direct_N: sum_a pi(a | s) q(s, a).
    """

    user_N: np.ndarray
    reward_N: np.ndarray
    propensity_N: np.ndarray
    target_N: np.ndarray
    predicted_N: np.ndarray | None = None
    direct_N: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_propensities(self.propensity_N)

    def weights(self, clip: float | None = None) -> np.ndarray:
        """Importance weights pi / beta, at most `clip`. Shape: (N,)."""
        weight_N = self.target_N / self.propensity_N
        return weight_N if clip is None else np.minimum(weight_N, clip)


@dataclass(frozen=True)
class OffPolicy:
    """What the exposures say of a policy.

    Attributes:
        exposures, users: how many there were.
        observed: their mean reward: the logging policy's own value.
        ess: effective sample size in users.
        mean_weight: 1 in expectation, for every policy; far from it the propensities are wrong, the weights are
            clipped, or the policy chooses what could not be shown.
        max_weight: the largest, before clipping.
        clipped: share of the weights that were cut.
        refused: why there is no estimate; None where there is one.
        estimates: by name of `ESTIMATORS`; empty where refused.
    """

    exposures: int
    users: int
    observed: float
    ess: float
    mean_weight: float
    max_weight: float
    clipped: float
    refused: str | None
    estimates: dict[str, Estimate]

    def figures(self) -> dict[str, float | int | str | list[float]]:
        """All of it as plain values: the estimates with their 95 % intervals, or the reason why there are none."""
        names = ("exposures", "users", "observed", "ess", "mean_weight", "max_weight", "clipped")
        plain: dict[str, float | int | str | list[float]] = {name: getattr(self, name) for name in names}
        if self.refused:
            plain["refused"] = self.refused
        for name, estimate in self.estimates.items():
            plain |= {name: estimate.value, f"{name}_interval": list(estimate.interval())}
        return plain


def estimate(
    shown: Exposures, clip: float | None = None, least_ess: float = LEAST_ESS, draws: int = 2000, seed: int = 0
) -> OffPolicy:
    """Estimate a policy's expected reward.

    Args:
        shown: the exposures.
        clip: largest importance weight; None: none is cut. Cutting lowers the variance and biases ``ips`` downwards.
        least_ess: effective sample size below which there is no estimate, but a reason.
        draws: of the bootstrap over users.
        seed: of the draws.
    """
    raw_N, weight_N = shown.weights(), shown.weights(clip)
    _, user_N = np.unique(shown.user_N, return_inverse=True)
    users = int(user_N.max()) + 1 if len(user_N) else 0
    ess = effective_size(np.bincount(user_N, weight_N)) if users else 0.0
    refused = _refusal(ess, users, least_ess)
    return OffPolicy(
        exposures=len(user_N),
        users=users,
        observed=float(shown.reward_N.mean()) if users else float("nan"),
        ess=ess,
        mean_weight=float(weight_N.mean()) if users else float("nan"),
        max_weight=float(raw_N.max()) if users else float("nan"),
        clipped=float((raw_N > weight_N).mean()) if users else 0.0,
        refused=refused,
        estimates={} if refused else _estimates(shown, weight_N, user_N, CrossedBootstrap(users, draws, seed)),
    )


def _refusal(ess: float, users: int, least: float) -> str | None:
    if users == 0:
        return "nothing was shown at random, with a known propensity and a reward"
    if ess >= least:
        return None
    return (
        f"the effective sample size is {ess:.1f} of {users:,} users, below {least:g}: the policy hardly ever chooses "
        "what was shown"
    )


def _estimates(
    shown: Exposures, weight_N: np.ndarray, user_N: np.ndarray, bootstrap: CrossedBootstrap
) -> dict[str, Estimate]:
    one_N = np.ones(len(user_N))
    terms = {"ips": (weight_N * shown.reward_N, one_N), "snips": (weight_N * shown.reward_N, weight_N)}
    if shown.predicted_N is not None and shown.direct_N is not None:
        rest_N = weight_N * (shown.reward_N - shown.predicted_N)
        terms |= {"dm": (shown.direct_N, one_N), "dr": (shown.direct_N + rest_N, one_N)}
    total_RU, count_RU = (
        np.stack([np.bincount(user_N, term[side], minlength=bootstrap.weight_DU.shape[1]) for term in terms.values()])
        for side in (0, 1)
    )
    value_R, drawn_DR = bootstrap.ratios(total_RU, count_RU)
    return {name: Estimate(float(value_R[i]), drawn_DR[:, i]) for i, name in enumerate(terms)}


def effective_size(weight_U: np.ndarray) -> float:
    """(sum w)^2 / sum w^2, from 1 (one decides everything) to U (all count alike); 0 where all weights are 0."""
    squares = float(np.square(weight_U).sum())
    return float(weight_U.sum()) ** 2 / squares if squares > 0 else 0.0


def check_propensities(propensity_N: np.ndarray) -> None:
    """Refuse what is no probability.

    Raises:
        InputError: one is 0 or less, above 1, or NaN.
    """
    bad_N = ~((propensity_N > 0) & (propensity_N <= 1))
    if bad_N.any():
        raise InputError(
            f"a propensity of {propensity_N[bad_N][0]:g} ({int(bad_N.sum()):,} of {len(bad_N):,} are 0 or less, "
            "above 1 or NaN)",
            where="propensity",
            remedy="give the chance with which the logging policy showed each item, above 0 and up to 1",
        )


def exposed_ranks(
    user_N: np.ndarray,
    score_N: np.ndarray,
    reward_N: np.ndarray,
    propensity_N: np.ndarray | None = None,
    k: int = 5,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """How well scores order what users were shown at random, each user's exposures being the candidates.

    Chance chose the candidates, so nothing is gained by guessing what the platform would have shown. Users with one
    candidate leave nothing to order and count nowhere. With gains g = (r - the least reward of the exposures) / beta,
    means over the users whose gains are not all 0:

    - ``ndcg``: sum over the first k of g / log2(rank + 1), over its largest possible value (Järvelin and Kekäläinen
      2002);
    - ``mrr``: sum g / rank over sum g, the reward-weighted reciprocal rank (KuaiSim's R-MRR, 2023).

    And over all their exposures, each weighted by 1 / beta:

    - ``reward``: mean reward of every user's first k, and ``uniform`` that of all candidates: the value of a policy
      that shows the best k of so many drawn at random, and of one that does not choose.

    Args:
        user_N: integers.
        score_N: larger is better; equal scores are taken in an order of chance.
        reward_N: observed rewards.
        propensity_N: None: all the same.
        k: how many of a user's candidates count as shown.
        draws: of the bootstrap over users.
        seed: of the draws and of the order of equal scores.
    """
    beta_N = np.ones(len(user_N)) if propensity_N is None else propensity_N
    check_propensities(beta_N)
    gain_N = (reward_N - reward_N.min()) / beta_N
    chance_N = np.random.default_rng(seed).random(len(user_N))
    _, user_N = np.unique(user_N, return_inverse=True)
    users = int(user_N.max()) + 1

    def ranks(by_N: np.ndarray) -> np.ndarray:
        order = np.lexsort((chance_N, -by_N, user_N))
        first_U = np.flatnonzero(np.diff(user_N[order], prepend=-1))
        rank_N = np.empty(len(order), np.int64)
        rank_N[order] = np.arange(len(order)) - np.repeat(first_U, np.diff(first_U, append=len(order))) + 1
        return rank_N

    def total(value_N: np.ndarray) -> np.ndarray:
        return np.bincount(user_N, value_N, minlength=users)

    def dcg(rank_N: np.ndarray) -> np.ndarray:
        return total(gain_N * (rank_N <= k) / np.log2(rank_N + 1))

    rank_N, gain_U = ranks(score_N), total(gain_N)
    several_U = np.bincount(user_N) > 1
    counted_U = (several_U & (gain_U > 0)).astype(float)
    least_U = np.where(gain_U > 0, gain_U, 1.0)
    best_U = np.where(gain_U > 0, dcg(ranks(gain_N)), 1.0)
    share_N = several_U[user_N] / beta_N
    top_N = share_N * (rank_N <= k)
    terms = {
        "ndcg": (counted_U * dcg(rank_N) / best_U, counted_U),
        "mrr": (counted_U * total(gain_N / rank_N) / least_U, counted_U),
        "reward": (total(top_N * reward_N), total(top_N)),
        "uniform": (total(share_N * reward_N), total(share_N)),
    }
    bootstrap = CrossedBootstrap(users, draws, seed)
    value_R, drawn_DR = bootstrap.ratios(*(np.stack([term[side] for term in terms.values()]) for side in (0, 1)))
    return {name: Estimate(float(value_R[i]), drawn_DR[:, i]) for i, name in enumerate(terms)}
