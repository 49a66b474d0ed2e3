"""Pairs of items at one history, made once before training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import torch

from recalign.errors import InputError
from recalign.posttrain.pairing import Met, Pair, apart, by_event, from_policy, logged_pairs, target_against, uniform
from recalign.posttrain.upstream import UpstreamData
from recalign.sequences import Windows
from recalign.sequences.splits import TRAIN

Pairing = Literal["logged", "sampled", "generated", "ensemble"]


class Kind(NamedTuple):
    """Upstream checkpoints of a kind of pair, and what the error says where no pair can be made."""

    upstream: dict[str, str]
    losers: str
    remedy: str


_DRAW_MORE = "draw more data.candidates, or use a reward that differs between a user's events"
KINDS: dict[Pairing, Kind] = {
    "logged": Kind(
        {},
        "of the same user below that mean beside it",
        "use a reward that differs between a user's events, or pairs sampled",
    ),
    "sampled": Kind({}, "drawn from the catalogue that the user had not met", _DRAW_MORE),
    "generated": Kind({"init_from": "recommender"}, "drawn from the policy that the user had not met", _DRAW_MORE),
    "ensemble": Kind(
        {"init_from": "recommender", "reward_model": "reward"},
        "whose interval lies below another's",
        "use a smaller data.width, or draw more data.candidates",
    ),
}


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
        self,
        pairs: Pairing = "logged",
        losers: int = 1,
        candidates: int = 16,
        width: float = 1.0,
        **upstream: Any,
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
        return KINDS[init_args["pairs"]].upstream

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
            raise InputError(
                f"no pairs can be made: of {len(kept):,} training events of users {self.users}, {good.sum():,} have a "
                f"reward above their user's earlier mean, and none has {self.losers} {KINDS[self.pairs].losers}",
                where="data.pairs",
                remedy=KINDS[self.pairs].remedy,
            )
        winner, losers = np.where(kept, item[:, 0], windows.target), np.where(kept[:, None], item[:, 1:], 0)
        return dataclasses.replace(windows, target=winner, rejected=losers)

    def _items(self, windows: Windows, expected: np.ndarray) -> np.ndarray:
        """The winner of each target's pair and its losers, 0 where there is none. Shape: int64 (targets, 1 + N)."""
        if self.pairs == "logged":
            user = np.repeat(windows.user, np.diff(windows.offset))
            stop = np.searchsorted(user, user, side="right")
            first = self._first_chosen()[windows.state + 1]
            random = np.random.default_rng(self.seed)
            of_log = (windows.reward, expected, first, windows.state, stop)
            found = logged_pairs(*of_log, self.losers, self.candidates, random)
            return np.where(found >= 0, windows.target[found], 0)
        batches = self.loader(windows, seen=False)
        rows = len(self.sequences.frame)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return by_event(self._pair(), batches, rows, self.losers)[windows.event]

    def _first_chosen(self) -> np.ndarray:
        """Where each known event's user chose its item for the first time, a flat index. Shape: int64 (events,)."""
        user = np.repeat(np.arange(len(self.sequences.users)), np.diff(self.sequences.offset))
        chosen = user * (self.num_items + 1) + self.sequences.item
        _, first, of = np.unique(chosen, return_index=True, return_inverse=True)
        return first[of]

    def _pair(self) -> Pair:
        trained = self.frame.filter((pl.col("split") == TRAIN) & (pl.col("item_id") > 0))
        met = Met(trained["user"].cast(pl.Int64).to_numpy(), trained["item_id"].to_numpy(), self.num_items)
        if self.pairs == "sampled":
            return target_against(uniform(self.num_items, self.candidates), met, self.losers)
        draw = from_policy(self.network("policy", f"pairs {self.pairs!r}").net, self.candidates)
        if self.pairs == "generated":
            return target_against(draw, met, self.losers)
        reward = self.network("reward", f"pairs {self.pairs!r}").net
        if reward.members == 1:
            raise InputError(
                "intervals need several members, and this reward model has one",
                where="data.reward_model",
                remedy="train an ensemble: recalign fit reward --model.members 5",
            )
        return apart(draw, met, reward, self.width, self.losers)
