"""Policies of `cold_items.py` beside the shipped one: features alone, and the sum of two policies."""

from __future__ import annotations

import torch
from torch import Tensor

from recalign.recommender import Policy, Recommender, SequencePolicy
from recalign.sequences import Batch
from recalign.sequences.features import ItemFeatures


class FeaturesAlone(Recommender):
    """A recommender that knows all items by their features alone."""

    @torch.no_grad()
    def take(self, features: ItemFeatures) -> None:
        super().take(features)
        assert self.policy.features is not None
        self.policy.features.has_id_V1.zero_()  # no gradient reaches the items' own vectors, which stay zero
        self.policy.item_embedding.weight.zero_()


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
