"""Policies of `cold_items.py` beside the shipped one: features alone, UniSRec's adaptor, the sum of two policies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.data.sequences.features import ItemFeatures
from recalign.nn import Encoder
from recalign.recommender import Policy, Recommender, SequencePolicy
from recalign.recommender.feature_table import FeatureTable


class FeaturesAlone(Recommender):
    """A recommender that knows all items by their features alone."""

    @torch.no_grad()
    def take(self, features: ItemFeatures) -> None:
        super().take(features)
        assert self.policy.features is not None
        self.policy.features.has_id_V1.zero_()  # no gradient reaches the items' own vectors, which stay zero
        self.policy.item_embedding.weight.zero_()


class UniSRec(FeaturesAlone):
    """UniSRec (Hou et al., KDD 2022, arXiv 2206.05941) in its inductive form: items are their text, without ids.

    Its adaptor (equations 1 to 4) on our trunk; without its pre-training on other domains.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy = AdaptedPolicy(self.policy.encoder, self.policy.num_items, self.policy.temperature)


class AdaptedPolicy(SequencePolicy):
    """A policy over items that an `Adaptor` makes of their vectors. Arguments of `SequencePolicy`."""

    def __init__(
        self, encoder: Encoder, num_items: int, temperature: float, features: dict[str, Any] | None = None
    ) -> None:
        super().__init__(encoder, num_items, temperature)
        if features:
            self.make_room(features)

    def make_room(self, plan: dict[str, Any]) -> None:
        self.features = Adaptor(self.encoder.dim, self.num_items, **plan)
        self.features.to(self.item_embedding.weight.device)
        self.init_args["features"] = plan


class Adaptor(FeatureTable):
    """v = sum_k g_k W_k (x - b_k), g = softmax(U x + noise): whitening by experts that a gate mixes.

    In training the noise is normal, with softplus(U' x) for its standard deviation, and x loses a fifth of its numbers.
    """

    EXPERTS, DROPOUT = 8, 0.2  # as in the paper's code

    def __init__(self, dim: int, num_items: int, width: int, **plan: Any) -> None:
        super().__init__(dim, num_items, width=width, **plan)
        self.projection_WD = None
        self.bias_KW = nn.Parameter(torch.zeros(self.EXPERTS, width))
        self.expert_KWD = nn.Parameter(torch.randn(self.EXPERTS, width, dim) * 0.02)
        self.gate_WK, self.noise_WK = (nn.Parameter(torch.zeros(width, self.EXPERTS)) for _ in range(2))

    def vectors(self, code_N: Tensor, weight_N: Tensor, offset: Tensor, number_VW: Tensor) -> Tensor:
        with torch.autocast(number_VW.device.type, enabled=False):
            gate_VK = number_VW @ self.gate_WK
            if self.training:
                gate_VK = gate_VK + torch.randn_like(gate_VK) * F.softplus(number_VW @ self.noise_WK)
            each_KVW = F.dropout(number_VW.expand(self.EXPERTS, -1, -1), self.DROPOUT, self.training)
            each_KVD = (each_KVW - self.bias_KW[:, None]) @ self.expert_KWD
            return (gate_VK.softmax(dim=1).T[:, :, None] * each_KVD).sum(dim=0)


class Sum(Policy):
    """Policies that were trained apart: log pi(v | h) = sum_i log pi_i(v | h) + constant.

    Our reading of EnsRec (arXiv 2512.17820), "independent model training" and "a simple ensembling strategy" of a model
    of ids and one of text, whose formula we do not have: equal weights, and log-probabilities for scores.

    Args:
        policies: over one catalogue, their states tensors of one width.
    """

    def __init__(self, *policies: SequencePolicy) -> None:
        super().__init__()
        self.policies: list[SequencePolicy] = torch.nn.ModuleList(policies)  # type: ignore[assignment]
        self.num_items = policies[0].num_items

    def encode(self, batch: Batch) -> Tensor:
        return torch.cat([policy.encode(batch) for policy in self.policies], dim=1)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        states = state.chunk(len(self.policies), dim=1)
        parts = [policy.log_probs(own) for policy, own in zip(self.policies, states, strict=True)]
        logp_TV = torch.stack(parts).sum(dim=0).log_softmax(dim=1)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)


@torch.no_grad()
def over_catalogue(ids: SequencePolicy, num_items: int, count_V: Tensor) -> SequencePolicy:
    """A policy over ids on a catalogue that goes on behind its own: further items are vectors of zeros.

    Their cosine to every state is 0, and in the item prior they have the mean count, as cold items have everywhere.

    Args:
        ids: whose items are the first ones.
        num_items: V.
        count_V: training events of each item.
    """
    policy = SequencePolicy(ids.encoder, num_items, ids.temperature)
    policy.item_embedding.weight.zero_()
    policy.item_embedding.weight[: ids.num_items + 1] = ids.item_embedding.weight
    policy.num_warm = ids.num_items
    policy.set_counts(count_V)
    policy.prior_strength = ids.prior_strength
    return policy.eval()
