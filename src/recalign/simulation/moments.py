"""The moments of a log that the default world was calibrated to.

Logs are frames with the columns user, item, timestamp and reward (null where not recorded).

Shape legend: U users, I items, N events.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Reals = NDArray[np.floating]
Ints = NDArray[np.int64]


def moments(events: pl.DataFrame) -> dict[str, float]:
    """Moments of activity, popularity and reward, most as shares, so that logs of different sizes compare."""
    count_U = np.sort(events["user"].value_counts()["count"].to_numpy())
    count_I = np.sort(events["item"].value_counts()["count"].to_numpy())[::-1]
    pairs = events.select("user", "item").n_unique()
    return {
        "activity/mean": count_U.mean(),
        "activity/median": np.median(count_U) / count_U.mean(),
        "activity/sd": count_U.std() / count_U.mean(),
        "activity/gini": gini(count_U),
        "activity/repeats": 1 - pairs / len(events),
        "popularity/gini": gini(count_I),
        "popularity/top_10%": count_I[: round(len(count_I) / 10)].sum() / len(events),
        "popularity/bottom_50%": count_I[len(count_I) // 2 :].sum() / len(events),
        "popularity/best": count_I[0] / len(count_U),
        **_reward_moments(events.drop_nulls("reward")),
    }


def _reward_moments(rated: pl.DataFrame) -> dict[str, float]:
    user_N, item_N, reward_N = codes(rated, "user"), codes(rated, "item"), rated["reward"].to_numpy()
    deviation_N = reward_N - reward_N.mean()
    variance = deviation_N.var()
    user, item = (covariance_within(group_N, deviation_N) / variance for group_N in (user_N, item_N))
    count_I = np.bincount(item_N)
    known_I = count_I >= 5  # the mean of fewer is mostly noise
    mean_I = np.bincount(item_N, reward_N)[known_I] / count_I[known_I]
    return {
        "reward/mean": reward_N.mean(),
        "reward/variance": variance,
        "reward/user": user,
        "reward/item": item,
        "reward/rest": 1 - user - item,
        "reward/popularity": np.corrcoef(np.log(count_I[known_I]), mean_I)[0, 1],
        "reward/carry_over": carry_over(rated),
    }


def gini(counts: NDArray[np.number]) -> float:
    """Gini coefficient: 0 if all counts are equal, near 1 if one has everything."""
    ordered = np.sort(counts).astype(np.float64)
    rank = np.arange(1, len(ordered) + 1)
    return float((2 * rank - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def covariance_within(group_N: Ints, deviation_N: Reals) -> float:
    """Mean product of two different events of a group: the variance due to the group, without the events' noise.

    Groups weigh by their events; those with one event are left out.
    """
    count_G = np.bincount(group_N)
    products_G = np.bincount(group_N, deviation_N) ** 2 - np.bincount(group_N, deviation_N**2)
    several_G = count_G > 1
    return float((products_G[several_G] / (count_G[several_G] - 1)).sum() / count_G[several_G].sum())


def carry_over(rated: pl.DataFrame) -> float:
    """Correlation between neighbouring events of a user of the reward that user and item do not explain.

    It comes from circumstances, and from runs of similar items.
    """
    rated = rated.sort("user", "timestamp", maintain_order=True)
    user_N, item_N, reward_N = codes(rated, "user"), codes(rated, "item"), rated["reward"].to_numpy()
    rest_N = reward_N - additive(user_N, item_N, reward_N, np.ones(len(rated)))
    neighbours = user_N[1:] == user_N[:-1]
    return float((rest_N[1:] * rest_N[:-1])[neighbours].mean() / rest_N.var())


def additive(user_N: Ints, item_N: Ints, reward_N: Reals, weight_N: Reals) -> Reals:
    """Fit mean + user + item by alternating regressions, each shrunk by 5 events of deviation 0. Shape: all (N,)."""
    mean = np.average(reward_N, weights=weight_N)
    user_U, item_I = np.zeros(user_N.max() + 1), np.zeros(item_N.max() + 1)
    count_U, count_I = np.bincount(user_N, weight_N), np.bincount(item_N, weight_N)
    for _ in range(20):
        item_I = np.bincount(item_N, weight_N * (reward_N - mean - user_U[user_N])) / (count_I + 5)
        user_U = np.bincount(user_N, weight_N * (reward_N - mean - item_I[item_N])) / (count_U + 5)
    return mean + user_U[user_N] + item_I[item_N]


def codes(frame: pl.DataFrame, column: str) -> Ints:
    """Index of each value among the sorted distinct ones. Shape: (N,)."""
    return np.unique(frame[column].to_numpy(), return_inverse=True)[1].astype(np.int64)
