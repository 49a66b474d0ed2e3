"""The chance with which a bundle would draw the lists of a log: it is asked again, with what people had chosen before.

Suffixes: K places, N = V + 1 items with the padding item at 0, F features, U lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.serve.loop.served import Histories
from recalign.serve.server.bundle import Bundle, log_softmax
from recalign.serve.server.explore import log_chances
from recalign.serve.server.request import LONGEST, Explore, Request


@dataclass(frozen=True)
class Asked:
    """What a bundle says of some lists.

    Attributes:
        logp: of each list, the log-probability of each item given those before it. Shape: (K,) each.
        told: of each shown item, what a model of rewards may read of it (`FEATURES`). Shape: (K, F) each.
        expected: the same of the item that the bundle would draw there instead. Shape: (K, F) each.
        hidden: items that a request left out.
    """

    logp: list[np.ndarray]
    told: list[np.ndarray]
    expected: list[np.ndarray]
    hidden: np.ndarray

    def take(self, places: np.ndarray) -> Asked:
        """Of some of the lists."""
        logp, told, expected = ([one[place] for place in places] for one in (self.logp, self.told, self.expected))
        return Asked(logp, told, expected, self.hidden[places])


FEATURES = 2
"""A log-probability among all items that may be shown, and its square."""


def ask(bundle: Bundle, lists: pl.DataFrame, histories: Histories, policies: Sequence[Explore]) -> Asked:
    """Ask a bundle for the requests of some lists, and for the chances of what was shown.

    Args:
        bundle: of the candidate, or of the version that showed the lists.
        lists: of `Served`.
        histories: of its events.
        policies: how the bundle would fill each list.

    Raises:
        InputError: the bundle reads ids of another kind, or names items that the log does not.
    """
    rows = list(lists.iter_rows(named=True))
    encoded = [bundle.encode(_request(bundle, row, histories)) for row in rows]
    number = [bundle.catalogue.numbers(f"items of the list {row['decision']}", row["items"]) for row in rows]
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for group in bundle.groups(encoded):
        logit_BN = bundle.run([encoded[place] for place in group], ["logits"])[0]
        for place, logit_N in zip(group, logit_BN, strict=True):
            score_N = bundle.left(encoded[place], logit_N)
            found[place] = of_list(score_N, number[place], policies[place])
    logp, told, expected = ([found[place][part] for place in range(len(rows))] for part in range(3))
    return Asked(logp, told, expected, np.array([len(one.hidden_S) for one in encoded], np.int64))


def of_list(score_N: np.ndarray, item_K: np.ndarray, policy: Explore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a policy says of a list. Shape: (K,), (K, F), (K, F).

    Args:
        score_N: -inf for what may not be shown.
        item_K: 0 for an item that the catalogue does not have.
        policy: how the list would be filled. From the first item on that it could not show, nothing has a chance.
    """
    logp_K, full_N = np.full(len(item_K), -np.inf), log_softmax(score_N)
    known = int(np.cumprod(np.isfinite(score_N[item_K]) & (item_K > 0)).sum())
    if known:
        logp_K[:known] = log_chances(score_N / policy.temperature, item_K[:known], min(policy.fixed, known))
    first = min(policy.fixed, known)
    ranked_M = np.argsort(-score_N, kind="stable")[:first]
    logp_K[:first][item_K[:first] != ranked_M] = -np.inf
    return logp_K, *_features(full_N, score_N / policy.temperature, item_K, first, ranked_M)


def _features(
    full_N: np.ndarray, score_N: np.ndarray, item_K: np.ndarray, fixed: int, ranked_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`FEATURES` of a list's items, and their mean over what would be drawn in their places. Shape: (K, F) each."""
    bounded_N = np.maximum(full_N, LEAST)
    each_NF = np.stack([bounded_N, bounded_N**2], axis=1)
    left_N = score_N.copy()
    expected_KF = np.empty((len(item_K), FEATURES))
    for place, item in enumerate(item_K):
        if place < fixed:
            expected_KF[place] = each_NF[ranked_M[place]]
        else:
            some = np.isfinite(left_N.max())
            expected_KF[place] = np.exp(log_softmax(left_N)) @ each_NF if some else each_NF[item]
        left_N[item] = -np.inf
    return each_NF[item_K], expected_KF


LEAST = -30.0
"""Log-probability below which a model of rewards tells no items apart."""


def _request(bundle: Bundle, row: dict[str, Any], histories: Histories) -> Request:
    """What was asked, as far as the log tells: the history, and whether what it holds may be shown again."""
    history = histories.before(row["user"], row["timestamp"], LONGEST)
    return bundle.catalogue.request(*history, row["timestamp"], k=1, seen=row["seen"])


def require_known(bundle: Bundle, lists: pl.DataFrame) -> None:
    """Refuse a bundle that has none of the items that were shown."""
    if not set(lists["items"].explode().to_list()) & set(bundle.catalogue.ids):
        what = f"the bundle {bundle.version} has none of the items that the log shows"
        raise InputError(what, where=str(bundle.folder), remedy="name a run, or a bundle, of the same items")
