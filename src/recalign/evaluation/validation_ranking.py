"""What policies along a path keep of the start's NDCG. Compute once what its points share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.evaluation.baselines import Rerank, Scores
from recalign.nn import ranks_from_scores
from recalign.recommender.interpolation import budget_batches, ndcg_by_user, sums_by_user
from recalign.recommender.policy import Policy, chunks, seen_within

CACHED = 2**28  # numbers of one network that are kept at most, 1 GB: one for each event and item
NETWORKS = 2  # kept at a time, as a rule the start and what reranks it; a third lives while it takes a place

Stretch = Callable[[slice], Tensor]
"""Scores of all items for a stretch of a batch's targets. Shape: -> (T, V)."""


class ValidationRanking:
    """NDCG@10 of policies by user, on the events that an NDCG budget is measured on (`budget_batches`).

    A reranked policy adds scores, times a strength, to log-probabilities. Neither depends on the strength, so both are
    computed once and kept, of as many events as `CACHED` allows. For the other events every policy computes them anew.

    Args:
        start: its log-probabilities are kept. An interpolated policy stands at one point of a path, so its own are not.
        data: the log.
        device: where to work.
    """

    def __init__(self, start: Policy, data: EventDataModule, device: torch.device) -> None:
        self.start, self.data, self.device, self.num_items = start, data, device, data.num_items
        self._kept = functools.lru_cache(NETWORKS)(self._keep)

    @torch.no_grad()
    def ndcg_by_user(self, policy: Policy) -> np.ndarray:
        """NDCG@10 of a policy, summed over each user's events. Shape: float64 (U,), users with an event."""
        policy.eval().to(self.device)
        if not isinstance(policy, Rerank):
            return ndcg_by_user(policy, budget_batches(self.data), self.device)
        return sums_by_user((batch, self._ranks(policy, place, batch)) for place, batch in enumerate(self._batches()))

    def _ranks(self, policy: Rerank, place: int, batch: Batch) -> Tensor:
        logp = self._scores(policy.policy, place, batch, keep=policy.policy is self.start)
        score, seen, ranks = self._scores(policy.reward, place, batch), batch.seen_N, []
        for part in chunks(len(batch.target_T), self.num_items):
            own = None if seen is None else seen_within(seen, part)
            ranks.append(ranks_from_scores(policy.tilted(logp(part), score(part)), batch.target_T[part] - 1, own))
        return torch.cat(ranks)

    def _batches(self) -> Iterator[Batch]:
        """All batches; those whose scores are kept are kept too."""
        yield from self._first
        for batch in itertools.islice(budget_batches(self.data), len(self._first), None):
            yield batch.to(self.device)

    @functools.cached_property
    def _first(self) -> list[Batch]:
        """The first batches: as many as have scores that fit into `CACHED`."""
        found, numbers = list[Batch](), 0
        for batch in budget_batches(self.data):
            numbers += len(batch.target_T) * self.num_items
            if numbers > CACHED:
                break
            found.append(batch.to(self.device))
        return found

    def _scores(self, net: Policy | Scores, place: int, batch: Batch, keep: bool = True) -> Stretch:
        kept = self._kept(net) if keep else []
        return kept[place].__getitem__ if place < len(kept) else _over_items(net, batch)

    def _keep(self, net: Policy | Scores) -> list[Tensor]:
        parts = [chunks(len(batch.target_T), self.num_items) for batch in self._first]
        return [torch.cat([*map(_over_items(net, batch), own)]) for batch, own in zip(self._first, parts, strict=True)]


def _over_items(net: Policy | Scores, batch: Batch) -> Stretch:
    """Scores of all items before each target of a batch, a stretch of targets at a time."""
    if isinstance(net, Policy):
        state = net.encode(batch)
        return lambda part: net.log_probs(state[part])
    states_KTS = net.states(batch)
    return lambda part: net.predict(states_KTS[:, part])
