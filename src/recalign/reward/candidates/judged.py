"""What the items' mean rewards tell of validation events: of the same reward, and of every other one.

A ranking of items by their mean reward, from training rows, is the cheapest model of a reward and, on many logs, hardly
worse than a trained one. Every figure is a function of ratios of sums over users, drawn in one bootstrap of users
(`recalign.reward.trust.measures`), so differences between rewards are paired.

Suffixes: N events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.sequences.means import reward_means
from recalign.data.sequences.splits import TRAIN
from recalign.reward.trust.measures import (
    by_user,
    centred,
    explained,
    following,
    minus,
    ordered_pairs,
    ratios,
    variance,
)
from recalign.reward.trust.report import MIN_USERS, NEXT

TOP = 0.75
"""Where the best quarter of the events begins, by the mean reward of their item."""
UNKNOWN = Estimate(float("nan"), np.empty(0))


@dataclass(frozen=True)
class ValidationEvents:
    """Validation events with a known item, and what training rows tell of them.

    Attributes:
        person_N: their user, from 0, ascending.
        values: each candidate's value, NaN where there is none.
        means: each candidate's shrunk means of training rows: ``item``, ``user`` and ``user_item``.
    """

    person_N: np.ndarray
    values: dict[str, np.ndarray]
    means: dict[str, pl.DataFrame]


def training_means(frame: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """Shrunk means (`recalign.data.sequences.reward_means`) of training rows alone, for all events.

    For validation events a user's mean is that of all of the user's training rows: it is the same for all of them, so
    that it orders none.
    """
    known = pl.when(pl.col("split") == TRAIN).then(pl.col("reward"))
    return reward_means(frame.select("user", "item", "split", reward=values).with_columns(reward=known))


def own_errors(events: ValidationEvents, name: str, bootstrap: CrossedBootstrap) -> dict[str, Estimate]:
    """R2 of the item's mean, and of user + item, for the same reward: ``r2/item``, ``r2/user_item``."""
    rated_N = ~np.isnan(events.values[name])
    person_N, value_N = events.person_N[rated_N], events.values[name][rated_N]
    centred_N = centred(value_N)
    values = {"r": centred_N, "rr": centred_N**2}
    for mean in ("item", "user_item"):
        values[mean] = np.square(events.means[name][mean].to_numpy()[rated_N] - value_N)
    value, drawn = ratios(by_user(person_N, bootstrap.users, values), bootstrap)

    def r2(of: Mapping[str, np.ndarray], mean: str) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return explained(of[mean], of["r"], of["rr"])

    return {f"r2/{m}": Estimate(float(r2(value, m)), r2(drawn, m)) for m in ("item", "user_item")}


def judged_by(events: ValidationEvents, judge: str, bootstrap: CrossedBootstrap) -> dict[str, dict[str, Estimate]]:
    """Rank the events by every candidate's item means, and look at what one candidate, the judge, says of them.

    - ``pairwise``: share of pairs of one user's events (each and the next `NEXT`) with different values of the judge
      that are ranked in its order; ties count half. nan where fewer than `MIN_USERS` users have a pair.
    - ``pairwise_minus_own``: the same less that of the judge's own item means, paired.
    - ``lift``: the judge's mean over the best quarter of its events by the ranking, less that over all, in standard
      deviations of the judge. Events that are tied where the quarter ends count in part. Each value is taken less its
      user's (shrunk) training mean, so that generous users do not count as good items. nan where the judge has values
      of fewer than `MIN_USERS` users.

    Returns:
        By figure and candidate.
    """
    rated_N = ~np.isnan(events.values[judge])
    person_N, value_N = events.person_N[rated_N], events.values[judge][rated_N]
    users, same_NC = bootstrap.users, following(person_N.astype(float), NEXT) == person_N[:, None]
    residual_N = value_N - events.means[judge]["user"].to_numpy()[rated_N]
    sums = by_user(person_N, users, {"all": residual_N})
    for name, means in events.means.items():
        score_N = means["item"].to_numpy()[rated_N]
        ahead_NC = np.where(same_NC, following(score_N, NEXT) - score_N[:, None], np.nan)
        right_N, pairs_N = ordered_pairs(value_N, ahead_NC)
        sums[f"pairwise/{name}"] = np.bincount(person_N, right_N, users), np.bincount(person_N, pairs_N, users)
        top_N = best_quarter(score_N)
        sums[f"lift/{name}"] = np.bincount(person_N, top_N * residual_N, users), np.bincount(person_N, top_N, users)
    value, drawn = ratios(sums, bootstrap)
    found = {key: Estimate(float(value[key]), drawn[key]) for key in sums}
    deviation = variance(value_N) ** 0.5
    enough = np.count_nonzero(sums[f"pairwise/{judge}"][1]) >= MIN_USERS
    pairwise = {name: found[f"pairwise/{name}"] if enough else UNKNOWN for name in events.means}
    rated = len(np.unique(person_N)) >= MIN_USERS
    lift = {name: minus(found[f"lift/{name}"], found["all"]) if rated else UNKNOWN for name in events.means}
    return {
        "pairwise": pairwise,
        "pairwise_minus_own": {name: minus(one, pairwise[judge]) for name, one in pairwise.items() if name != judge},
        "lift": {name: Estimate(one.value / deviation, one.draws_D / deviation) for name, one in lift.items()},
    }


def best_quarter(score_N: np.ndarray) -> np.ndarray:
    """How much of each event is in the best quarter: 1, 0 or, of those tied at its end, a share. Shape: (N,)."""
    end = np.quantile(score_N, TOP)
    above_N, tied_N = score_N > end, score_N == end
    left = (1 - TOP) * len(score_N) - above_N.sum()
    return above_N + tied_N * np.clip(left / max(tied_N.sum(), 1), 0, 1)
