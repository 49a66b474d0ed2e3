"""Moments of a log, and how well simple models predict its next items and rewards.

Logs are frames with the columns user, item, timestamp and reward (null where not recorded).

Shape legend: U users, I items, N events, L events of a history, K latent dimensions.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Reals = NDArray[np.floating]
Ints = NDArray[np.int64]

RIDGE = 8.0  # penalty of the factorisation: near the best for ML-100K


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


def next_item(events: pl.DataFrame, last: int = 5, recent: int = 5, k: int = 10) -> dict[str, float]:
    """Hit rate at k on the last events of each user, for three rankings by counts, without items seen before.

    popularity: by number of events; history: by similarity (of audiences) to all items of the user's history; recent:
    to its most recent items only. History above popularity: users differ. Recent above history: order matters.
    """
    events = events.sort("user", "timestamp", maintain_order=True)
    user_N, item_N = codes(events, "user"), codes(events, "item")
    start_N = np.searchsorted(user_N, user_N)
    known_N = np.arange(len(user_N)) - start_N < np.bincount(user_N)[user_N] - last
    seen_UI = np.zeros((user_N.max() + 1, item_N.max() + 1), dtype=np.float32)
    seen_UI[user_N[known_N], item_N[known_N]] = 1
    count_I = seen_UI.sum(axis=0)
    likeness_II = (seen_UI.T @ seen_UI) / np.sqrt(np.outer(count_I + 5, count_I + 5))
    hits: dict[str, list[bool]] = {"popularity": [], "history": [], "recent": []}
    for event in np.flatnonzero(~known_N):
        before_L = item_N[start_N[event] : event]
        likeness_LI = likeness_II[before_L]
        scores = {"popularity": count_I, "history": likeness_LI.sum(0), "recent": likeness_LI[-recent:].sum(0)}
        for name, score_I in scores.items():
            ahead_I = score_I >= score_I[item_N[event]]  # with the target itself: its rank, ties against it
            ahead_I[before_L] = False
            hits[name].append(ahead_I.sum() <= k)
    return {f"next/{name}": float(np.mean(hit)) for name, hit in hits.items()}


def predictable(events: pl.DataFrame, rank: int = 4) -> dict[str, float]:
    """Share of the variance of a held-out tenth of the rewards that user and item explain, and with a factorisation."""
    rated = events.drop_nulls("reward")
    rng = np.random.default_rng(0)
    weight_N = (rng.random(len(rated)) < 0.9).astype(np.float64)
    user_N, item_N, reward_N = codes(rated, "user"), codes(rated, "item"), rated["reward"].to_numpy()
    rest_N = reward_N - additive(user_N, item_N, reward_N, weight_N)
    match_N = _match(rng, user_N, item_N, rest_N, weight_N, rank)
    held_N = weight_N == 0
    variance = reward_N[held_N].var()
    return {
        "explained/user_item": 1 - (rest_N[held_N] ** 2).mean() / variance,
        "explained/with_match": 1 - ((rest_N - match_N)[held_N] ** 2).mean() / variance,
    }


def _match(rng: np.random.Generator, user_N: Ints, item_N: Ints, rest_N: Reals, weight_N: Reals, rank: int) -> Reals:
    """Factorise what user and item leave, by alternating ridge regressions."""
    factor_UK: Reals = np.zeros((user_N.max() + 1, rank))
    factor_IK: Reals = rng.normal(scale=0.3, size=(item_N.max() + 1, rank))
    for _ in range(15):
        factor_UK = _ridge(user_N, factor_IK[item_N], rest_N, weight_N, len(factor_UK))
        factor_IK = _ridge(item_N, factor_UK[user_N], rest_N, weight_N, len(factor_IK))
    return (factor_UK[user_N] * factor_IK[item_N]).sum(axis=1)


def _ridge(group_N: Ints, factor_NK: Reals, target_N: Reals, weight_N: Reals, groups: int) -> Reals:
    """Regress the target on the factors, in each group."""
    rank = factor_NK.shape[1]
    square_GKK, product_GK = np.zeros((groups, rank, rank)), np.zeros((groups, rank))
    weighted_NK = weight_N[:, None] * factor_NK
    np.add.at(square_GKK, group_N, weighted_NK[:, :, None] * factor_NK[:, None, :])
    np.add.at(product_GK, group_N, weighted_NK * target_N[:, None])
    return np.linalg.solve(square_GKK + RIDGE * np.eye(rank), product_GK[:, :, None])[:, :, 0]
