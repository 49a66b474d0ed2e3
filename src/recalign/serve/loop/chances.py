"""Probabilities with which a bundle would draw logged lists: it scores items again, from each user's earlier choices.

Suffixes: K positions, N = V + 1 items with the padding item at 0, U lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.serve.loop.served import UserHistories
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.explore import log_chances
from recalign.serve.server.request import MAX_HISTORY, Explore, Request


def ask(
    bundle: Bundle, lists: pl.DataFrame, histories: UserHistories, policies: Sequence[Explore]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Log-probabilities of logged lists under a bundle.

    Args:
        bundle: of the candidate, or of the version that showed the lists.
        lists: as `Served.lists`.
        histories: of `Served.events`.
        policies: how the bundle would draw each list.

    Returns:
        For each list, the log-probability of each item given those before it, and how many items its request hides.
        Shape: (K,) each, int64 (U,).

    Raises:
        InputError: item ids are texts in the bundle and integers in the log, or the reverse.
    """
    rows = list(lists.iter_rows(named=True))
    encoded = [bundle.encode(_request(bundle, row, histories)) for row in rows]
    number = [bundle.catalogue.numbers(f"items of the list {row['decision']}", row["items"]) for row in rows]
    logp = bundle.map_scores(encoded, lambda place, score_N: of_list(score_N, number[place], policies[place]))
    return logp, np.array([len(one.hidden_S) for one in encoded], np.int64)


def of_list(score_N: np.ndarray, item_K: np.ndarray, policy: Explore) -> np.ndarray:
    """The log-probability of each item of a list, given those before it. Shape: (K,).

    Args:
        score_N: -inf for items that may not be shown.
        item_K: 0 for items outside the catalogue.
        policy: how the list would be drawn. Log-probabilities are -inf from the first item that it could not show.
    """
    logp_K = np.full(len(item_K), -np.inf)
    known = int(np.cumprod(np.isfinite(score_N[item_K]) & (item_K > 0)).sum())
    if known:
        logp_K[:known] = log_chances(score_N / policy.temperature, item_K[:known], min(policy.fixed, known))
    first = min(policy.fixed, known)
    ranked_M = np.argsort(-score_N, kind="stable")[:first]
    logp_K[:first][item_K[:first] != ranked_M] = -np.inf
    return logp_K


def _request(bundle: Bundle, row: dict[str, Any], histories: UserHistories) -> Request:
    history = histories.before(row["user"], row["timestamp"], MAX_HISTORY)
    return bundle.catalogue.request(*history, row["timestamp"], k=1, seen=row["seen"])


def require_known(bundle: Bundle, lists: pl.DataFrame) -> None:
    """Refuse a bundle with none of the items in the lists."""
    if not set(lists["items"].explode().to_list()) & set(bundle.catalogue.ids):
        what = f"the bundle {bundle.version} has none of the items that the log shows"
        raise InputError(what, where=str(bundle.folder), remedy="name a run, or a bundle, of the same items")
