"""Estimate the value of a policy of lists from lists that another policy drew, with known chances (docs/loop.md).

Of N lists with rewards r_nk at places k = 1..K, let the logging policy show the first k items with probability
b_nk and the candidate with probability p_nk, and w_nk = min(p_nk / b_nk, clip). A list's value is its sum of rewards.

- ``list_ips`` = mean(w_nK sum_k r_nk): whole lists. Unbiased whatever a reward depends on, and of the highest variance.
- ``list_snips`` = sum(w_nK sum_k r_nk) / sum(w_nK): self-normalised.
- ``cascade_ips`` = mean(sum_k w_nk r_nk): a reward depends on what stands at its place and above it, not below
  (RIPS: McInerney, Brost, Chandar, Mehrotra & Carterette 2020).
- ``cascade_snips`` = sum_k sum_n(w_nk r_nk) / sum_n(w_nk): the same, self-normalised place by place.
- ``cascade_dr`` = mean(sum_k w_n,k-1 d_nk + w_nk (r_nk - q_nk)), w_n0 = 1: doubly robust (Kiyohara et al. 2022), with
  q_nk the reward that a model expects at the place, and d_nk the same of the item that the candidate would draw there.
- ``cascade_sndr`` = sum_k sum_n(w_n,k-1 d_nk) / sum_n(w_n,k-1) + sum_n(w_nk (r_nk - q_nk)) / sum_n(w_nk): the same,
  self-normalised place by place.

b_nk is that of lists which were drawn, or of the exact mixture with those that were ranked.

Suffixes: N lists, K places, U users, R ratios, D draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from recalign.bootstrap import Estimate
from recalign.errors import InputError
from recalign.evaluation.offpolicy import LEAST_ESS, Terms, effective_size, plain, ratios

Arms = Literal["explored", "mixture"]
LEAST_SUPPORT = 0.99
"""Probability that the candidate has to give, on average, to the first places that were not drawn."""
LEAST_REACH = 0.8
"""Mean weight of the first drawn place (1 in expectation) below which a candidate shows items that the lists lacked."""


@dataclass(frozen=True)
class Lists:
    """Lists that were shown. Shorter ones are filled up with rewards and log-probabilities of 0.

    Attributes:
        user_N: integers; lists of one user are resampled together.
        reward_NK: what each place earned.
        logged_NK: log-probability of each item given those before it, in a list that is drawn; 0 where fixed.
        target_NK: the candidate's, of the same items.
        explored_N: whether the list was drawn.
        share_N: probability with which it was to be drawn.
        ranked_N: first places that are those of the ranked list; K where a shorter list is the ranked one to its end.
        fixed_N: first places that are not drawn.
        predicted_NK, direct_NK: q and d of the module's docstring; None: without a model.
    """

    user_N: np.ndarray
    reward_NK: np.ndarray
    logged_NK: np.ndarray
    target_NK: np.ndarray
    explored_N: np.ndarray
    share_N: np.ndarray
    ranked_N: np.ndarray
    fixed_N: np.ndarray
    predicted_NK: np.ndarray | None = None
    direct_NK: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.logged_NK) & (self.logged_NK <= 0)).all():
            what, remedy = "a chance of 0, above 1 or NaN", "leave such lists out: recalign feedback counts them"
            raise InputError(what, where="log_prob", remedy=remedy)

    def take(self, chosen_N: np.ndarray) -> Lists:
        """Some of them. Shape: bool (N,)."""
        return replace(self, **{name: x[chosen_N] for name, x in vars(self).items() if x is not None})


@dataclass(frozen=True)
class ListValue:
    """What the lists say of a candidate.

    Attributes:
        lists, users: that were used, and whose.
        observed: mean value of the lists that were used: of the logging policy.
        support: probability that the candidate gives, on average, to the first places that were not drawn. Below
            `LEAST_SUPPORT` it would show lists that could not be logged, and nothing is estimated.
        reach: probability that the candidate gives, on average, to the items that could be drawn at the first place
            that was: 1 but for chance, less where it shows items that the server lacked. Where it lies below
            `LEAST_REACH` by two standard errors, nothing is estimated: it would be the value of other lists.
        ess: effective sample size in users, of ``list`` and of ``cascade`` estimates.
        mean_weight: of whole lists, not cut; 1 in expectation, or chances are wrong, or the server lacked items.
        max_weight: before clipping.
        clip: the largest weight that was left; infinite: none was cut.
        clipped: share of the weights w_nk that were cut.
        refused: why there are no estimates, by kind; one that is not refused is not in it.
        estimates: by name.
    """

    lists: int
    users: int
    observed: float
    support: float
    reach: float
    ess: dict[str, float]
    mean_weight: float
    max_weight: float
    clip: float
    clipped: float
    refused: dict[str, str]
    estimates: dict[str, Estimate]

    def figures(self) -> dict[str, Any]:
        """All of it as plain values, estimates with their 95 % intervals."""
        return {name: x for name, x in vars(self).items() if name != "estimates"} | plain(self.estimates)


def estimate(
    shown: Lists,
    arms: Arms = "explored",
    clip: float | Literal["cube_root"] | None = None,
    least_ess: float = LEAST_ESS,
    draws: int = 2000,
    seed: int = 0,
) -> ListValue:
    """Estimate a candidate's expected value of a list.

    Args:
        shown: the lists, drawn ones and others.
        arms: explored: lists that were drawn alone; mixture: all, with the probability of either way to show them.
        clip: largest weight; cube_root: of the number of lists that are used, so that the interval is wider than
            that of an A/B test by its sixth root at most; None: none is cut. Cutting lowers the variance, and biases.
        least_ess: effective sample size in users below which there is no estimate, but a reason.
        draws, seed: of the bootstrap over users.

    Raises:
        InputError: no list can be used.
    """
    used = shown.take(shown.explored_N) if arms == "explored" else shown
    if not len(used.user_N):
        raise InputError("no list was drawn", where="explore", remedy="explore a share of the requests first")
    raw_NK = weights(used, arms)
    most = len(raw_NK) ** (1 / 3) if clip == "cube_root" else np.inf if clip is None else clip
    weight_NK = np.minimum(raw_NK, most)
    users, user_N = np.unique(used.user_N, return_inverse=True)
    ess = {
        "list": effective_size(np.bincount(user_N, weight_NK[:, -1])),
        "cascade": effective_size(np.bincount(user_N, weight_NK.mean(axis=1))),
    }
    fixed_N = np.where(used.share_N > 0, used.fixed_N, used.reward_NK.shape[1])  # with no share, nothing is drawn
    support = float(np.exp(_before(used.target_NK, fixed_N)).mean())
    reach, most_reach = _reach(raw_NK, fixed_N, user_N)
    refused = {
        kind: why for kind, size in ess.items() if (why := _why(support, most_reach, size, len(users), least_ess))
    }
    made = ratios(_terms(used, weight_NK), user_N, draws, seed)
    made = {name: one for name, one in made.items() if name.partition("_")[0] not in refused}
    nothing = "at some place there is no list that the candidate could have shown"
    refused |= {name: nothing for name, one in made.items() if not np.isfinite(one.value)}
    return ListValue(
        lists=len(user_N),
        users=len(users),
        observed=float(used.reward_NK.sum(axis=1).mean()),
        support=support,
        reach=reach,
        ess=ess,
        mean_weight=float(raw_NK[:, -1].mean()),
        max_weight=float(raw_NK.max()),
        clip=float(most),
        clipped=float((raw_NK > weight_NK).mean()),
        refused=refused,
        estimates={name: one for name, one in made.items() if name not in refused},
    )


def weights(shown: Lists, arms: Arms) -> np.ndarray:
    """p_nk / b_nk: how much more often the candidate shows the first k items. Shape: (N, K)."""
    logged_NK, target_NK = shown.logged_NK.cumsum(axis=1), shown.target_NK.cumsum(axis=1)
    if arms == "mixture":
        place_K = np.arange(1, logged_NK.shape[1] + 1)
        with np.errstate(divide="ignore"):
            drawn_N1, ranked_N1 = np.log(shown.share_N)[:, None], np.log(1 - shown.share_N)[:, None]
        same_NK = np.where(place_K <= shown.ranked_N[:, None], ranked_N1, -np.inf)
        logged_NK = np.logaddexp(drawn_N1 + logged_NK, same_NK)
    return np.exp(target_NK - logged_NK)


def _before(logp_NK: np.ndarray, fixed_N: np.ndarray) -> np.ndarray:
    """Log-probability of the first places, as many as are fixed. Shape: (N,)."""
    return np.where(np.arange(logp_NK.shape[1]) < fixed_N[:, None], logp_NK, 0.0).sum(axis=1)


def _reach(raw_NK: np.ndarray, fixed_N: np.ndarray, user_N: np.ndarray) -> tuple[float, float]:
    """Mean over users of the weight of the first place that was drawn, and that plus two standard errors."""
    drawn_N = fixed_N < raw_NK.shape[1]
    if not drawn_N.any():
        return 1.0, 1.0
    weight_N = np.take_along_axis(raw_NK[drawn_N], fixed_N[drawn_N, None], axis=1)[:, 0]
    count_U = np.bincount(user_N[drawn_N])
    mean_U = np.bincount(user_N[drawn_N], weight_N)[count_U > 0] / count_U[count_U > 0]
    return float(mean_U.mean()), float(mean_U.mean() + 2 * mean_U.std() / len(mean_U) ** 0.5)


def _why(support: float, reach: float, size: float, users: int, least: float) -> str | None:
    if support < LEAST_SUPPORT:
        return f"the candidate leaves the places that were not drawn as they are with probability {support:.3f} only"
    if reach < LEAST_REACH:
        return (
            f"the candidate shows items that these lists could not have, with a probability of {1 - reach:.2f} or more"
        )
    if size < least:
        return f"the effective sample size is {size:.1f} of {users:,} users, below {least:g}"
    return None


def _terms(shown: Lists, weight_NK: np.ndarray) -> Terms:
    one_N, value_N, last_N = np.ones(len(weight_NK)), shown.reward_NK.sum(axis=1), weight_NK[:, -1]
    earned_NK = weight_NK * shown.reward_NK
    terms: Terms = {
        "list_ips": [(last_N * value_N, one_N)],
        "list_snips": [(last_N * value_N, last_N)],
        "cascade_ips": [(earned_NK.sum(axis=1), one_N)],
        "cascade_snips": list(zip(earned_NK.T, weight_NK.T, strict=True)),
    }
    if shown.predicted_NK is not None and shown.direct_NK is not None:
        above_NK = np.concatenate([one_N[:, None], weight_NK[:, :-1]], axis=1)
        drawn_NK, rest_NK = above_NK * shown.direct_NK, weight_NK * (shown.reward_NK - shown.predicted_NK)
        terms["cascade_dr"] = [((drawn_NK + rest_NK).sum(axis=1), one_N)]
        terms["cascade_sndr"] = [*zip(drawn_NK.T, above_NK.T, strict=True), *zip(rest_NK.T, weight_NK.T, strict=True)]
    return terms
