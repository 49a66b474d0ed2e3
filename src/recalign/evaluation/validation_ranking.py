"""What policies along a path keep of the start's NDCG. Compute once what its points share."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from recalign.evaluation.baselines import Rerank, Scores
from recalign.recommender.interpolation import budget_batches, ndcg_by_user, sums_by_user
from recalign.recommender.policy import Policy, chunks
from recalign.sequences import Batch, EventDataModule

CACHED = 2**25  # numbers of one network that are cached at most, 128 MB: one for each event and item


class ValidationRanking:
    """NDCG@10 of policies by user, on the events that an NDCG budget is measured on (`budget_batches`).

    A reranked policy adds scores, times a strength, to log-probabilities. Neither depends on the strength, so both are
    computed once and kept. If they are more than `CACHED` numbers each, every policy computes them anew.

    Args:
        start: its log-probabilities are kept. An interpolated policy stands at one point of a path, so its own are not.
        data: the log.
        device: where to work.
    """

    def __init__(self, start: Policy, data: EventDataModule, device: torch.device) -> None:
        self.start, self.device, self.num_items = start, device, data.num_items
        self.data, events = data, len(data.windows("validation", "all").target)
        self._keeps = events * data.num_items <= CACHED
        self._kept = functools.cache(self._read)

    @torch.no_grad()
    def ndcg_by_user(self, policy: Policy) -> np.ndarray:
        """NDCG@10 of a policy, summed over each user's events. Shape: float64 (U,), users with an event."""
        policy.eval().to(self.device)
        if not (self._keeps and isinstance(policy, Rerank)):
            return ndcg_by_user(policy, budget_batches(self.data), self.device)
        read = self._kept if policy.policy is self.start else self._read
        logp, scores = read(policy.policy), self._kept(policy.reward)
        return sums_by_user(
            (batch, policy.ranks(policy.tilted(logp_TV, score_TV), batch.target_T, batch.seen_N))
            for batch, logp_TV, score_TV in zip(self._batches, logp, scores, strict=True)
        )

    @functools.cached_property
    def _batches(self) -> list[Batch]:
        return [batch.to(self.device) for batch in budget_batches(self.data)]

    def _read(self, net: Policy | Scores) -> list[Tensor]:
        """Scores of all items before each target, batch by batch. Shape: -> (T, V) each."""
        return [self._over_items(net, batch) for batch in self._batches]

    def _over_items(self, net: Policy | Scores, batch: Batch) -> Tensor:
        parts = chunks(len(batch.target_T), self.num_items)
        if isinstance(net, Policy):
            state = net.encode(batch)
            return torch.cat([net.log_probs(state[part]) for part in parts])
        states_KTS = net.states(batch)
        return torch.cat([net.predict(states_KTS[:, part]) for part in parts])
