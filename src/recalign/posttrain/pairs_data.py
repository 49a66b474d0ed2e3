"""Preference pairs of items, made once before training.

Legend: E events, T states of a batch, N losers per pair, C candidates.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.data.sequences import EventDataModule, Windows
from recalign.data.sequences.splits import TRAIN
from recalign.errors import AtLeast2, InputError, Positive
from recalign.posttrain.state_values import starting_policy
from recalign.recommender.checkpoint import Loaded
from recalign.recommender.policy import Policy
from recalign.recommender.prior import training_pass
from recalign.reward.data import RewardData

Pairing = Literal["logged", "sampled", "generated"]

LOSERS: dict[Pairing, str] = {
    "logged": "of the same user below that mean",
    "sampled": "drawn from the catalogue that the user has not seen",
    "generated": "drawn from the policy that the user has not seen",
}
"""The losers of each kind of pairs, for an error message."""


class PairData(RewardData):
    """Pairs (history, winner, losers), at the histories of training events.

    - ``logged``: two logged events of a user, one with a reward above the user's earlier mean, one below, at the
      history before both;
    - ``sampled``: a logged event as winner, losers drawn from the catalogue;
    - ``generated``: a logged event as winner, losers drawn from the starting policy.

    For ``sampled`` and ``generated``, winners are events with a reward above the user's earlier mean
    (`recalign.data.sequences.reward_means`). Drawn items are never ones that the user has seen in training. If a log
    has skipped rows (shown but not chosen), a chosen event wins over those of its request, except rows with at least
    its reward, whatever the kind of pairs. Validation and test events are not read. Pairs are the same in all epochs.
    Events without a pair stay in the batches without losers, so that all methods take the same number of steps.

    Args:
        pairs: how pairs are made.
        losers: N, losers per winner.
        candidates: C, items or later events drawn at each history to make pairs.
        init_from: checkpoint of the starting policy, for ``generated``; null in a configuration: the one of this log
            and seed.
        policy: the starting policy itself, instead of a checkpoint (Python only); copied.
        **data: arguments of `recalign.reward.RewardData`.

    Raises (before training):
        InputError: no pair can be made.
    """

    reads_skipped = False

    def __init__(
        self,
        pairs: Pairing = "logged",
        losers: Positive[int] = 1,
        candidates: AtLeast2 = 16,
        init_from: str | None = None,
        policy: Policy | Loaded | None = None,
        **data: Any,
    ) -> None:
        super().__init__(**data)
        self.check_settings({"losers": losers, "candidates": candidates})
        if losers >= candidates:
            what, remedy = f"{losers} losers need more than {candidates} candidates", "set candidates above losers"
            raise InputError(what, where="data.losers, data.candidates", remedy=remedy)
        self.pairs: Pairing = pairs
        self.losers, self.candidates, self.start_args = losers, candidates, (init_from, policy)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        """The stages whose checkpoints these settings need, by argument name."""
        return {"init_from": "recommender"} if init_args["pairs"] == "generated" else {}

    def training(self) -> Windows:
        return self.paired

    @functools.cached_property
    def share(self) -> float:
        """Share of the training events that have a pair."""
        rejected = self.paired.rejected
        assert rejected is not None
        return float((rejected > 0).all(axis=1).mean())

    @functools.cached_property
    def paired(self) -> Windows:
        """Training windows with pairs: the target is the winner, ``rejected`` are the losers, 0 without a pair."""
        # RewardData.training refuses constant rewards; with skipped rows, these still make pairs.
        made = super().training() if self.sequences.skipped is None else EventDataModule.training(self)
        windows = made.in_memory()
        expected = self.expected_rewards(windows.event)["user"].to_numpy().astype(np.float32)  # like rewards
        item, good = self._items(windows, expected), windows.reward > expected
        kept = (item > 0).all(axis=1) & (item[:, 1:] != item[:, :1]).all(axis=1)
        if self.pairs != "logged":
            kept &= good
        real = self._skipped(windows)
        if not (kept.any() or real.any()):
            remedy = "use a reward that differs between a user's events, other pairs, or more data.candidates"
            raise InputError(
                f"no pairs can be made: of {len(kept):,} training events of users {self.users}, {good.sum():,} have a "
                f"reward above their user's earlier mean, and none has {self.losers} losers {LOSERS[self.pairs]}",
                where="data.pairs",
                remedy=remedy,
            )
        winner, losers = np.where(kept, item[:, 0], windows.target), np.where(kept[:, None], item[:, 1:], 0)
        shown = real[:, 0] > 0
        winner, losers = np.where(shown, windows.target, winner), np.where(shown[:, None], real, losers)
        return dataclasses.replace(windows, target=winner, rejected=losers)

    def _skipped(self, windows: Windows) -> np.ndarray:
        """Losers among the skipped rows of each target's request, 0 if there are none. Shape: (targets, N)."""
        out_TN, skipped = np.zeros((len(windows.event), self.losers), np.int64), self.sequences.skipped
        if skipped is None:
            return out_TN
        skipped = skipped.filter((pl.col("split") == TRAIN) & (pl.col("item_id") > 0))
        target = self.sequences.frame[windows.event].select("request", "item_id", "reward").with_row_index("target")
        both = target.join(skipped, on="request", suffix="_skipped")
        worse = (pl.col("reward_skipped") < pl.col("reward")).fill_null(True)  # without rewards, the choice decides
        both = both.filter(worse & (pl.col("item_id_skipped") != pl.col("item_id")))
        both = both.sample(fraction=1.0, shuffle=True, seed=self.seed)
        places = pl.int_range(self.losers) % pl.len()  # repeated if there are fewer than N
        drawn = both.group_by("target").agg(pl.col("item_id_skipped").gather(places))
        out_TN[drawn["target"].to_numpy()] = drawn["item_id_skipped"].list.to_array(self.losers).to_numpy()
        return out_TN

    def _items(self, windows: Windows, expected: np.ndarray) -> np.ndarray:
        """Winner and losers of each target's pair, 0 if there is none. Shape: int64 (targets, 1 + N)."""
        if self.pairs == "logged":
            return self._logged(windows, expected)
        trained = self.target_events.filter((pl.col("split") == TRAIN) & (pl.col("item_id") > 0))
        seen_N = torch.from_numpy(np.unique(self._keys(trained["user"].cast(pl.Int64), trained["item_id"])))
        warm = self.sequences.num_warm  # cold items could not be chosen
        item_EN = torch.zeros(len(self.sequences.frame), 1 + self.losers, dtype=torch.int64)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            policy = starting_policy(self, *self.start_args, "pairs 'generated'") if self.pairs == "generated" else None
            for batch in self.loader(windows, seen=False):
                if policy is None:
                    candidate_TC = torch.randint(1, warm + 1, (len(batch.target_T), self.candidates))
                else:
                    with training_pass(policy):
                        candidate_TC = policy.sample(policy.encode(batch), self.candidates)
                seen_TC = torch.isin(self._keys(batch.user_B[batch.row_T, None], candidate_TC), seen_N)
                excluded_TC = seen_TC | is_repeat(candidate_TC)
                item_EN[batch.event_T] = target_pairs(batch.target_T, candidate_TC, excluded_TC, self.losers)
        return item_EN.numpy()[windows.event]

    def _logged(self, windows: Windows, expected: np.ndarray) -> np.ndarray:
        sequences = self.sequences
        everyone = np.repeat(np.arange(len(sequences.users)), np.diff(sequences.offset))
        _, first, of = np.unique(self._keys(everyone, sequences.item), return_index=True, return_inverse=True)
        user = np.repeat(windows.user, np.diff(windows.offset))
        stop = np.searchsorted(user, user, side="right")
        first_E = first[of][np.searchsorted(sequences.event, windows.event)]
        of_log = (windows.reward, expected, first_E, windows.state, stop)
        found = logged_pairs(*of_log, self.losers, self.candidates, np.random.default_rng(self.seed))
        return np.where(found >= 0, windows.target[found], 0)

    def _keys(self, user: Any, item: Any) -> Any:
        """One integer per (user, item)."""
        return user * (self.num_items + 1) + item


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
    """Pair each event with a later one of the same user whose reward is on the other side of the user's mean.

    The event above the mean is the winner. C later events are drawn. The first on the other side is the partner; the
    other drawn events below the mean become further losers, each item once. Items that are in the history are
    excluded: as losers, they would be lowered for being repeats.

    Args:
        reward_E: sorted by user and time; NaN if absent (neither above nor below the mean).
        mean_E: the user's expected reward before each event.
        first_E: int64, index of the user's first event with the same item.
        state_E: int64, index of the newest event of the history before each.
        stop_E: int64, one past the last event of the same user.
        losers: N.
        candidates: C, later events drawn, with replacement.
        random: the generator.

    Returns:
        Positions of winner and losers, -1 if there is none. Shape: int64 (E, 1 + N).
    """
    own_E1, stop_E1, mean_E1 = np.arange(len(reward_E))[:, None], stop_E[:, None], mean_E[:, None]
    ahead_EC = random.random((len(reward_E), candidates)) * (stop_E1 - own_E1 - 1)
    drawn_EC = np.minimum(own_E1 + 1 + ahead_EC.astype(np.int64), stop_E1 - 1)  # no later event: the event itself
    pool = np.concatenate([own_E1, drawn_EC], axis=1)
    is_new = first_E[pool] > state_E[:, None]
    apart_EC = (reward_E[drawn_EC] - mean_E1) * (reward_E[own_E1] - mean_E1) < 0
    apart_EC &= is_new[:, 1:] & is_new[:, :1] & (first_E[drawn_EC] != first_E[own_E1])
    partner_E1 = np.take_along_axis(drawn_EC, apart_EC.argmax(axis=1)[:, None], axis=1)
    winner_E1 = np.where(reward_E[partner_E1] > reward_E[own_E1], partner_E1, own_E1)
    below = apart_EC.any(axis=1, keepdims=True) & is_new & (reward_E[pool] < mean_E1)
    below &= first_E[pool] != first_E[winner_E1]  # the winner's own item, chosen again
    repeat = is_repeat(torch.from_numpy(np.where(below, first_E[pool], -1))).numpy()
    pool = np.where(below & ~repeat, pool, -1)
    first = np.argsort(pool < 0, axis=1, kind="stable")[:, :losers]
    return np.concatenate([winner_E1, np.take_along_axis(pool, first, axis=1)], axis=1)


def is_repeat(item_TC: Tensor) -> Tensor:
    """Mark values that already occur further left in their row. Shape: int64 (T, C) -> bool (T, C)."""
    sorted_TC, order_TC = item_TC.sort(dim=1, stable=True)
    again_TC = torch.zeros_like(item_TC, dtype=torch.bool)
    again_TC[:, 1:] = sorted_TC[:, 1:] == sorted_TC[:, :-1]
    return torch.zeros_like(again_TC).scatter(1, order_TC, again_TC)


def target_pairs(target_T: Tensor, candidate_TC: Tensor, excluded_TC: Tensor, losers: int) -> Tensor:
    """Pair the logged item with the first candidates that are not excluded. Returns int64 (T, 1 + N), 0 for none."""
    first_TN = excluded_TC.long().argsort(dim=1, stable=True)[:, :losers]
    loser_TN = candidate_TC.gather(1, first_TN).masked_fill(excluded_TC.gather(1, first_TN), 0)
    return torch.cat([target_T[:, None], loser_TN], dim=1)
