"""Estimate what a policy would earn, from lists that another policy drew with known propensities (docs/monitor.md).

A single item is a list of one place. Of N lists with rewards r_nk at places k = 1..K, let the logging policy show the
first k items with probability b_nk and the candidate with probability p_nk, and w_nk = min(p_nk / b_nk, clip). A list's
value is its sum of rewards.

- ``ips`` = mean(w_nK sum_k r_nk): inverse propensity score (Horvitz & Thompson 1952). Unbiased where b > 0 wherever
  p > 0, and of high variance.
- ``snips``, of lists ``list_snips`` = sum(w_nK sum_k r_nk) / sum(w_nK): self-normalised (Swaminathan & Joachims 2015).
  Slightly biased, and unmoved by a constant added to all rewards.
- ``cascade_snips`` = sum_k sum_n(w_nk r_nk) / sum_n(w_nk): self-normalised place by place, where a reward depends on
  what stands at its place and above it, not below (RIPS: McInerney, Brost, Chandar, Mehrotra & Carterette 2020).
- ``cascade_gain`` = cascade_snips less what these lists earned, mean(sum_k r_nk): the same users are drawn for both, so
  its interval is narrower than the value's.
- ``dm`` = mean(sum_a pi(a | s) q(s, a)): the direct method. As good as the reward model q, and no better.
- ``dr`` = dm + mean(w (r - q(s, a))): doubly robust (Dudik, Langford & Li 2011). Unbiased if b or q is right.

All are ratios of sums over users, so one bootstrap of users gives their intervals. The effective sample size (Kish
1965) counts users too: (sum_u w_u)^2 / sum_u w_u^2 with w_u the sum of the user's weights.

Suffixes: N lists, K places, U users, R ratios, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.errors import InputError

MIN_ESS = 50.0
"""Effective sample size in users below which no estimate is given. In 200 simulated worlds (docs/monitor.md) 95 %
intervals of ``dr`` and ``snips`` held the truth in 93 % or more from 30 users on and in under 90 % below 10."""
MIN_SUPPORT = 0.99
"""Mean probability that the candidate has to give to the first places that were not drawn."""
MIN_FIRST_WEIGHT = 0.8
"""Mean weight of the first drawn place (1 in expectation) below which a candidate shows items that the lists lacked."""

ITEM_ESTIMATORS, LIST_ESTIMATORS = ("ips", "snips", "dm", "dr"), ("cascade_snips", "cascade_gain", "list_snips")


@dataclass(frozen=True)
class Lists:
    """Lists that were shown, with the importance weights of a candidate: see `of_items` and `of_lists`.

    Attributes:
        user_N: integers; lists of one user are resampled together.
        reward_NK: what each place earned, 0 beyond a shorter list's end.
        weight_NK: p_nk / b_nk, not clipped.
        estimators: names of the estimates.
        predicted_N, direct_N: of single items, q of the item that was shown, and sum_a pi(a | s) q(s, a).
        unknown: number of further lists, without a reward: if not missing at random, estimates are biased.
        support: mean probability that the candidate gives to the first places that were not drawn.
        first_N: index of the first drawn place, K if none was drawn; None: 0 everywhere.
    """

    user_N: np.ndarray
    reward_NK: np.ndarray
    weight_NK: np.ndarray
    estimators: tuple[str, ...]
    predicted_N: np.ndarray | None = None
    direct_N: np.ndarray | None = None
    unknown: int = 0
    support: float = 1.0
    first_N: np.ndarray | None = None


@dataclass(frozen=True)
class PolicyValue:
    """Off-policy estimates of a candidate's value, with diagnostics.

    Attributes:
        lists, unknown, users: numbers of lists that were used, of further ones without a reward, and of users.
        observed: mean value of the lists that were used: the logging policy's own.
        ess: effective sample size in users, of ``list`` and of ``cascade`` estimates.
        mean_weight, max_weight: of whole lists, and of all places, before clipping. The mean is 1 in expectation, or
            propensities are wrong, or the candidate chooses what could not be shown.
        clip: the largest weight allowed; infinite: no clipping.
        clipped: share of the weights that were clipped.
        support: below `MIN_SUPPORT` nothing is estimated: the candidate would show lists that could not be logged.
        first_weight: mean weight of the first drawn place. Below `MIN_FIRST_WEIGHT` by two standard errors, nothing is
            estimated: the candidate shows items that the server lacked.
        refused: why there is no estimate, by ``list``, ``cascade`` or an estimate's name.
        estimates: by name.
    """

    lists: int
    unknown: int
    users: int
    observed: float
    ess: dict[str, float]
    mean_weight: float
    max_weight: float
    clip: float
    clipped: float
    support: float
    first_weight: float
    refused: dict[str, str]
    estimates: dict[str, Estimate]

    def figures(self) -> dict[str, Any]:
        """All of it as plain values, estimates with their 95 % intervals; None, for JSON, where one is not finite."""
        own = {name: x for name, x in vars(self).items() if name != "estimates"} | plain(self.estimates)
        return {name: None if isinstance(x, float) and not np.isfinite(x) else x for name, x in own.items()}


def plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Values by name, and their 95 % intervals as ``<name>_interval``."""
    intervals = {f"{name}_interval": list(estimate.interval()) for name, estimate in estimates.items()}
    return {name: estimate.value for name, estimate in estimates.items()} | intervals


def of_items(
    user_N: np.ndarray,
    reward_N: np.ndarray,
    propensity_N: np.ndarray,
    target_N: np.ndarray,
    predicted_N: np.ndarray | None = None,
    direct_N: np.ndarray | None = None,
    unknown: int = 0,
) -> Lists:
    """Single items as lists of one place.

    Args:
        propensity_N, target_N: beta(a | s) of the logging policy, and pi(a | s).
        user_N, reward_N, predicted_N, direct_N, unknown: as in `Lists`.

    Raises:
        InputError: a propensity is 0 or less, above 1, or NaN.
    """
    bad_N = ~((propensity_N > 0) & (propensity_N <= 1))
    if bad_N.any():
        many = f"{int(bad_N.sum()):,} of {len(bad_N):,}"
        what = f"{many} propensities are not in (0, 1], such as {propensity_N[bad_N][0]:g}"
        remedy = "give the chance with which the logging policy showed each item, above 0 and up to 1"
        raise InputError(what, where="propensity", remedy=remedy)
    weight_N1 = (target_N / propensity_N)[:, None]
    names = ITEM_ESTIMATORS if predicted_N is not None else ITEM_ESTIMATORS[:2]
    return Lists(user_N, reward_N[:, None], weight_N1, names, predicted_N, direct_N, unknown)


def of_lists(
    user_N: np.ndarray,
    reward_NK: np.ndarray,
    logged_NK: np.ndarray,
    target_NK: np.ndarray,
    explored_N: np.ndarray,
    fixed_N: np.ndarray,
) -> Lists:
    """Lists of several places; shorter ones are padded with rewards and log-probabilities of 0.

    Args:
        user_N, reward_NK: as in `Lists`.
        logged_NK: log-probability of each item given those before it, in a list that is drawn; 0 where fixed.
        target_NK: the candidate's, of the same items.
        explored_N: whether the list was drawn; the others are left out.
        fixed_N: number of first places that are not drawn.

    Raises:
        InputError: a log-probability is above 0 or not finite, or no list was drawn.
    """
    if not (np.isfinite(logged_NK) & (logged_NK <= 0)).all():
        what = "a log-probability is above 0, infinite or NaN"
        remedy = "leave such lists out; recalign feedback counts those with a chance of 0"
        raise InputError(what, where="log_prob", remedy=remedy)
    user_N, reward_NK, logged_NK, target_NK, fixed_N = (
        x[explored_N] for x in (user_N, reward_NK, logged_NK, target_NK, fixed_N)
    )
    if not len(user_N):
        raise InputError("no list was drawn at random", where="explore", remedy="serve requests with explore first")
    fixed_NK = np.where(np.arange(reward_NK.shape[1]) < fixed_N[:, None], target_NK, 0.0)
    logged_NK, target_NK = logged_NK.cumsum(axis=1), target_NK.cumsum(axis=1)
    weight_NK, support = np.exp(target_NK - logged_NK), float(np.exp(fixed_NK.sum(axis=1)).mean())
    return Lists(user_N, reward_NK, weight_NK, LIST_ESTIMATORS, support=support, first_N=fixed_N)


def estimate(
    shown: Lists,
    clip: float | Literal["cube_root"] | None = None,
    min_ess: float = MIN_ESS,
    draws: int = 2000,
    seed: int = 0,
) -> PolicyValue:
    """Estimate a candidate's expected value of a list.

    Args:
        clip: largest weight; cube_root: the cube root of the number N of lists, so that the interval is at most
            N^(1/6) times as wide as an A/B test's; None: no clipping. Clipping lowers the variance and adds bias.
        min_ess: effective sample size in users below which there is no estimate, but a reason.
        draws, seed: of the bootstrap over users.
    """
    lists = len(shown.user_N)
    limit = lists ** (1 / 3) if clip == "cube_root" else np.inf if clip is None else clip
    if not lists:
        nan, ess = float("nan"), {"list": 0.0, "cascade": 0.0}
        refused = {"list": "nothing was shown at random with a known propensity and a known reward"}
        return PolicyValue(0, shown.unknown, 0, nan, ess, nan, nan, limit, 0.0, shown.support, nan, refused, {})
    weight_NK = np.minimum(shown.weight_NK, limit)
    users, user_N = np.unique(shown.user_N, return_inverse=True)
    weights = {"list": weight_NK[:, -1], "cascade": weight_NK.mean(axis=1)}
    ess = {kind: effective_size(np.bincount(user_N, weight_N)) for kind, weight_N in weights.items()}
    first_weight, upper = _first_weight(shown, user_N)
    why = {kind: _refusal(shown.support, upper, size, len(users), min_ess) for kind, size in ess.items()}
    refused = {kind: reason for kind, reason in why.items() if reason}
    names = [name for name in shown.estimators if ("cascade" if name.startswith("cascade") else "list") not in refused]
    estimates = _estimates(names, shown, weight_NK, user_N, CrossedBootstrap(len(users), draws, seed))
    undefined = "at some place every importance weight is 0: the candidate would show none of these lists"
    refused |= {name: undefined for name in names if name not in estimates}
    return PolicyValue(
        lists=lists,
        unknown=shown.unknown,
        users=len(users),
        observed=float(shown.reward_NK.sum(axis=1).mean()),
        ess=ess,
        mean_weight=float(shown.weight_NK[:, -1].mean()),
        max_weight=float(shown.weight_NK.max()),
        clip=float(limit),
        clipped=float((shown.weight_NK > weight_NK).mean()),
        support=shown.support,
        first_weight=first_weight,
        refused=refused,
        estimates=estimates,
    )


def _first_weight(shown: Lists, user_N: np.ndarray) -> tuple[float, float]:
    """Mean weight of the first drawn place, each user counting alike, and the same plus two standard errors."""
    if shown.first_N is None or not (drawn_N := shown.first_N < shown.weight_NK.shape[1]).any():
        return 1.0, 1.0
    weight_N = np.take_along_axis(shown.weight_NK[drawn_N], shown.first_N[drawn_N, None], axis=1)[:, 0]
    count_U = np.bincount(user_N[drawn_N])
    mean_U = np.bincount(user_N[drawn_N], weight_N)[count_U > 0] / count_U[count_U > 0]
    return float(mean_U.mean()), float(mean_U.mean() + 2 * mean_U.std() / len(mean_U) ** 0.5)


def _refusal(support: float, first_weight: float, ess: float, users: int, min_ess: float) -> str | None:
    """Why nothing is estimated, if so."""
    if support < MIN_SUPPORT:
        return f"the candidate shows the same items at the fixed places with a probability of {support:.3f} only"
    if first_weight < MIN_FIRST_WEIGHT:
        missing = f"with a probability of {1 - first_weight:.2f} or more"
        return f"the candidate shows items that these lists could not have, {missing}"
    if ess < min_ess:
        found = f"the effective sample size is {ess:.1f} of {users:,} users, below {min_ess:g}"
        return f"{found}: the policy hardly ever chooses what was shown"
    return None


def _estimates(
    names: list[str], shown: Lists, weight_NK: np.ndarray, user_N: np.ndarray, bootstrap: CrossedBootstrap
) -> dict[str, Estimate]:
    """The estimates by name, without those whose weights are all 0 at some place."""
    ratios = [(name, *ratio) for name in names for ratio in _ratios(name, shown, weight_NK)]
    if not ratios:
        return {}
    total_RU = np.stack([np.bincount(user_N, total_N) for _, total_N, _ in ratios])
    count_RU = np.stack([np.bincount(user_N, count_N) for _, _, count_N in ratios])
    value_R, drawn_DR = bootstrap.ratios(total_RU, count_RU)
    own = {name: [place for place, (of, _, _) in enumerate(ratios) if of == name] for name in names}
    found = {name: Estimate(float(value_R[of].sum()), drawn_DR[:, of].sum(axis=1)) for name, of in own.items()}
    return {name: estimate for name, estimate in found.items() if np.isfinite(estimate.value)}


def _ratios(name: str, shown: Lists, weight_NK: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ratios that an estimate adds up: numerators and denominators, each (N,), to be summed over lists."""
    one_N, last_N, value_N = np.ones(len(weight_NK)), weight_NK[:, -1], shown.reward_NK.sum(axis=1)
    if name.startswith("cascade"):
        places = list(zip((weight_NK * shown.reward_NK).T, weight_NK.T, strict=True))
        return places + [(-value_N, one_N)] * (name == "cascade_gain")
    if name in ("dm", "dr"):
        assert shown.predicted_N is not None and shown.direct_N is not None  # noqa: PT018
        rest_N = last_N * (value_N - shown.predicted_N)
        return [(shown.direct_N if name == "dm" else shown.direct_N + rest_N, one_N)]
    return [(last_N * value_N, one_N if name == "ips" else last_N)]


def effective_size(weight_U: np.ndarray) -> float:
    """(sum w)^2 / sum w^2, from 1 (one decides everything) to U (all count alike); 0 where all weights are 0."""
    squares = float(np.square(weight_U).sum())
    return float(weight_U.sum()) ** 2 / squares if squares > 0 else 0.0
