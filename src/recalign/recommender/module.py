"""Behaviour cloning: the generative recommender learns to continue its users' histories."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.splits import TRAIN
from recalign.distributed import all_gather_rows, shard
from recalign.errors import InputError, Positive, ShareOrZero
from recalign.nn import HSTU, Encoder
from recalign.recommender.calibration import CalibratePrior
from recalign.recommender.checkpoint import Loaded, load_net, load_weights, prior_names
from recalign.recommender.grown import grow, load_earlier
from recalign.recommender.policy import mean_nll
from recalign.recommender.prior import training_pass
from recalign.recommender.sequence_policy import Feedback, HistoryPolicy, SequencePolicy
from recalign.recommender.training import PolicyModule

if TYPE_CHECKING:
    from recalign.data.sequences.features import ItemFeatures

CLONED = "cloned"
"""A fact of what cloning trained: it read everybody's choices, and rewards of users A at most."""
SHARDED_METHODS = ("encode", "log_prob", "weighted_nll", "sampled_log_prob", "ranks", "top_k")
"""Methods of a policy that cloning calls, and that read weights."""


class RecommenderData(EventDataModule):
    """Next items of all users (or of ``users``), validated on their next items. Cloning reads no reward."""


class Cloning(PolicyModule):
    """Behaviour cloning of any policy: maximise the likelihood of each next item, L = mean_t -log pi(a_t | s_t).

    Logs ``train/loss``, what `PolicyModule` logs, and what `CalibratePrior` does.

    Args:
        policy: the policy, trained in place.
        prior: whether the policy gets an item prior when training ends (`CalibratePrior`).
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items a user that `predict` writes.
        init_from: checkpoint of a policy whose weights are loaded by name; mismatches are reported.
        grows_from: checkpoint of an earlier run whose log this one continues (``data.grows_from``): its weights are
            taken, and rows of new items are as initialised (`recalign.recommender.grown`).
    """

    policy: HistoryPolicy

    def __init__(
        self,
        policy: HistoryPolicy,
        prior: bool = True,
        lr: float = 2e-3,
        weight_decay: float = 0.3,
        top_k: int = 10,
        init_from: str | None = None,
        grows_from: str | None = None,
    ) -> None:
        super().__init__(policy, lr, weight_decay, top_k)
        self.save_hyperparameters(logger=False, ignore=["policy", "top_k"])
        self.prior, self.grows_from = prior, grows_from
        self.prior_facts: dict[str, float] = {}
        self.hidden_U: Tensor | None = None  # users whose rewards no policy may learn from
        self.start: Loaded | None = None
        self.start_has_codes = False
        if init_from:
            self.start = load_net(init_from, "policy")
            self.policy.make_room_for(self.start.net)
            load_weights(self.policy, self.start.net.state_dict(), where=init_from, partial=True)
            self.start_has_codes = "sizes" in self.start.net.init_args
            self.start = dataclasses.replace(self.start, net=None)

    def bind(self, data: EventDataModule) -> Self:
        if data.sequences.features is not None:
            self.set_features(data.sequences.features)
        return super().bind(data)

    def set_features(self, features: ItemFeatures) -> None:
        """Tell the policy of the items' features.

        Raises:
            InputError: it takes none.
        """
        text = f"{type(self).__name__} knows items by their codes, not by their features"
        remedy = "leave the features out (features: {}), or train conf/recommender.yaml"
        raise InputError(text, where="data.log.items.features", remedy=remedy)

    @classmethod
    def upstream(cls, init_args: dict[str, Any]) -> dict[str, str]:
        """The checkpoints that these settings need, by argument; only one that is named."""
        return {"init_from": "recommender"} if init_args.get("init_from") else {}

    def configure_model(self) -> None:
        """Share the weights out if that is the strategy (``conf/trainer/fsdp.yaml``). Lightning may call it again."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not isinstance(self.policy, FSDPModule):
            shard(self.policy, SHARDED_METHODS)

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), *([CalibratePrior(self.prior_facts)] if self.prior else [])]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {CLONED: True} | ({"prior": self.prior_facts} if self.prior_facts else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.trainer.training:  # a calibrated one may be continued, without its prior: also the average of it
            own = self.state_dict()
            checkpoint["state_dict"] |= {name: own[name] for name in prior_names(self)}

    def setup(self, stage: str) -> None:
        if self.start:
            self.start.check(self.data)
        if stage == "fit":
            self.policy.prior_strength = 0.0  # before an average of the policy is begun
            if self.datamodule:
                count_V = self.datamodule.sequences.item_counts(self.datamodule.users)
                self.policy.set_counts(torch.from_numpy(count_V))
        self.hidden_U = None
        if stage == "fit" and self.policy.past_rewards is not None:
            self._calibrate_feedback(self.policy.past_rewards)
        if stage == "fit" and self.grows_from:
            grow(self.policy, load_earlier(self.grows_from, self.data), self.grows_from)

    def _calibrate_feedback(self, feedback: Feedback) -> None:
        """Standardise the rewards that the policy sees, by users A's, and hide those of the others."""
        seen_U, frame = self.data.sequences.users_in("A"), self.data.sequences.frame
        self.hidden_U = ~torch.from_numpy(seen_U)
        own = pl.Series(seen_U).gather(frame["user"]) & (pl.col("split") == TRAIN)
        reward = frame.filter(own)["reward"].drop_nulls().to_numpy()
        if not len(reward) or np.ptp(reward) == 0:  # rounding may give equal values a deviation
            text = "the policy is to see rewards, but users A have none in training, or all are the same"
            remedy = "give a reward expression that differs between events, or set model.feedback to false"
            raise InputError(text, where="model.feedback", remedy=remedy)
        feedback.calibrate(float(reward.mean()), float(reward.std(ddof=1)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with training_pass(self.policy):  # the prior is off: `without_prior` would read its strength from the device
            loss = self.loss(self.visible(batch))
        self.log("train/loss", loss, batch_size=len(batch.target_T))
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """The mean over the targets, a scalar."""
        return mean_nll(self.policy, self.policy.encode(batch), batch.target_T)

    def visible(self, batch: Batch) -> Batch:
        """The batch without hidden rewards."""
        if self.hidden_U is None:
            return batch
        self.hidden_U = self.hidden_U.to(batch.user_B.device)  # once
        hidden_B1 = self.hidden_U[batch.user_B, None]
        return dataclasses.replace(batch, reward_BL=batch.reward_BL.masked_fill(hidden_B1, torch.nan))


class Recommender(Cloning):
    """Behaviour cloning of a policy over item ids.

    The softmax runs over the full catalogue, or, for large catalogues, over sampled negatives
    (`SequencePolicy.sampled_log_prob`). Validation always ranks the full catalogue. Logs what `Cloning` does.

    Args:
        num_items: V; linked from the data by the command.
        encoder: turns embedded histories into states; copied; null: `recalign.nn.HSTU` with its defaults.
        temperature: of the softmax over cosines.
        feedback: whether the policy sees the rewards of earlier events. In training, and in the validation that picks
            its epoch, only those of users A: no policy may learn from the rewards that judges learn from.
        negatives: N, items drawn at each step for a sampled softmax; null: the full softmax.
        id_dropout: where items have features (``data.log.items.features``), the share of them that at each step are
            known by these alone. Nothing is drawn for other logs.
        lr: AdamW's learning rate.
        **cloning: arguments of `Cloning`.
    """

    policy: SequencePolicy

    def __init__(
        self,
        num_items: int,
        encoder: Encoder | None = None,
        temperature: Positive[float] = 0.05,
        feedback: bool = False,
        negatives: Positive[int] | None = None,
        id_dropout: ShareOrZero = 0.2,
        lr: float = 2e-3,
        **cloning: Any,
    ) -> None:
        encoder = HSTU() if encoder is None else copy.deepcopy(encoder)
        super().__init__(SequencePolicy(encoder, num_items, temperature, feedback), lr=lr, **cloning)
        self.negatives, self.id_dropout = negatives, id_dropout

    def set_features(self, features: ItemFeatures) -> None:
        self.policy.set_features(features, self.id_dropout)

    def loss(self, batch: Batch) -> Tensor:
        if self.negatives is None:
            return super().loss(batch)
        logp_T = self.policy.sampled_log_prob(self.policy.encode(batch), batch.target_T, self.negatives)
        return -all_gather_rows(logp_T).mean()
