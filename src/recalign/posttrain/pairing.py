"""Ways to make pairs of items at one history: a winner and its losers.

Legend: E events, T states of a batch, N losers a pair, C candidates, K members of a reward ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from recalign.recommender.policy import Policy
from recalign.reward import RewardEnsemble
from recalign.sequences import Batch

Draw = Callable[[Batch], Tensor]
"""Candidates at each state of a batch. Shape: -> int64 (T, C)."""
Pair = Callable[[Batch], Tensor]
"""A winner and its losers at each state of a batch, item 0 where there are none. Shape: -> int64 (T, 1 + N)."""


def logged_pairs(
    reward_E: np.ndarray,
    mean_E: np.ndarray,
    first_E: np.ndarray,
    state_E: np.ndarray,
    stop_E: np.ndarray,
    losers: int,
    candidates: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Pair each event with a later one of the same user on the other side of the user's mean, at the event's history.

    The one above the mean wins. Among C later events drawn, the partner is the first on the other side; further losers
    are those drawn that lie below, each item once. Items that are in the history already are left out: as losers they
    would be lowered as repetitions.

    Args:
        reward_E: in the order of users and time; NaN where there is none (neither above nor below).
        mean_E: the user's expected reward before each event.
        first_E: int64, index of the user's first event with the same item.
        state_E: int64, index of the newest event of the history before each.
        stop_E: int64, one past the last event of each event's user.
        losers: N.
        candidates: C, later events drawn, with replacement.
        random: the generator.

    Returns:
        Positions of winner and losers, -1 where there is none. Shape: int64 (E, 1 + N).
    """
    own_E1, stop_E1, mean_E1 = np.arange(len(reward_E))[:, None], stop_E[:, None], mean_E[:, None]
    ahead_EC = random.random((len(reward_E), candidates)) * (stop_E1 - own_E1 - 1)
    drawn_EC = np.minimum(own_E1 + 1 + ahead_EC.astype(np.int64), stop_E1 - 1)  # nothing ahead: the event itself
    pool = np.concatenate([own_E1, drawn_EC], axis=1)
    open_ = first_E[pool] > state_E[:, None]
    apart_EC = (reward_E[drawn_EC] - mean_E1) * (reward_E[own_E1] - mean_E1) < 0
    apart_EC &= open_[:, 1:] & open_[:, :1]
    partner_E1 = np.take_along_axis(drawn_EC, apart_EC.argmax(axis=1)[:, None], axis=1)
    winner_E1 = np.where(reward_E[partner_E1] > reward_E[own_E1], partner_E1, own_E1)
    below = apart_EC.any(axis=1, keepdims=True) & open_ & (reward_E[pool] < mean_E1)
    again = repeated(torch.from_numpy(np.where(below, first_E[pool], -1))).numpy()
    pool = np.where(below & ~again, pool, -1)
    first = np.argsort(pool < 0, axis=1, kind="stable")[:, :losers]
    return np.concatenate([winner_E1, np.take_along_axis(pool, first, axis=1)], axis=1)


def repeated(item_TC: Tensor) -> Tensor:
    """Mark values that occur further left in their row. Shape: int64 (T, C) -> bool (T, C)."""
    sorted_TC, order_TC = item_TC.sort(dim=1, stable=True)
    again_TC = torch.zeros_like(item_TC, dtype=torch.bool)
    again_TC[:, 1:] = sorted_TC[:, 1:] == sorted_TC[:, :-1]
    return torch.zeros_like(again_TC).scatter(1, order_TC, again_TC)


@torch.no_grad()
def by_event(pair: Pair, batches: Iterable[Batch], rows: int, losers: int) -> np.ndarray:
    """The pair of every target, by row of the event table. Shape: int64 (rows, 1 + N), 0 elsewhere."""
    out = torch.zeros(rows, 1 + losers, dtype=torch.int64)
    for batch in batches:
        out[batch.event_T] = pair(batch)
    return out.numpy()


class Met:
    """The items that each user met in training.

    Args:
        user_E, item_E: int64, the training events.
        num_items: V.
    """

    def __init__(self, user_E: np.ndarray, item_E: np.ndarray, num_items: int) -> None:
        self.num_items = num_items
        self.keys = torch.from_numpy(np.unique(user_E * (num_items + 1) + item_E))

    def __call__(self, batch: Batch, item_TC: Tensor) -> Tensor:
        """Whether each target's user met each item. Shape: int64 (T, C) -> bool (T, C)."""
        user_T = batch.user_B[batch.row_T]
        return torch.isin(user_T[:, None] * (self.num_items + 1) + item_TC, self.keys)


def uniform(num_items: int, count: int) -> Draw:
    """Draw candidates uniformly from the catalogue."""
    return lambda batch: torch.randint(1, num_items + 1, (len(batch.target_T), count))


def from_policy(policy: Policy, count: int) -> Draw:
    """Draw candidates from a policy."""
    return lambda batch: policy.sample(policy.encode(batch), count)


def target_against(draw: Draw, met: Met, losers: int) -> Pair:
    """Pair the logged item with the first distinct candidates that its user did not meet."""

    def pair(batch: Batch) -> Tensor:
        candidate_TC = draw(batch)
        met_TC = met(batch, candidate_TC) | repeated(candidate_TC)
        first_TN = met_TC.long().argsort(dim=1, stable=True)[:, :losers]
        loser_TN = candidate_TC.gather(1, first_TN).masked_fill(met_TC.gather(1, first_TN), 0)
        return torch.cat([batch.target_T[:, None], loser_TN], dim=1)

    return pair


def apart(draw: Draw, met: Met, reward: RewardEnsemble, width: float, losers: int) -> Pair:
    """Pair the candidate with the highest lower bound with those of the lowest upper bounds, by a reward ensemble.

    A candidate's interval is its mean over the members +- ``width`` standard deviations between them. A pair is kept if
    LB(winner) > UB(loser) for every loser. Items that the user met and repeated draws are left out.

    The rejection-sampling form of DPO and IPO in the A-SFT post (Netflix TechBlog, October 2025), whose own wording
    would keep overlapping intervals; its number of candidates and width are not public.
    """

    def pair(batch: Batch) -> Tensor:
        candidate_TC = draw(batch)
        met_TC = met(batch, candidate_TC) | repeated(candidate_TC)
        reward_KTC = reward.predictions(reward.states(batch), candidate_TC)
        mean_TC, half_TC = reward_KTC.mean(dim=0), width * reward_KTC.std(dim=0)
        lower_TC = (mean_TC - half_TC).masked_fill(met_TC, -torch.inf)
        upper_TC = (mean_TC + half_TC).masked_fill(met_TC, torch.inf)
        low_T1, best_T1 = lower_TC.max(dim=1, keepdim=True)
        high_TN, worst_TN = upper_TC.topk(losers, dim=1, largest=False)
        item_TC = candidate_TC.gather(1, torch.cat([best_T1, worst_TN], dim=1))
        return item_TC.masked_fill((low_T1 <= high_TN).any(dim=1, keepdim=True), 0)

    return pair
