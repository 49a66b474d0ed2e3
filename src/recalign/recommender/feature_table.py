"""Item vectors from ids and item features: e_v = id_v + sum_f 1 / sqrt(n_vf) sum_{c in C_vf} E_f[c] + P x_v.

C_vf are the codes of item v's feature f (`recalign.data.sequences.features`), n_vf their number, x_v its standardised
numbers and vectors. Vectors are frozen, their projection P is trained; id_v is then the trainable difference to a
frozen vector of arXiv 2507.19473 (Let It Go? Not Quite), here without a bound on its length.

Cold items (without training events) have no id_v: it would be noise. In training, a share of the other items lose
theirs, drawn for each batch, the same in histories, as targets and as negatives (id dropout). So features
learn to stand alone. Without id dropout, cold items displace others in the lists.

Shape suffixes: V items, N codes of all of them, C rows of the embeddings, W numbers of an item, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.data.sequences.features import ItemFeatures
from recalign.distributed import broadcast
from recalign.errors import InputError
from recalign.nn import Rebuildable
from recalign.recommender.checkpoint import build_net, recipe
from recalign.recommender.policy import Policy
from recalign.recommender.sequence_policy import HistoryPolicy, SequencePolicy

ARRAYS = {"code_N": "code", "weight_N": "weight", "offset": "offset", "number_VW": "number"}
"""Buffers of `FeatureTable`, and the arrays of `ItemFeatures` that they hold."""


class FeatureTable(Rebuildable, nn.Module):
    """The features' part of item vectors, which is added to the items' id embeddings.

    Args:
        dim: D.
        num_items: V.
        sizes: embedding rows of each feature, the first one for missing and unknown values; their sum is C.
        width: W.
        codes: N.
        warm: number of items with training events, which come first.
        id_dropout: share of the items that lose their id embedding at each training step.
    """

    code_N: Tensor
    weight_N: Tensor
    offset: Tensor
    number_VW: Tensor
    has_id_V1: Tensor

    def __init__(
        self, dim: int, num_items: int, sizes: Sequence[int], width: int, codes: int, warm: int, id_dropout: float
    ) -> None:
        super().__init__()
        self.warm, self.id_dropout = warm, id_dropout
        self.register_buffer("code_N", torch.zeros(codes, dtype=torch.int64))
        self.register_buffer("weight_N", torch.zeros(codes))
        self.register_buffer("offset", torch.zeros(num_items + 1, dtype=torch.int64))
        self.register_buffer("number_VW", torch.zeros(num_items, width))
        has_id_V1 = (torch.arange(num_items) < warm).float()[:, None]
        self.register_buffer("has_id_V1", has_id_V1, persistent=False)
        self.embedding_CD = nn.Parameter(torch.randn(sum(sizes), dim) * 0.02)
        with torch.no_grad():  # missing and unknown values add 0, unless training learns them
            self.embedding_CD[torch.tensor([0, *sizes]).cumsum(0)[:-1]] = 0
        self.projection_WD = nn.Parameter(torch.randn(width, dim) * 0.02) if width else None
        self.kept_V1: Tensor | None = None
        self._of_step: list[Tensor] | None = None  # cache of the item vectors in a step; None outside

    def fill(self, features: ItemFeatures) -> None:
        """Copy the codes and numbers of a catalogue into the buffers."""
        for name, array in ARRAYS.items():
            getattr(self, name).copy_(torch.from_numpy(getattr(features, array)))

    def holds(self, features: ItemFeatures) -> bool:
        """Whether the table's codes and numbers equal those of ``features``, up to rounding."""
        pairs = [(getattr(self, name).cpu(), torch.from_numpy(getattr(features, one))) for name, one in ARRAYS.items()]
        return all(own.shape == other.shape and torch.allclose(own, other) for own, other in pairs)

    def begin_step(self) -> None:
        """Until `end_step`, cache vectors and, in training, drop some id embeddings, the same in all processes."""
        self._of_step = []
        if self.training and self.id_dropout:
            self.kept_V1 = self.has_id_V1 * (broadcast(torch.rand_like(self.has_id_V1)) >= self.id_dropout)

    def end_step(self) -> None:
        """End a step: discard the cached vectors, and use all items' id embeddings again."""
        self._of_step = self.kept_V1 = None

    def forward(self, id_WD: Tensor) -> Tensor:
        """Item vectors from id embeddings. Shape: (V + 1, D), the padding item first -> (V + 1, D)."""
        if self._of_step is None or not torch.is_grad_enabled():
            return self._made(id_WD)
        if not self._of_step:
            self._of_step.append(self._made(id_WD))
        return self._of_step[0]

    def _made(self, id_WD: Tensor) -> Tensor:
        own_V1 = self.has_id_V1 if self.kept_V1 is None else self.kept_V1
        return torch.cat([id_WD[:1], id_WD[1:] * own_V1 + self.item_vectors()])

    def without_features(self, policy: SequencePolicy) -> SequencePolicy:
        """A policy without features, which are added into its item embeddings; it shares the encoder."""
        plain = SequencePolicy(policy.encoder, policy.num_items, policy.temperature, policy.past_rewards is not None)
        with torch.no_grad():
            plain.item_embedding.weight[1:] = self.has_id_V1 * policy.item_embedding.weight[1:] + self.item_vectors()
        plain.num_warm = policy.num_warm
        return plain

    def item_vectors(self) -> Tensor:
        """The features' part of the catalogue's item vectors. Shape: -> (V, D)."""
        return self.vectors(self.code_N, self.weight_N, self.offset, self.number_VW)

    def vectors(self, code_N: Tensor, weight_N: Tensor, offset: Tensor, number_VW: Tensor) -> Tensor:
        """The features' part of the vectors of any V items; arguments from `FeatureCoder.encode`. -> (V, D)."""
        sum_VD = F.embedding_bag(code_N, self.embedding_CD, offset[:-1], mode="sum", per_sample_weights=weight_N)
        if self.projection_WD is None:
            return sum_VD
        with torch.autocast(sum_VD.device.type, enabled=False):
            return sum_VD + number_VW @ self.projection_WD


def set_features(policy: HistoryPolicy, features: ItemFeatures, id_dropout: float) -> None:
    """Give a policy the features of a catalogue; an InputError if it was made for other features."""
    plan = {"dim": policy.encoder.dim, "num_items": policy.num_items, **features.plan, "id_dropout": id_dropout}
    if policy.features is None:
        _give(policy, FeatureTable(**plan))
    table: FeatureTable = policy.features
    table.id_dropout = table.init_args["id_dropout"] = id_dropout
    if plan != table.init_args:
        text = "the policy was made for other item features, or for another catalogue"
        remedy = "use the item table and the split that it was trained with, or train the recommender anew"
        raise InputError(text, where="data.log.items", remedy=remedy)
    table.fill(features)


def make_room_for(policy: HistoryPolicy, other: Policy) -> None:
    """If another policy has features, give this one an empty table to load their weights into."""
    if (features := getattr(other, "features", None)) is not None:
        _give(policy, build_net(recipe(features)))


def _give(policy: HistoryPolicy, table: FeatureTable) -> None:
    policy.features = table.to(policy.item_embedding.weight.device)
    policy.num_warm = table.warm
    policy.init_args["features"] = policy.features  # for the checkpoint's recipe
