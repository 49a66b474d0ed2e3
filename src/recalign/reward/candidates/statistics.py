"""Reliability of the item means of a reward, and quality of a ranking by them.

Split-half reliability. Users are split into two random halves. An item has a mean in each half, and the two means are
correlated over items with weights n_1 n_2 / (n_1 + n_2). Items with events in only one half have weight 0. Users are
split, not events: a user's level, and a user's events on the same item, are noise in an item's mean and must not be in
both halves. Means over all users have twice as many events; their reliability follows by Spearman-Brown,
2 c / (1 + c). If a reward is r = mu + a_user + b_item + e, with independent effects of variances sigma_a^2, sigma_b^2
and sigma_e^2, and an item has n events by different users, it estimates

    sigma_b^2 / (sigma_b^2 + (sigma_a^2 + sigma_e^2) / n).

Ranking by item means. Ranking items by their mean training reward is the cheapest model of a reward and, on many logs,
hardly worse than a trained one. Every figure is a function of ratios of sums over users, drawn in one
bootstrap of users (`recalign.reward.trust.measures`), so differences between rewards are paired.

Suffixes: N events, U users, I items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.sequences.means import reward_means
from recalign.data.sequences.splits import TRAIN
from recalign.data.sequences.store import TIE_GROUP
from recalign.reward.trust.measures import (
    by_user,
    centred,
    estimate,
    explained,
    following,
    ordered_pairs,
    ratios,
)
from recalign.reward.trust.report import MIN_USERS, NEXT
from recalign.reward.trust.verdict import repeat_variance

QUANTILES = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
SPLITS = 20
"""Number of random splits over which reliability is averaged."""
UNKNOWN = Estimate(float("nan"), np.empty(0))


def training_figures(events: pl.DataFrame, repeated: float) -> dict[str, Any]:
    """Coverage, moments, reliability and noise of a reward on training events.

    Args:
        events: ``user``, ``item``, ``timestamp`` and ``reward``, null if absent.
        repeated: as in `recalign.reward.trust.verdict.repeat_variance`.
    """
    rated = events.drop_nulls("reward")
    reward, users = rated["reward"], rated["user"].value_counts()["count"]
    user_N, item_N, value_N = (rated[name].to_numpy() for name in ("user", "item", "reward"))
    noise = repeat_variance(rated, repeated)
    return {
        "coverage/events": len(rated) / len(events),
        "coverage/users": int((users >= 2).sum()) / events["user"].n_unique(),
        "mean": reward.mean(),
        "sd": reward.std(),
        **{name: reward.quantile(share, "nearest") for name, share in QUANTILES.items()},
        "distinct": reward.n_unique(),
        "most frequent": reward.value_counts()["count"].max() / len(rated),  # type: ignore[operator]
        "reliability": split_half_reliability(user_N, item_N, value_N),
        "noise": math.nan if noise is None else noise / float(value_N.var()),
    }


def split_half_reliability(user_N: np.ndarray, item_N: np.ndarray, value_N: np.ndarray) -> float:
    """Estimate the share of the variance between item means that other users would reproduce.

    Args:
        user_N, item_N: int64, from 0.
        value_N: rewards.

    Returns:
        0 to 1; nan if fewer than three items have events in both halves, or their means do not differ.
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
    """Weighted correlation; nan with fewer than three pairs, or if one side is constant."""
    if len(x_I) < 3:
        return math.nan
    x_I, y_I = (one - np.average(one, weights=weight_I) for one in (x_I, y_I))
    spread = float((weight_I @ x_I**2) * (weight_I @ y_I**2))
    return float(weight_I @ (x_I * y_I)) / math.sqrt(spread) if spread > 0 else math.nan


def training_means(frame: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """Shrunk means (`recalign.data.sequences.reward_means`) of training rows alone, for all events.

    All validation events of a user get the same user mean, that of all the user's training rows, so it does not order
    them.
    """
    known = pl.when(pl.col("split") == TRAIN).then(pl.col("reward"))
    events = frame.select("user", "item", "split", f"^{TIE_GROUP}$", reward=values)
    return reward_means(events.with_columns(reward=known))


def errors_of_means(
    person_N: np.ndarray, value_N: np.ndarray, means: pl.DataFrame, bootstrap: CrossedBootstrap
) -> dict[str, Estimate]:
    """R2 of predicting the same reward by the item's mean, and by user + item: ``r2/item``, ``r2/user_item``.

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


def agreement_with(
    judge: str,
    person_N: np.ndarray,
    value_N: np.ndarray,
    means: Mapping[str, pl.DataFrame],
    bootstrap: CrossedBootstrap,
) -> dict[str, dict[str, Estimate]]:
    """Rank the events by every candidate's item means; measure how far one candidate, the judge, agrees.

    - ``pairwise``: share of pairs of one user's events (each and the next `NEXT`) with different values of the judge
      that are ranked in its order; ties count half. nan if fewer than `MIN_USERS` users have a pair.
    - ``pairwise_minus_own``: the same minus that of the judge's own item means, paired.

    Args:
        judge: the judge's name.
        person_N, value_N, bootstrap: as in `errors_of_means`, for the judge.
        means: every candidate's `training_means` at these events.

    Returns:
        By figure and candidate.
    """
    same_NC, sums = following(person_N.astype(float), NEXT) == person_N[:, None], {}
    for name, mean in means.items():
        score_N = mean["item"].to_numpy()
        ahead_NC = np.where(same_NC, following(score_N, NEXT) - score_N[:, None], np.nan)
        sums[name] = ordered_pairs(person_N, value_N, ahead_NC, bootstrap.users)
    enough = np.count_nonzero(sums[judge][1]) >= MIN_USERS
    pairwise = {name: estimate(of) if enough else UNKNOWN for name, of in ratios(sums, bootstrap).items()}
    minus_own = {name: share - pairwise[judge] for name, share in pairwise.items() if name != judge}
    return {"pairwise": pairwise, "pairwise_minus_own": minus_own}
