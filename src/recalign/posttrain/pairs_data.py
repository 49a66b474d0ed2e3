"""Pairs of items at one history, made once before training.

Legend: E events, T states of a batch, N losers a pair, C candidates, K members of a reward ensemble.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.errors import InputError
from recalign.posttrain.data import UpstreamData
from recalign.reward import RewardEnsemble
from recalign.sequences import Windows
from recalign.sequences.splits import TRAIN

Pairing = Literal["logged", "sampled", "generated", "ensemble"]


_DRAW_MORE = "draw more data.candidates, or use a reward that differs between a user's events"
NONE_FOUND: dict[Pairing, tuple[str, str]] = {
    "logged": (
        "of the same user below that mean beside it",
        "use a reward that differs between a user's events, or pairs sampled",
    ),
    "sampled": ("drawn from the catalogue that the user had not met", _DRAW_MORE),
    "generated": ("drawn from the policy that the user had not met", _DRAW_MORE),
    "ensemble": ("whose interval lies below another's", "use a smaller data.width, or draw more data.candidates"),
}
"""What the error says where no pair can be made: the losers that were looked for, and the remedy."""


class PairData(UpstreamData):
    """Pairs (history, winner, losers), at the histories of training events.

    - ``logged``: of two logged events of a user, one with a reward above the user's earlier mean against one below it,
      at the history before both;
    - ``sampled``: a logged event against items drawn from the catalogue;
    - ``generated``: a logged event against items drawn from the starting policy;
    - ``ensemble``: items drawn from the starting policy whose intervals under the reward ensemble do not overlap.

    For ``sampled`` and ``generated``, winners are events with a reward above the user's earlier mean
    (`recalign.sequences.reward_means`). Items drawn were never met by the user in training. Nothing of validation or
    test is read. Pairs are the same in all epochs. Events without a pair stay in the batches, with nothing rejected, so
    that all methods take the same steps.

    Args:
        pairs: which pairs.
        losers: N, items that each winner is preferred to.
        candidates: items or later events drawn at each history, from which pairs are taken.
        width: ``ensemble``: half the width of an interval, in standard deviations between the members.
        **upstream: what `UpstreamData` takes.

    Raises (before training):
        InputError: no pair can be made.
    """

    def __init__(
        self, pairs: Pairing = "logged", losers: int = 1, candidates: int = 16, width: float = 1.0, **upstream: Any
    ) -> None:
        super().__init__(**upstream)
        self.check_settings({"losers": losers, "candidates": candidates})
        self.pairs: Pairing = pairs
        self.losers, self.candidates, self.width = losers, candidates, width

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        if not 1 <= given.get("losers", 1) < given.get("candidates", 2):
            what = f"{given['losers']} losers of {given['candidates']} candidates"
            remedy = "ask for one loser or more, and for more candidates than losers"
            raise InputError(what, where="data.losers, data.candidates", remedy=remedy)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        """The checkpoints that these settings need, by argument."""
        needs = {}
        if init_args["pairs"] in ("generated", "ensemble"):
            needs["init_from"] = "recommender"
        if init_args["pairs"] == "ensemble":
            needs["reward_model"] = "reward"
        return needs

    def training(self) -> Windows:
        return self.paired

    @functools.cached_property
    def share(self) -> float:
        """The share of the training events at whose history there is a pair."""
        rejected = self.paired.rejected
        assert rejected is not None
        return float((rejected > 0).all(axis=1).mean())

    @functools.cached_property
    def paired(self) -> Windows:
        """All training windows: where there is a pair, its winner is the target; elsewhere nothing is rejected."""
        windows = super().training()
        expected = self.expected_rewards(windows.event)["user"].to_numpy()
        item, good = self._items(windows, expected), windows.reward > expected
        kept = (item > 0).all(axis=1) & (item[:, 1:] != item[:, :1]).all(axis=1)
        if self.pairs in ("sampled", "generated"):
            kept &= good
        if not kept.any():
            looked_for, remedy = NONE_FOUND[self.pairs]
            raise InputError(
                f"no pairs can be made: of {len(kept):,} training events of users {self.users}, {good.sum():,} have a "
                f"reward above their user's earlier mean, and none has {self.losers} {looked_for}",
                where="data.pairs",
                remedy=remedy,
            )
        winner, losers = np.where(kept, item[:, 0], windows.target), np.where(kept[:, None], item[:, 1:], 0)
        return dataclasses.replace(windows, target=winner, rejected=losers)

    def _items(self, windows: Windows, expected: np.ndarray) -> np.ndarray:
        """The winner of each target's pair and its losers, 0 where there is none. Shape: int64 (targets, 1 + N)."""
        if self.pairs == "logged":
            return self._logged(windows, expected)
        trained = self.frame.filter((pl.col("split") == TRAIN) & (pl.col("item_id") > 0))
        met_N = torch.from_numpy(np.unique(self._keys(trained["user"].cast(pl.Int64), trained["item_id"])))
        item_EN = torch.zeros(len(self.sequences.frame), 1 + self.losers, dtype=torch.int64)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            policy = None if self.pairs == "sampled" else self.network("policy", f"pairs {self.pairs!r}").net
            reward = self._ensemble() if self.pairs == "ensemble" else None
            for batch in self.loader(windows, seen=False):
                if policy is None:
                    candidate_TC = torch.randint(1, self.num_items + 1, (len(batch.target_T), self.candidates))
                else:
                    candidate_TC = policy.sample(policy.encode(batch), self.candidates)
                met_TC = torch.isin(self._keys(batch.user_B[batch.row_T, None], candidate_TC), met_N)
                barred_TC = met_TC | repeated(candidate_TC)
                if reward is None:
                    item_TN = target_against(batch.target_T, candidate_TC, barred_TC, self.losers)
                else:
                    reward_KTC = reward.predictions(reward.states(batch), candidate_TC)
                    item_TN = apart(candidate_TC, barred_TC, reward_KTC, self.width, self.losers)
                item_EN[batch.event_T] = item_TN
        return item_EN.numpy()[windows.event]

    def _logged(self, windows: Windows, expected: np.ndarray) -> np.ndarray:
        sequences = self.sequences
        everyone = np.repeat(np.arange(len(sequences.users)), np.diff(sequences.offset))
        _, first, of = np.unique(self._keys(everyone, sequences.item), return_index=True, return_inverse=True)
        user = np.repeat(windows.user, np.diff(windows.offset))
        stop = np.searchsorted(user, user, side="right")
        of_log = (windows.reward, expected, first[of][windows.state + 1], windows.state, stop)
        found = logged_pairs(*of_log, self.losers, self.candidates, np.random.default_rng(self.seed))
        return np.where(found >= 0, windows.target[found], 0)

    def _keys(self, user: Any, item: Any) -> Any:
        """One number for each user and item."""
        return user * (self.num_items + 1) + item

    def _ensemble(self) -> RewardEnsemble:
        reward = self.network("reward", f"pairs {self.pairs!r}").net
        if reward.members == 1:
            raise InputError(
                "intervals need several members, and this reward model has one",
                where="data.reward_model",
                remedy="train an ensemble: recalign fit reward --model.members 5",
            )
        return reward


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


def target_against(target_T: Tensor, candidate_TC: Tensor, barred_TC: Tensor, losers: int) -> Tensor:
    """Pair the logged item with the first candidates that are not barred. Shape: -> int64 (T, 1 + N), 0 for none."""
    first_TN = barred_TC.long().argsort(dim=1, stable=True)[:, :losers]
    loser_TN = candidate_TC.gather(1, first_TN).masked_fill(barred_TC.gather(1, first_TN), 0)
    return torch.cat([target_T[:, None], loser_TN], dim=1)


def apart(candidate_TC: Tensor, barred_TC: Tensor, reward_KTC: Tensor, width: float, losers: int) -> Tensor:
    """Pair the candidate with the highest lower bound with those of the lowest upper bounds, by a reward ensemble.

    A candidate's interval is its mean over the members +- ``width`` standard deviations between them. A pair is kept if
    LB(winner) > UB(loser) for every loser.

    The rejection-sampling form of DPO and IPO in the A-SFT post (Netflix TechBlog, October 2025), whose own wording
    would keep overlapping intervals; its number of candidates and width are not public.

    Shape: -> int64 (T, 1 + N), 0 where there is no pair.
    """
    mean_TC, half_TC = reward_KTC.mean(dim=0), width * reward_KTC.std(dim=0)
    lower_TC = (mean_TC - half_TC).masked_fill(barred_TC, -torch.inf)
    upper_TC = (mean_TC + half_TC).masked_fill(barred_TC, torch.inf)
    low_T1, best_T1 = lower_TC.max(dim=1, keepdim=True)
    high_TN, worst_TN = upper_TC.topk(losers, dim=1, largest=False)
    item_TC = candidate_TC.gather(1, torch.cat([best_T1, worst_TN], dim=1))
    return item_TC.masked_fill((low_T1 <= high_TN).any(dim=1, keepdim=True), 0)
