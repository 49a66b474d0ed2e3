"""Behaviour cloning of a policy over item ids, with options: a start, past rewards, features, sampled negatives."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.splits import TRAIN
from recalign.distributed import all_gather_rows, broadcast
from recalign.errors import ClosedUnit, InputError, Positive
from recalign.nn import HSTU, Encoder, sampled_log_prob
from recalign.recommender.checkpoint import Loaded, load_net, load_weights
from recalign.recommender.cloning import Cloning
from recalign.recommender.feature_table import make_room_for, set_features
from recalign.recommender.grown import grow, load_earlier
from recalign.recommender.sequence_policy import HistoryPolicy, SequencePolicy

SHARDED_METHODS = ("encode", "log_prob", "weighted_nll", "vectors_of", "ranks", "top_k")
"""Policy methods that cloning calls and that read weights."""


class CloningFromStart(Cloning):
    """Behaviour cloning, from a start if given, of policies that may see the rewards of earlier events.

    Training, and the validation that picks the epoch, show it rewards of users A only: no policy may learn from the
    rewards that judges learn from.

    Args:
        policy: the policy, trained in place.
        init_from: checkpoint of a policy whose weights are loaded by name; mismatches are reported.
        **cloning: arguments of `Cloning`.
    """

    policy: HistoryPolicy

    def __init__(self, policy: HistoryPolicy, init_from: str | None = None, **cloning: Any) -> None:
        super().__init__(policy, **cloning)
        self.hidden_U: Tensor | None = None  # users whose rewards no policy may learn from
        start = load_net(init_from, "policy") if init_from else None
        if start:
            self.start_from(start)
        self.start_metadata = dataclasses.replace(start, net=None) if start else None

    def start_from(self, start: Loaded) -> None:
        """Load another policy's weights by name; mismatched names are reported."""
        load_weights(self.policy, start.net.state_dict(), where=start.where, partial=True)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        """The stage whose checkpoint each argument needs: ``init_from`` only if given."""
        return {"init_from": "recommender"} if init_args.get("init_from") else {}

    def setup(self, stage: str) -> None:
        if self.start_metadata:
            self.start_metadata.check(self.data)
        super().setup(stage)
        self.hidden_U = None
        if stage != "fit" or self.policy.past_rewards is None:
            return
        # standardise past rewards by those of users A, and hide those of other users
        seen_U, frame = self.data.sequences.users_in("A"), self.data.sequences.frame
        self.hidden_U = ~torch.from_numpy(seen_U)
        own = pl.Series(seen_U).gather(frame["user"]) & (pl.col("split") == TRAIN)
        reward = frame.filter(own)["reward"].drop_nulls().to_numpy()
        if not len(reward) or np.ptp(reward) == 0:  # rounding may give equal values a deviation
            text = "the policy reads past rewards, but users A have none in training, or all are equal"
            remedy = "give a reward expression that differs between events, or set model.feedback to false"
            raise InputError(text, where="model.feedback", remedy=remedy)
        self.policy.past_rewards.calibrate(float(reward.mean()), float(reward.std(ddof=1)))

    def visible(self, batch: Batch) -> Batch:
        """The batch, with the past rewards of ``hidden_U`` set to NaN."""
        if self.hidden_U is None:
            return batch
        self.hidden_U = self.hidden_U.to(batch.user_B.device)  # once
        hidden_B1 = self.hidden_U[batch.user_B, None]
        return dataclasses.replace(batch, reward_BL=batch.reward_BL.masked_fill(hidden_B1, torch.nan))


class Recommender(CloningFromStart):
    """Behaviour cloning of a policy over item ids.

    The softmax runs over the full catalogue, or, for large catalogues, over sampled negatives (`estimated_log_prob`).
    Validation always ranks the full catalogue. Logs what `Cloning` does.

    Args:
        num_items: V; the command takes it from the data.
        encoder: turns embedded histories into states; copied; null: `recalign.nn.HSTU` with its defaults.
        temperature: of the softmax over cosines.
        feedback: whether the policy sees the rewards of earlier events.
        negatives: N, items drawn at each step for a sampled softmax; null: the full softmax.
        id_dropout: share of the items that lose their id embedding at each step, so that features alone represent
            them; unused without item features (``data.log.items.features``).
        lr: AdamW's learning rate.
        grows_from: checkpoint of an earlier run whose log this one continues (``data.grows_from``): its weights are
            loaded, and new items keep their initial rows (`recalign.recommender.grown`).
        **cloning: arguments of `CloningFromStart`.
    """

    policy: SequencePolicy
    takes_row_sharding = True

    def __init__(
        self,
        num_items: int,
        encoder: Encoder | None = None,
        temperature: Positive[float] = 0.05,
        feedback: bool = False,
        negatives: Positive[int] | None = None,
        id_dropout: ClosedUnit = 0.2,
        lr: float = 2e-3,
        grows_from: str | None = None,
        **cloning: Any,
    ) -> None:
        encoder = HSTU() if encoder is None else copy.deepcopy(encoder)
        super().__init__(SequencePolicy(encoder, num_items, temperature, feedback), lr=lr, **cloning)
        self.negatives, self.id_dropout, self.grows_from = negatives, id_dropout, grows_from

    def start_from(self, start: Loaded) -> None:
        make_room_for(self.policy, start.net)
        super().start_from(start)

    def bind(self, data: EventDataModule) -> Self:
        if data.sequences.features is not None:
            set_features(self.policy, data.sequences.features, self.id_dropout)
        return super().bind(data)

    def configure_model(self) -> None:
        """Shard the weights if the strategy says so (``conf/trainer/fsdp.yaml``). Lightning may call it again."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not isinstance(self.policy, FSDPModule):
            shard(self.policy)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.grows_from:
            grow(self.policy, load_earlier(self.grows_from, self.data), self.grows_from)

    def loss(self, batch: Batch) -> Tensor:
        if self.negatives is None:
            return super().loss(batch)
        logp_T = estimated_log_prob(self.policy, self.policy.encode(batch), batch.target_T, self.negatives)
        return -all_gather_rows(logp_T).mean()


def shard(policy: SequencePolicy) -> None:
    """Shard a policy's weights over all processes, in place (FSDP): each process holds its part of every tensor.

    A layer's weights are gathered while it runs, the other weights while one of `SHARDED_METHODS` runs.
    """
    for layer in [layer for part in policy.modules() if isinstance(part, nn.ModuleList) for layer in part]:
        fully_shard(layer)
    fully_shard(policy)
    for name in SHARDED_METHODS:
        register_fsdp_forward_method(policy, name)


def estimated_log_prob(policy: SequencePolicy, state: Tensor, item: Tensor, negatives: int) -> Tensor:
    """Estimate log pi(item | state) from uniform negatives, shared by all states. Shape: -> (T,).

    Each negative stands for num_warm / negatives items (the logQ correction), which makes the softmax's sum an unbiased
    estimate; negatives that hit a state's own item are masked. Only the table's gradient is as large as the catalogue.
    """
    drawn_N = broadcast(torch.randint(1, policy.num_warm + 1, (negatives,), device=state.device))
    log_count_N = state.new_full((negatives,), math.log(negatives / policy.num_warm), dtype=torch.float32)
    query_TX, chosen_X = policy.vectors_of(state, torch.cat([item, drawn_N]))
    target_TX, negative_NX = chosen_X.split([len(item), negatives])
    return sampled_log_prob(query_TX, target_TX, negative_NX, item, drawn_N, 1 / policy.temperature, log_count_N)
