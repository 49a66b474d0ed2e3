"""Tables as `recalign feedback` writes them, of people who come back week after week; nothing is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

DAY = 86_400_000_000
ITEMS, K = 20, 4


def weeks(seed: int, users: int = 300, count: int = 8, unknown: float = 0.03, version: str = "v1") -> pl.DataFrame:
    """Drawn lists of K items, what was chosen from them, and outcomes that no list explains, without change."""
    draw = np.random.default_rng(seed)
    taste_UV = draw.normal(size=ITEMS) + draw.normal(size=(users, ITEMS))
    often_U = draw.beta(2, 1, users)
    who_N = np.concatenate([np.flatnonzero(draw.random(users) < often_U) for _ in range(count)])
    starts_N = np.cumsum(np.diff(who_N, prepend=-1) < 0) * 7  # users come in their order, week after week
    when_N = ((starts_N + 7 * draw.random(len(who_N))) * DAY).astype(int)
    when_N[[0, -1]] = [0, count * 7 * DAY - 1]
    score_NV = 0.7 * taste_UV[who_N]
    item_NK = np.argsort(-(score_NV + draw.gumbel(size=score_NV.shape)), axis=1)[:, :K]
    weight_NV = np.exp(score_NV)
    own_NK = np.take_along_axis(weight_NV, item_NK, axis=1)
    logp_NK = np.log(own_NK / (weight_NV.sum(axis=1, keepdims=True) - np.cumsum(own_NK, axis=1) + own_NK))
    liked_NK = np.take_along_axis(taste_UV[who_N], item_NK, axis=1)
    chosen_NK = draw.random(item_NK.shape) < 1 / (1 + np.exp(0.5 - liked_NK))
    stars_NK = np.clip(np.round(3 + liked_NK + 0.5 * draw.normal(size=item_NK.shape)), 1, 5)
    shown = rows(who_N, when_N, item_NK, chosen_NK, stars_NK, logp_NK, version)
    alone_M = np.repeat(np.arange(len(who_N)), draw.poisson(0.5, len(who_N)))
    new_M = draw.random(len(alone_M)) < unknown
    alone = pl.DataFrame(
        {
            "user": who_N[alone_M],
            "item": np.where(new_M, ITEMS + 1, draw.integers(ITEMS, size=len(alone_M))),
            "timestamp": when_N[alone_M] + 1,
            "reward": 3.0,
            "shown": False,
            "chosen": True,
            "meets": True,
        }
    ).with_columns(pl.col("user").cast(pl.String))
    return pl.concat([shown, alone], how="diagonal_relaxed").sort("timestamp", maintain_order=True)


def rows(
    who_N: Any, when_N: Any, item_NK: Any, chosen_NK: Any, reward_NK: Any, logp_NK: Any, version: str = "v1"
) -> pl.DataFrame:
    """A row a shown item; lists of K items each."""
    who_N, when_N, item_NK, chosen_NK, reward_NK, logp_NK = map(
        np.asarray, (who_N, when_N, item_NK, chosen_NK, reward_NK, logp_NK)
    )
    lists, places = item_NK.shape
    each = np.repeat(np.arange(lists), places)
    return pl.DataFrame(
        {
            "user": who_N[each],
            "item": item_NK.ravel(),
            "timestamp": when_N[each],
            "reward": np.where(chosen_NK, reward_NK, 0.0).ravel(),
            "shown": True,
            "chosen": chosen_NK.ravel(),
            "position": np.tile(np.arange(1, places + 1), lists),
            "log_prob": pl.Series(logp_NK.ravel().astype(float)).fill_nan(None),
            "fixed": 0,
            "decision": pl.Series(each).cast(pl.String) + "-" + version,
            "version": version,
            "meets": True,
        }
    ).with_columns(pl.col("user").cast(pl.String))
