"""The policy: all that post-training and evaluation need of a recommender, and all that they may use."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.nn import (
    Encoder,
    Recorded,
    log_prob,
    ranks_from_scores,
    sampled_log_prob,
    target_ranks,
    top_k,
    top_k_from_scores,
    unit,
    weighted_nll,
)
from recalign.recommender.feedback import Feedback
from recalign.sequences import Batch

Pairs = tuple[Tensor, Tensor]
UNIT = 1.01  # no cosine is larger, however it is rounded
ROWS = 512  # states whose scores over the whole catalogue are held at once, and of a large one fewer
SCORES = 2**25  # scores held at once


class Policy(Recorded, nn.Module, ABC):
    """pi(item | history) over a catalogue of items 1..V.

    A policy encodes the histories of a batch into one state a target; everything else is asked of states. The leading
    dimension of a state is T, the targets; what follows is the policy's own business (a vector for a policy over item
    ids, a prefix of codes for a decoder with several tokens an item).

    Only `encode` and `log_probs` must be written; the rest follows from them, and is overridden where a policy can do
    it without holding T x V scores.
    """

    num_items: int

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """The state before each target of a batch. Shape: (T, ...)."""

    @abstractmethod
    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        """Log-probabilities over the catalogue, or over candidates.

        Shape: state (T, ...), items int64 (T, C) or None -> (T, C), or (T, V) where column v - 1 is item v.
        """

    def origin(self, start: Policy) -> list[Tensor]:
        """The parameters, in their order, with which this policy is the one that it was trained from."""
        return list(start.parameters())

    def log_prob(self, state: Tensor, item: Tensor) -> Tensor:
        """Log-probability of one item a state. Shape: (T, ...), int64 (T,) -> (T,)."""
        return self.log_probs(state, item[:, None])[:, 0]

    def weighted_nll(self, state: Tensor, item: Tensor, weight: Tensor) -> Tensor:
        """sum_t weight_t * -log pi(item_t | state_t), a scalar. The weights carry no gradient."""
        return -(weight.detach() * self.log_prob(state, item)).sum()

    @torch.no_grad()
    def sample(self, state: Tensor, count: int) -> Tensor:
        """Items drawn from the policy, with replacement. Shape: (T, ...) -> int64 (T, count)."""
        return torch.cat([draw(self.log_probs(part), count) for part in state.split(rows_at_once(self.num_items))]) + 1

    @torch.no_grad()
    def top_k(self, state: Tensor, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k most probable items that were not seen, best first.

        Args:
            state: (T, ...).
            k: how many.
            seen: int64 (2, N), pairs (target, item) to leave out.

        Returns:
            (T, k) log-probabilities (up to a constant a state) and (T, k) items; item 0 where fewer than k are left.
        """
        parts = [
            top_k_from_scores(self.log_probs(part), k, pairs) for _, part, pairs in _parts(state, seen, self.num_items)
        ]
        return torch.cat([score for score, _ in parts]), torch.cat([column for _, column in parts]) + 1

    @torch.no_grad()
    def ranks(self, state: Tensor, item: Tensor, seen: Tensor | None = None) -> Tensor:
        """Rank of one item a state among the items that were not seen; 1 is best, 0 stands for item 0 (a miss).

        Items that score the same as the target count as ahead of it. A target that was seen (a log may repeat items) is
        ranked among the unseen ones all the same.

        Shape: (T, ...), int64 (T,), seen int64 (2, N) -> int64 (T,).
        """
        ranks = [
            ranks_from_scores(self.log_probs(part), item[first : first + len(part)] - 1, pairs)
            for first, part, pairs in _parts(state, seen, self.num_items)
        ]
        return torch.cat(ranks)


def rows_at_once(num_items: int) -> int:
    """How many states' scores over a whole catalogue may be held at once."""
    return max(1, min(ROWS, SCORES // num_items))


def draw(logp_TV: Tensor, count: int) -> Tensor:
    """Columns drawn with replacement, by inverting the cumulated probabilities: int64 (T, count).

    They are added up in float64: in float32, as in `torch.multinomial`, what an item adds is lost in a catalogue of
    millions.
    """
    cumulated_TV = logp_TV.double().exp_().cumsum_(dim=1)
    total_T1 = cumulated_TV[:, -1:]
    drawn_TC = torch.rand(len(logp_TV), count, dtype=torch.float64, device=logp_TV.device) * total_T1
    return torch.searchsorted(cumulated_TV, drawn_TC, right=True).clamp_(max=logp_TV.shape[1] - 1)


def _parts(state: Tensor, seen: Tensor | None, num_items: int) -> Iterator[tuple[int, Tensor, Pairs | None]]:
    """States by `rows_at_once`: number of the first, states, their own pairs (row, item - 1) of what was seen."""
    rows = rows_at_once(num_items)
    for first in range(0, len(state), rows):
        pairs = None
        if seen is not None:
            own = seen[:, (seen[0] >= first) & (seen[0] < first + rows)]
            pairs = (own[0] - first, own[1] - 1)
        yield first, state[first : first + rows], pairs


def check_length(batch: Batch, encoder: Encoder) -> None:
    """Refuse histories longer than an encoder was made for.

    Raises:
        InputError: the data's maximum is larger than that of a checkpoint's encoder.
    """
    if batch.item_BL.shape[1] > encoder.max_length:
        raise InputError(
            f"histories of {batch.item_BL.shape[1]} events, and the encoder was made for {encoder.max_length}",
            where="data.max_length",
            remedy=f"use --data.max_length {encoder.max_length}, or train the recommender anew",
        )


class SequencePolicy(Policy):
    """A sequence encoder over item ids: log pi(v | h) = log softmax_v(cos(h, e_v) / temperature).

    The head of HSTU's research model (L2-normalised query and items over a temperature; methods known from
    meta-recsys/generative-recommenders).

    Args:
        encoder: turns embedded histories into states; its ``dim`` is that of the item table.
        num_items: V.
        temperature: of the softmax; smaller is sharper.
        feedback: whether the policy sees the rewards of earlier events.
    """

    def __init__(self, encoder: Encoder, num_items: int, temperature: float = 0.05, feedback: bool = False) -> None:
        super().__init__()
        self.num_items, self.temperature = num_items, temperature
        self.item_embedding = nn.Embedding(num_items + 1, encoder.dim, padding_idx=0)
        nn.init.trunc_normal_(self.item_embedding.weight, std=0.02)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
        self.encoder = encoder
        self.past_rewards = Feedback(encoder.dim) if feedback else None

    def encode(self, batch: Batch) -> Tensor:
        check_length(batch, self.encoder)
        # the gradient of index_select is one index_add, much faster than that of indexing and of an embedding
        x_BLD = self.item_embedding.weight.index_select(0, batch.item_BL.flatten()).view(*batch.item_BL.shape, -1)
        if self.past_rewards is not None:
            x_BLD = x_BLD + self.past_rewards(batch.reward_BL)
        h_BLD = self.encoder(x_BLD, batch.length_B, batch.time_BL, batch.request_time_BL)
        return h_BLD.flatten(0, 1).index_select(0, batch.row_T * h_BLD.shape[1] + batch.column_T)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        query_TD, item_VD = self._directions(state)
        if items is None:
            return (query_TD @ item_VD.T / self.temperature).log_softmax(dim=-1)
        with torch.autocast(query_TD.device.type, enabled=False):
            if 2 * len(item_VD) <= items.shape[1] * query_TD.shape[1]:  # less to hold, and faster, than their vectors
                return (query_TD @ item_VD.T / self.temperature).log_softmax(dim=-1).gather(1, items - 1)
            # the gradient of index_select is one index_add, much faster than that of indexing
            item_TCD = item_VD.index_select(0, items.flatten() - 1).view(*items.shape, -1)
            score_TC = (item_TCD @ query_TD[:, :, None])[:, :, 0] / self.temperature
        # The normaliser is read off one item's log-probability, which is worked out without holding T x V scores.
        first_T = log_prob(query_TD, item_VD, items[:, 0] - 1, 1 / self.temperature, bound=UNIT)
        return score_TC + (first_T - score_TC[:, 0])[:, None]

    def log_prob(self, state: Tensor, item: Tensor) -> Tensor:
        return log_prob(*self._directions(state), item - 1, 1 / self.temperature, bound=UNIT)

    def weighted_nll(self, state: Tensor, item: Tensor, weight: Tensor) -> Tensor:
        return weighted_nll(*self._directions(state), item - 1, weight, 1 / self.temperature, bound=UNIT)

    def sampled_log_prob(self, state: Tensor, item: Tensor, negatives: int) -> Tensor:
        """log pi(item | state), estimated from items drawn uniformly, with replacement, that all states share: (T,).

        Each drawn item stands for num_items / negatives items of the catalogue (the logQ correction), so that the sum
        in the softmax is an unbiased estimate of that over the catalogue; a draw that hits a state's own item is left
        out there. Nothing is as large as the catalogue but the table's gradient.

        Args:
            state: (T, D).
            item: int64 (T,).
            negatives: N, how many are drawn, from torch's generator of the state's device.
        """
        drawn_N = torch.randint(1, self.num_items + 1, (negatives,), device=state.device)
        log_count_N = state.new_full((negatives,), math.log(negatives / self.num_items), dtype=torch.float32)
        chosen_D = unit(self.item_embedding(torch.cat([item, drawn_N])).float())
        query_TD = unit(state.float())
        target_TD, negative_ND = chosen_D.split([len(item), negatives])
        return sampled_log_prob(query_TD, target_TD, negative_ND, item, drawn_N, 1 / self.temperature, log_count_N)

    @torch.no_grad()
    def top_k(self, state: Tensor, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        score, column = top_k(*self._directions(state), k, None if seen is None else (seen[0], seen[1] - 1))
        return score / self.temperature, column + 1

    @torch.no_grad()
    def ranks(self, state: Tensor, item: Tensor, seen: Tensor | None = None) -> Tensor:
        return target_ranks(*self._directions(state), item - 1, None if seen is None else (seen[0], seen[1] - 1))

    def _directions(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """States and items as unit vectors, in full precision: (T, D) and (V, D)."""
        return unit(state.float()), unit(self.item_embedding.weight[1:].float())
