"""Behaviour cloning of a policy over item ids, with what large catalogues, item features and grown logs need."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from recalign.data.sequences import Batch, EventDataModule
from recalign.distributed import all_gather_rows, from_first, shard
from recalign.errors import Positive, ShareOrZero
from recalign.nn import HSTU, Encoder, sampled_log_prob
from recalign.recommender.checkpoint import Loaded
from recalign.recommender.cloning import Cloning
from recalign.recommender.feature_table import make_room_for, set_features
from recalign.recommender.grown import grow, load_earlier
from recalign.recommender.sequence_policy import SequencePolicy

SHARDED_METHODS = ("encode", "log_prob", "weighted_nll", "vectors_of", "ranks", "top_k")
"""Methods of a policy that cloning calls, and that read weights."""


class Recommender(Cloning):
    """Behaviour cloning of a policy over item ids.

    The softmax runs over the full catalogue, or, for large catalogues, over sampled negatives (`estimated_log_prob`).
    Validation always ranks the full catalogue. Logs what `Cloning` does.

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
        grows_from: checkpoint of an earlier run whose log this one continues (``data.grows_from``): its weights are
            taken, and rows of new items are as initialised (`recalign.recommender.grown`).
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
        """Share the weights out if that is the strategy (``conf/trainer/fsdp.yaml``). Lightning may call it again."""
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not isinstance(self.policy, FSDPModule):
            shard(self.policy, SHARDED_METHODS)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.grows_from:
            grow(self.policy, load_earlier(self.grows_from, self.data), self.grows_from)

    def loss(self, batch: Batch) -> Tensor:
        if self.negatives is None:
            return super().loss(batch)
        logp_T = estimated_log_prob(self.policy, self.policy.encode(batch), batch.target_T, self.negatives)
        return -all_gather_rows(logp_T).mean()


def estimated_log_prob(policy: SequencePolicy, state: Tensor, item: Tensor, negatives: int) -> Tensor:
    """Estimate log pi(item | state) from uniform negatives that all states share. Shape: -> (T,).

    Each negative stands for num_warm / negatives items (the logQ correction), which makes the softmax's sum an unbiased
    estimate; negatives that hit a state's own item are masked. Only the table's gradient is as large as the catalogue.
    """
    drawn_N = from_first(torch.randint(1, policy.num_warm + 1, (negatives,), device=state.device))
    log_count_N = state.new_full((negatives,), math.log(negatives / policy.num_warm), dtype=torch.float32)
    query_TX, chosen_X = policy.vectors_of(state, torch.cat([item, drawn_N]))
    target_TX, negative_NX = chosen_X.split([len(item), negatives])
    return sampled_log_prob(query_TX, target_TX, negative_NX, item, drawn_N, 1 / policy.temperature, log_count_N)
