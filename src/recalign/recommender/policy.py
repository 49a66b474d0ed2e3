"""The policy: what post-training and evaluation may ask of a recommender."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

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
from recalign.processes import counts, from_first, gathered
from recalign.recommender.prior import ItemPrior
from recalign.sequences import Batch

Pairs = tuple[Tensor, Tensor]
UNIT = 1.01  # no cosine is larger, however it is rounded
ROWS = 512  # states whose scores over the whole catalogue are held at once,
SCORES = 2**25  # as long as these are no more scores


State = Any
"""What a policy makes of T histories: a tensor (T, ...), or anything with ``len(state)`` and ``state[a:b]``."""


class Policy(Recorded, nn.Module, ABC):
    """pi(item | history) over a catalogue of items 1..V.

    `encode` turns the histories of a batch into a state for each of T targets; all else is asked of states, which are
    only ever measured (``len``) and sliced. A state may be a vector, or what a decoder of several tokens an item needs.

    Subclasses must write `encode` and `log_probs`, and `summary` where a state is not a tensor. The rest follows from
    these; override it where it can be had without T x V scores.

    A policy may have an item prior (`recalign.recommender.prior`): then it takes the counts in `set_counts`, and its
    `prior_strength` can be set at any time. The prior is part of every probability, rank and sample, but of no state;
    at strength 0 it changes nothing. Counts and strength go with the ``state_dict``.
    """

    num_items: int

    def set_counts(self, count_V: Tensor) -> None:
        """Take the training events of each item, before cloning begins. A policy without a prior ignores them.

        Shape: (V,), item v in row v - 1.
        """

    @property
    def prior_strength(self) -> float:
        """c, the weight of the item prior; 0 is none.

        Raises:
            InputError: a policy that has no prior is given another strength.
        """
        return 0.0

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        if strength:
            remedy = "set model.prior to false, or use a policy that has one, such as SequencePolicy"
            raise InputError(f"{type(self).__name__} has no item prior", where="model.prior", remedy=remedy)

    @abstractmethod
    def encode(self, batch: Batch) -> State:
        """The state before each of the batch's T targets."""

    @abstractmethod
    def log_probs(self, state: State, items: Tensor | None = None) -> Tensor:
        """Log-probabilities over the catalogue, or over candidates.

        Shape: items int64 (T, C) or None -> (T, C), or (T, V) where column v - 1 is item v.
        """

    def over_items(self, state: State) -> Tensor:
        """Log-probabilities over the catalogue, given that an item is said at all: they always sum to 1.

        Shape: -> (T, V).
        """
        return self.log_probs(state)

    @torch.no_grad()
    def kl_and_entropy(self, state: State, other: Policy, other_state: State) -> tuple[Tensor, Tensor]:
        """KL(self || other) and the entropy of self over the catalogue, in nats, exact. Shape: -> (T,) each."""
        kl, entropy = [], []
        for part in chunks(len(state), self.num_items):
            logp_TV, other_TV = self.over_items(state[part]), other.over_items(other_state[part])
            kl.append((logp_TV.exp() * (logp_TV - other_TV)).sum(dim=1))
            entropy.append(-(logp_TV.exp() * logp_TV).sum(dim=1))
        return torch.cat(kl), torch.cat(entropy)

    def summary(self, state: State) -> Tensor:
        """What heads (values, critics) read of a state. Shape: (T, D)."""
        return state.flatten(1)

    def shift(self, state: State, vector: Tensor) -> State:
        """Add a vector to what `summary` reads of a state. Shape: (T, D)."""
        return state + vector.view_as(state)

    def trunk(self) -> SequencePolicy:
        """A policy over item ids whose encoder and item table a reward model starts from.

        Raises:
            InputError: there is none.
        """
        raise InputError(
            f"a reward model cannot start from {type(self).__name__}, which has no item table",
            where="model.init_from",
            remedy="use a policy that reads histories of item ids, such as SequencePolicy",
        )

    def origin(self, start: Policy) -> list[Tensor]:
        """Weights, in the order of `parameters`, with which this policy equals the one it was trained from."""
        return list(start.parameters())

    def log_prob(self, state: State, item: Tensor) -> Tensor:
        """Log-probability of one item a state. Shape: int64 (T,) -> (T,)."""
        return self.log_probs(state, item[:, None])[:, 0]

    def weighted_nll(self, state: State, item: Tensor, weight: Tensor) -> Tensor:
        """sum_t weight_t * -log pi(item_t | state_t), a scalar. The weights carry no gradient."""
        return -(weight.detach() * self.log_prob(state, item)).sum()

    @torch.no_grad()
    def sample(self, state: State, count: int) -> Tensor:
        """Items drawn with replacement. Shape: -> int64 (T, count)."""
        drawn = [draw(self.log_probs(state[part]), count) for part in chunks(len(state), self.num_items)]
        return torch.cat(drawn) + 1

    @torch.no_grad()
    def top_k(self, state: State, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k most probable items of each of T states, best first, without the pairs (target, item) in ``seen``.

        Shape: seen int64 (2, N) -> (T, k) log-probabilities (up to a constant a state), and int64 (T, k) items, 0 where
        fewer than k are left.
        """
        parts = [
            top_k_from_scores(self.log_probs(state[part]), k, _pairs(seen, part))
            for part in chunks(len(state), self.num_items)
        ]
        return torch.cat([score for score, _ in parts]), torch.cat([column for _, column in parts]) + 1

    @torch.no_grad()
    def ranks(self, state: State, item: Tensor, seen: Tensor | None = None) -> Tensor:
        """Rank of one item a state among the unseen items: 1 is best, 0 stands for item 0 (a miss).

        Ties count against the target. A target that was seen (logs repeat items) is ranked all the same.

        Shape: int64 (T,), seen int64 (2, N) -> int64 (T,).
        """
        ranks = [
            ranks_from_scores(self.log_probs(state[part]), item[part] - 1, _pairs(seen, part))
            for part in chunks(len(state), self.num_items)
        ]
        return torch.cat(ranks)


def mean_nll(policy: Policy, state: State, item_T: Tensor) -> Tensor:
    """mean_t -log pi(item_t | state_t) over the targets of all processes, a scalar."""
    targets = sum(counts(len(item_T), item_T.device))
    weight_T = torch.full(item_T.shape, 1 / targets, device=item_T.device)
    return gathered(policy.weighted_nll(state, item_T, weight_T)[None]).sum()


def rows_at_once(num_items: int) -> int:
    """How many states' scores over the whole catalogue are held at once."""
    return max(1, min(ROWS, SCORES // num_items))


def chunks(states: int, num_items: int) -> list[slice]:
    """Slices of `rows_at_once` states."""
    rows = rows_at_once(num_items)
    return [slice(first, min(first + rows, states)) for first in range(0, max(states, 1), rows)]


def draw(logp_TV: Tensor, count: int, uniform_TC: Tensor | None = None) -> Tensor:
    """Draw columns with replacement, by inverting the cumulative probabilities: int64 (T, count).

    The sum is float64: in float32, as in `torch.multinomial`, single items of a large catalogue are lost.
    ``uniform_TC`` are the uniform random numbers to use; None: new ones.
    """
    if uniform_TC is None:
        uniform_TC = torch.rand(len(logp_TV), count, dtype=torch.float64, device=logp_TV.device)
    cumulated_TV = logp_TV.double().exp_().cumsum_(dim=1)
    total_T1 = cumulated_TV[:, -1:]
    return torch.searchsorted(cumulated_TV, uniform_TC * total_T1, right=True).clamp_(max=logp_TV.shape[1] - 1)


def _pairs(seen: Tensor | None, part: slice) -> Pairs | None:
    """The seen pairs of some states, as (row within them, item - 1)."""
    if seen is None:
        return None
    own = seen[:, (seen[0] >= part.start) & (seen[0] < part.stop)]
    return own[0] - part.start, own[1] - 1


class Feedback(nn.Module):
    """A linear embedding of each event's standardised reward, to be added to the event's embedding.

    The state at event i, which predicts event i + 1, sees rewards up to event i: an event's own reward is never seen.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2, dim, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def calibrate(self, mean: float, scale: float) -> None:
        """Set the mean and the standard deviation of the rewards."""
        self.mean.fill_(mean)
        self.scale.fill_(scale)

    def forward(self, reward_BL: Tensor) -> Tensor:
        """Shape: (B, L), NaN where there is no reward -> (B, L, D)."""
        known_BL = ~reward_BL.isnan()
        z_BL = (reward_BL - self.mean) / self.scale
        return self.project(torch.stack([z_BL.nan_to_num(), known_BL.to(reward_BL.dtype)], dim=-1))


class HistoryPolicy(Policy):
    """A policy that reads histories of item ids with a sequence encoder.

    Args:
        encoder: turns embedded histories into states; its ``dim`` is that of the item table.
        num_items: V.
        feedback: whether the policy sees the rewards of earlier events.
    """

    def __init__(self, encoder: Encoder, num_items: int, feedback: bool) -> None:
        super().__init__()
        self.num_items = num_items
        self.item_embedding = nn.Embedding(num_items + 1, encoder.dim, padding_idx=0)
        nn.init.trunc_normal_(self.item_embedding.weight, std=0.02)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
        self.encoder = encoder
        self.past_rewards = Feedback(encoder.dim) if feedback else None

    def read(self, batch: Batch) -> Tensor:
        """The encoder's output after each event. Shape: -> (B, L, D)."""
        if batch.item_BL.shape[1] > self.encoder.max_length:
            raise InputError(
                f"histories of {batch.item_BL.shape[1]} events, and the encoder was made for {self.encoder.max_length}",
                where="data.max_length",
                remedy=f"use --data.max_length {self.encoder.max_length}, or train the recommender anew",
            )
        # the gradient of index_select is one index_add, much faster than that of indexing and of an embedding
        x_BLD = self.item_embedding.weight.index_select(0, batch.item_BL.flatten()).view(*batch.item_BL.shape, -1)
        if self.past_rewards is not None:
            x_BLD = x_BLD + self.past_rewards(batch.reward_BL)
        return self.encoder(x_BLD, batch.length_B, batch.time_BL, batch.request_time_BL)


class SequencePolicy(HistoryPolicy):
    """A sequence encoder over item ids: log pi(v | h) = log softmax_v(cos(h, e_v) / temperature + c log(n_v + 1/2)).

    The head of HSTU's research model (meta-recsys/generative-recommenders), and an item prior of strength c.

    Args:
        encoder: turns embedded histories into states; its ``dim`` is that of the item table.
        num_items: V.
        temperature: of the softmax; smaller is sharper.
        feedback: whether the policy sees the rewards of earlier events.
    """

    def __init__(self, encoder: Encoder, num_items: int, temperature: float = 0.05, feedback: bool = False) -> None:
        super().__init__(encoder, num_items, feedback)
        self.temperature = temperature
        self.prior = ItemPrior(num_items)

    def trunk(self) -> SequencePolicy:
        return self

    def set_counts(self, count_V: Tensor) -> None:
        self.prior.set_counts(count_V)

    @property
    def prior_strength(self) -> float:
        return self.prior.strength

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        self.prior.strength = float(strength)

    def encode(self, batch: Batch) -> Tensor:
        h_BLD = self.read(batch)
        return h_BLD.flatten(0, 1).index_select(0, batch.row_T * h_BLD.shape[1] + batch.column_T)

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        query_TX, item_VX = self._vectors(state)
        if items is None:
            return (query_TX @ item_VX.T / self.temperature).log_softmax(dim=-1)
        with torch.autocast(query_TX.device.type, enabled=False):
            if 2 * len(item_VX) <= items.shape[1] * query_TX.shape[1]:  # smaller and faster than gathering vectors
                return (query_TX @ item_VX.T / self.temperature).log_softmax(dim=-1).gather(1, items - 1)
            item_TCX = item_VX.index_select(0, items.flatten() - 1).view(*items.shape, -1)
            score_TC = (item_TCX @ query_TX[:, :, None])[:, :, 0] / self.temperature
        # The normaliser comes from one item's log-probability, which never holds T x V scores.
        first_T = log_prob(query_TX, item_VX, items[:, 0] - 1, 1 / self.temperature, self._bound())
        return score_TC + (first_T - score_TC[:, 0])[:, None]

    def log_prob(self, state: Tensor, item: Tensor) -> Tensor:
        return log_prob(*self._vectors(state), item - 1, 1 / self.temperature, self._bound())

    def weighted_nll(self, state: Tensor, item: Tensor, weight: Tensor) -> Tensor:
        return weighted_nll(*self._vectors(state), item - 1, weight, 1 / self.temperature, self._bound())

    def sampled_log_prob(self, state: Tensor, item: Tensor, negatives: int) -> Tensor:
        """Estimate log pi(item | state) from uniform negatives, drawn with replacement, that all states share: (T,).

        Each negative stands for num_items / negatives items (the logQ correction), which makes the softmax's sum an
        unbiased estimate; negatives that hit a state's own item are masked. Only the table's gradient is as large as
        the catalogue.
        """
        drawn_N = from_first(torch.randint(1, self.num_items + 1, (negatives,), device=state.device))
        log_count_N = state.new_full((negatives,), math.log(negatives / self.num_items), dtype=torch.float32)
        query_TX, chosen_X = self._vectors(state, torch.cat([item, drawn_N]))
        target_TX, negative_NX = chosen_X.split([len(item), negatives])
        return sampled_log_prob(query_TX, target_TX, negative_NX, item, drawn_N, 1 / self.temperature, log_count_N)

    @torch.no_grad()
    def top_k(self, state: Tensor, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        score, column = top_k(*self._vectors(state), k, None if seen is None else (seen[0], seen[1] - 1))
        return score / self.temperature, column + 1

    @torch.no_grad()
    def ranks(self, state: Tensor, item: Tensor, seen: Tensor | None = None) -> Tensor:
        return target_ranks(*self._vectors(state), item - 1, None if seen is None else (seen[0], seen[1] - 1))

    def _vectors(self, state: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States and items (None: all) in full precision, their product the logit times the temperature.

        Unit vectors, widened by the item prior where there is one. Shape: int64 (N,) -> (T, X), (N or V, X).
        """
        table = self.item_embedding.weight[1:] if items is None else self.item_embedding(items)
        return self.prior.append(unit(state.float()), unit(table.float()), 1 / self.temperature, items)

    def _bound(self) -> float:
        return UNIT + self.prior.bound(1 / self.temperature)
