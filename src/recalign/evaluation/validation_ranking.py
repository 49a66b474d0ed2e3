"""What reranked policies along a path keep of the start's NDCG. Compute once what the points of the path share."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.evaluation.reranking import Rerank, Scores
from recalign.nn import ranks_from_scores
from recalign.recommender.interpolation import budget_batches, ndcg_by_user, sums_by_user
from recalign.recommender.policy import Policy, chunks, seen_within

MAX_CACHED = 2**28  # numbers of one network that are kept, 1 GB: one for each event and item
NETWORKS = 2  # kept at a time, as a rule the start and what reranks it; a third lives while it takes a place


class ValidationRanking:
    """NDCG@10 of policies by user, on the events that an NDCG budget is measured on (`budget_batches`).

    A reranked policy adds scores, times a strength, to log-probabilities. Neither depends on the strength, so both are
    computed once and kept, where they fit into `MAX_CACHED`.

    Args:
        start: its log-probabilities are kept. An interpolated policy stands at one point of a path, so its own are not.
        data: the log.
        device: where to work.
    """

    def __init__(self, start: Policy, data: EventDataModule, device: torch.device) -> None:
        self.start, self.data, self.device = start, data, device
        self._scores = functools.lru_cache(NETWORKS)(lambda net: [self._over_items(net, one) for one in self._batches])

    @torch.no_grad()
    def ndcg_by_user(self, policy: Policy) -> np.ndarray:
        """NDCG@10 of a policy, summed over each user's events. Shape: float64 (U,), users with an event."""
        policy.eval().to(self.device)
        if not isinstance(policy, Rerank) or not self._batches:
            return ndcg_by_user(policy, budget_batches(self.data), self.device)
        return sums_by_user((batch, self._ranks(policy, place, batch)) for place, batch in enumerate(self._batches))

    @functools.cached_property
    def _batches(self) -> list[Batch]:
        """All batches, or none where their scores do not fit."""
        found, numbers = list[Batch](), 0
        for batch in budget_batches(self.data):
            numbers += len(batch.target_T) * self.data.num_items
            if numbers > MAX_CACHED:
                return []
            found.append(batch.to(self.device))
        return found

    def _ranks(self, policy: Rerank, place: int, batch: Batch) -> Tensor:
        own, score_TV, ranks = policy.policy, self._scores(policy.reward)[place], []
        logp_TV = self._scores(own)[place] if own is self.start else self._over_items(own, batch)
        for part in chunks(len(batch.target_T), self.data.num_items):
            seen = None if batch.seen_N is None else seen_within(batch.seen_N, part)
            tilted_TV = policy.tilted(logp_TV[part], score_TV[part])
            ranks.append(ranks_from_scores(tilted_TV, batch.target_T[part] - 1, seen))
        return torch.cat(ranks)

    def _over_items(self, net: Policy | Scores, batch: Batch) -> Tensor:
        """Scores of all items before each target of a batch. Shape: -> (T, V)."""
        parts = chunks(len(batch.target_T), self.data.num_items)
        if isinstance(net, Policy):
            state = net.encode(batch)
            return torch.cat([net.log_probs(state[part]) for part in parts])
        states_KTS = net.states(batch)
        return torch.cat([net.predict(states_KTS[:, part]) for part in parts])
