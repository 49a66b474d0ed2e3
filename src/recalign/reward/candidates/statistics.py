"""How much of a reward belongs to the item, how much to the user, and how reliable the items' means are.

Variance components. A reward is taken as r = mu + a_user + b_item + e, with independent effects of variances
sigma_a^2, sigma_b^2 and sigma_e^2; e holds the user's taste for this item and all noise. Three sums of squares, within
users, within items and around the mean, have expectations that are linear in the three variances (Henderson 1953,
method 1; Gao & Owen, "Estimation and Inference for Very Large Linear Mixed Effects Models", arXiv 1610.08088, solve the
same kind of equations for logs of this shape). With N events, n_u of a user, n_i of an item and n_ui of both:

    E sum_e (r - mean of its user)^2 = sigma_b^2 (N - sum_ui n_ui^2 / n_u) + sigma_e^2 (N - users)
    E sum_e (r - mean of its item)^2 = sigma_a^2 (N - sum_ui n_ui^2 / n_i) + sigma_e^2 (N - items)
    E sum_e (r - mean)^2 = sigma_a^2 (N - sum_u n_u^2 / N) + sigma_b^2 (N - sum_i n_i^2 / N) + sigma_e^2 (N - 1)

Nothing needs to be normal. What is needed is that whom an item is shown to has nothing to do with the effects; where a
platform shows good items to generous users, both shares are too large.

Split-half reliability. The users are dealt into two halves at random. An item has a mean in each, and the two means are
correlated over items with weights n_1 n_2 / (n_1 + n_2), so that an item which one half never met has none. Halves of
users, not of events: a user's level, and a user's events on the same item, are noise of an item's mean, and would be in
both halves otherwise. Means of all users are made of twice as many events, and their reliability follows by
Spearman-Brown, 2 c / (1 + c). With n events an item by different users it estimates

    sigma_b^2 / (sigma_b^2 + (sigma_a^2 + sigma_e^2) / n).

Ranking by item means. A ranking of items by their mean reward, from training rows, is the cheapest model of a reward
and, on many logs, hardly worse than a trained one. Every figure is a function of ratios of sums over users, drawn in
one bootstrap of users (`recalign.reward.trust.measures`), so differences between rewards are paired.

Suffixes: N events, U users, I items, C cells (a user and an item).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.sequences.means import reward_means
from recalign.data.sequences.splits import TRAIN
from recalign.reward.trust.measures import (
    by_user,
    centred,
    estimate,
    explained,
    following,
    ordered_pairs,
    ratios,
    variance,
)
from recalign.reward.trust.report import MIN_USERS, NEXT

SPLITS = 20
"""Random halvings of the users over which reliability is averaged."""
BEST_QUARTER = 0.75
"""Quantile at which the best quarter of the events begins, by the mean reward of their item."""
UNKNOWN = Estimate(float("nan"), np.empty(0))


def variance_components(user_N: np.ndarray, item_N: np.ndarray, value_N: np.ndarray) -> np.ndarray:
    """Estimate the variance components of a reward, in linear time.

    Args:
        user_N, item_N: int64, from 0.
        value_N: rewards.

    Returns:
        Variances between users, between items and of the rest, below 0 by chance where there is none; nan where the
        events cannot tell them apart (no user, or no item, has two events). Shape: (3,).
    """
    events, centred_N = len(value_N), value_N - value_N.mean()
    cell_C, count_C = np.unique(user_N.astype(np.int64) * (int(item_N.max()) + 1) + item_N, return_counts=True)
    user_C, item_C = np.divmod(cell_C, int(item_N.max()) + 1)
    count_U, count_I = np.bincount(user_N), np.bincount(item_N)
    squares_C = count_C.astype(float) ** 2
    expected = np.array(
        [
            [0.0, events - (squares_C / count_U[user_C]).sum(), events - np.count_nonzero(count_U)],
            [events - (squares_C / count_I[item_C]).sum(), 0.0, events - np.count_nonzero(count_I)],
            [events - (count_U.astype(float) ** 2).sum() / events, events - (count_I**2.0).sum() / events, events - 1],
        ]
    )
    total = float(centred_N @ centred_N)
    observed = np.array([total - _between(user_N, centred_N), total - _between(item_N, centred_N), total])
    if min(expected[0, 1], expected[1, 0]) < 1e-9 * events or np.linalg.cond(expected) > 1e12:
        return np.full(3, math.nan)
    return np.linalg.solve(expected, observed)


def _between(group_N: np.ndarray, value_N: np.ndarray) -> float:
    """Sum over groups of their number of events times their squared mean."""
    count_G = np.bincount(group_N)
    return float((np.bincount(group_N, value_N) ** 2 / np.maximum(count_G, 1)).sum())


def split_half_reliability(user_N: np.ndarray, item_N: np.ndarray, value_N: np.ndarray) -> float:
    """Estimate the share of the variance between items' means that other users would find again.

    Args:
        user_N, item_N: int64, from 0.
        value_N: rewards.

    Returns:
        0 to 1; nan where fewer than three items were met by both halves, or means do not differ.
    """
    rng, centred_N = np.random.default_rng(0), value_N - value_N.mean()
    users, items = np.unique(user_N, return_inverse=True)[1], int(item_N.max()) + 1
    number = int(users.max()) + 1
    count_I, total_I = np.bincount(item_N, minlength=items), np.bincount(item_N, centred_N, items)
    found = []
    for _ in range(SPLITS):
        first_N = (rng.permutation(number) < number // 2)[users]
        count1_I = np.bincount(item_N[first_N], minlength=items)
        total1_I = np.bincount(item_N[first_N], centred_N[first_N], items)
        both = (count1_I > 0) & (count1_I < count_I)
        n1, n2 = count1_I[both], (count_I - count1_I)[both]
        found.append(_correlation(total1_I[both] / n1, (total_I - total1_I)[both] / n2, n1 * n2 / (n1 + n2)))
    known = [one for one in found if not math.isnan(one)]
    if not known:
        return math.nan
    mean = max(float(np.mean(known)), 0.0)
    return 2 * mean / (1 + mean)


def _correlation(x_I: np.ndarray, y_I: np.ndarray, weight_I: np.ndarray) -> float:
    """Weighted correlation; nan of fewer than three pairs, or where one side is constant."""
    if len(x_I) < 3:
        return math.nan
    x_I, y_I = (one - np.average(one, weights=weight_I) for one in (x_I, y_I))
    spread = float((weight_I @ x_I**2) * (weight_I @ y_I**2))
    return float(weight_I @ (x_I * y_I)) / math.sqrt(spread) if spread > 0 else math.nan


def training_means(frame: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """Shrunk means (`recalign.data.sequences.reward_means`) of training rows alone, for all events.

    For validation events a user's mean is that of all of the user's training rows: it is the same for all of them, so
    that it orders none.
    """
    known = pl.when(pl.col("split") == TRAIN).then(pl.col("reward"))
    return reward_means(frame.select("user", "item", "split", reward=values).with_columns(reward=known))


def own_errors(
    person_N: np.ndarray, value_N: np.ndarray, means: pl.DataFrame, bootstrap: CrossedBootstrap
) -> dict[str, Estimate]:
    """R2 of the item's mean, and of user + item, for the same reward: ``r2/item``, ``r2/user_item``.

    Args:
        person_N: users of validation events that have a value and a known item; from 0, ascending.
        value_N: the reward.
        means: its `training_means`.
        bootstrap: of the users of all validation events with a known item.
    """
    centred_N = centred(value_N)
    values = {"r": centred_N, "rr": centred_N**2}
    values |= {name: np.square(means[name].to_numpy() - value_N) for name in ("item", "user_item")}
    of = ratios(by_user(person_N, bootstrap.users, values), bootstrap)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {f"r2/{name}": estimate(explained(of[name], of["r"], of["rr"])) for name in ("item", "user_item")}


def judged_by(
    judge: str,
    person_N: np.ndarray,
    value_N: np.ndarray,
    means: Mapping[str, pl.DataFrame],
    bootstrap: CrossedBootstrap,
) -> dict[str, dict[str, Estimate]]:
    """Rank the events by every candidate's item means, and look at what one candidate, the judge, says of them.

    - ``pairwise``: share of pairs of one user's events (each and the next `NEXT`) with different values of the judge
      that are ranked in its order; ties count half. nan where fewer than `MIN_USERS` users have a pair.
    - ``pairwise_minus_own``: the same less that of the judge's own item means, paired.
    - ``lift``: the judge's mean over the best quarter of its events by the ranking, less that over all, in standard
      deviations of the judge. Events that are tied where the quarter ends count in part. Each value is taken less its
      user's (shrunk) training mean, so that generous users do not count as good items. nan where the judge has values
      of fewer than `MIN_USERS` users.

    Args:
        judge: its name.
        person_N, value_N, bootstrap: as in `own_errors`, of the judge.
        means: every candidate's `training_means` at these events.

    Returns:
        By figure and candidate.
    """
    users, same_NC = bootstrap.users, following(person_N.astype(float), NEXT) == person_N[:, None]
    residual_N = value_N - means[judge]["user"].to_numpy()
    sums = by_user(person_N, users, {"all": residual_N})
    for name, own in means.items():
        score_N = own["item"].to_numpy()
        ahead_NC = np.where(same_NC, following(score_N, NEXT) - score_N[:, None], np.nan)
        sums["pairwise", name] = ordered_pairs(person_N, value_N, ahead_NC, users)
        top_N = best_quarter(score_N)
        sums["lift", name] = np.bincount(person_N, top_N * residual_N, users), np.bincount(person_N, top_N, users)
    of, deviation = ratios(sums, bootstrap), variance(value_N) ** 0.5
    enough = np.count_nonzero(sums["pairwise", judge][1]) >= MIN_USERS
    pairwise = {name: estimate(of["pairwise", name]) if enough else UNKNOWN for name in means}
    rated = len(np.unique(person_N)) >= MIN_USERS
    with np.errstate(invalid="ignore"):
        lift = {name: estimate((of["lift", name] - of["all"]) / deviation) if rated else UNKNOWN for name in means}
    minus_own = {name: one - pairwise[judge] for name, one in pairwise.items() if name != judge}
    return {"pairwise": pairwise, "pairwise_minus_own": minus_own, "lift": lift}


def best_quarter(score_N: np.ndarray) -> np.ndarray:
    """How much of each event is in the best quarter: 1, 0 or, of those tied at its end, a share. Shape: (N,)."""
    end = np.quantile(score_N, BEST_QUARTER)
    above_N, tied_N = score_N > end, score_N == end
    left = (1 - BEST_QUARTER) * len(score_N) - above_N.sum()
    return above_N + tied_N * np.clip(left / max(tied_N.sum(), 1), 0, 1)
