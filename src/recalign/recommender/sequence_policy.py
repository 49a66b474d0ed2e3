"""Policies over histories of item ids: a sequence encoder, and a softmax over cosines.

Shape suffixes: B histories, L events of each, T states, C candidates, N items, V items of the catalogue, D width, X
width with the prior's columns.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.errors import InputError
from recalign.nn import Encoder, target_ranks, unit
from recalign.recommender.policy import Policy, State, chunks
from recalign.recommender.prior import ItemPrior

LEFT_OUT = -1e4  # log-probability of items left out of the softmax: finite, so that p log p is 0, not NaN
LARGEST_COSINE = 1.01  # an upper bound despite rounding


class Feedback(nn.Module):
    """A linear embedding of each event's standardised reward, added to the event's embedding.

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
        features: item features, a `recalign.recommender.feature_table.FeatureTable`; not copied. None: ids only.
        memory: a `recalign.recommender.memory.Memory`; not copied.
    """

    num_warm = 0

    def __init__(
        self, encoder: Encoder, num_items: int, feedback: bool, features: Any = None, memory: Any = None
    ) -> None:
        super().__init__()
        self.num_items, self.memory = num_items, memory
        self.item_embedding = nn.Embedding(num_items + 1, encoder.dim, padding_idx=0)
        nn.init.trunc_normal_(self.item_embedding.weight, std=0.02)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
        self.encoder = encoder
        self.past_rewards = Feedback(encoder.dim) if feedback else None
        self.features = features
        self.num_warm = num_items if features is None else features.warm

    def item_table(self) -> Tensor:
        """A vector of each item, including its features. Shape: -> (V + 1, D), the padding item first."""
        weight_WD: Tensor = self.item_embedding.weight
        return weight_WD if self.features is None else self.features(weight_WD)

    def begin_step(self) -> None:
        if self.features is not None:
            self.features.begin_step()

    def end_step(self) -> None:
        if self.features is not None:
            self.features.end_step()

    def read(self, batch: Batch) -> Tensor:
        """The encoder's output after each event. Shape: -> (B, L, D)."""
        if batch.item_BL.shape[1] > self.encoder.max_length:
            raise InputError(
                f"histories have {batch.item_BL.shape[1]} events; the encoder is limited to {self.encoder.max_length}",
                where="data.max_length",
                remedy=f"use --data.max_length {self.encoder.max_length}, or train the recommender anew",
            )
        # the backward of index_select is one index_add, much faster than that of indexing or nn.Embedding
        x_BLD = self.item_table().index_select(0, batch.item_BL.flatten()).unflatten(0, batch.item_BL.shape)
        if self.past_rewards is not None:
            x_BLD = x_BLD + self.past_rewards(batch.reward_BL)
        return self.encoder(x_BLD, batch.length_B, batch.time_BL, batch.request_time_BL)


class SequencePolicy(HistoryPolicy):
    """A sequence encoder over item ids, with an item prior of strength c and a memory of strength a.

        log pi(v | h) = log softmax_v(cos(h, e_v) / temperature + c log(n_v + 1/2) + a s(v | h))

    The head of HSTU's research model (meta-recsys/generative-recommenders). With a memory, probabilities come from the
    scores of all items, in chunks of states.

    Args:
        encoder: turns embedded histories into states; its ``dim`` is that of the item table.
        num_items: V.
        temperature: of the softmax; smaller is sharper.
        feedback: whether the policy sees the rewards of earlier events.
        features, memory: as in `HistoryPolicy`. In training, the softmax leaves out items without training events.
    """

    softmax: ClassVar[Any]
    """log pi of single items, without all scores at once; the package sets it to `recalign.nn.softmax`."""

    def __init__(
        self,
        encoder: Encoder,
        num_items: int,
        temperature: float = 0.05,
        feedback: bool = False,
        features: Any = None,
        memory: Any = None,
    ) -> None:
        super().__init__(encoder, num_items, feedback, features, memory)
        self.temperature = temperature
        self.prior = ItemPrior(num_items)

    def trunk(self) -> SequencePolicy:
        """This policy; if it has features, one with these added into its item embeddings."""
        return self if self.features is None else self.features.without_features(self)

    def set_counts(self, count_V: Tensor) -> None:
        """Set the item prior's counts. Cold items get the others' mean count: 0 would mean that users avoid them."""
        if self.num_warm < self.num_items:
            mean = count_V[: self.num_warm].double().mean()
            count_V = torch.cat([count_V[: self.num_warm].double(), mean.expand(self.num_items - self.num_warm)])
        self.prior.set_counts(count_V)

    @property
    def prior_strength(self) -> float:
        return self.prior.strength

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        self.prior.strength = float(strength)

    def encode(self, batch: Batch) -> State:
        state_TD = batch.newest(self.read(batch))
        return state_TD if self.memory is None or self.in_training_pass else self.memory.join(state_TD, batch)

    def hidden(self, state: State) -> Tensor:
        return state if isinstance(state, Tensor) else state.state_TD

    def logits(self, state: State) -> Tensor:
        return self._logits(state, *self._vectors(state))

    def _logits(self, state: State, query_TX: Tensor, item_VX: Tensor) -> Tensor:
        with torch.autocast(query_TX.device.type, enabled=False):
            logit_TV = query_TX @ item_VX.T / self.temperature
            return logit_TV + self.memory.strength * state.recalled.score_TV if self.recalls else logit_TV

    def log_probs(self, state: State, items: Tensor | None = None) -> Tensor:
        if self.recalls and items is not None:
            parts = chunks(len(state), self.num_items)
            return torch.cat([self.log_probs(state[part]).gather(1, items[part] - 1) for part in parts])
        query_TX, item_VX = self._vectors(state)
        with torch.autocast(query_TX.device.type, enabled=False):
            # Scores of the whole table take less room and time than the vectors of so many items.
            if items is None or 2 * len(item_VX) <= items.shape[1] * query_TX.shape[1]:
                logp_TV = self._logits(state, query_TX, item_VX).log_softmax(dim=-1)
                if left_out := self.num_items - len(item_VX):
                    logp_TV = F.pad(logp_TV, (0, left_out), value=LEFT_OUT)
                return logp_TV if items is None else logp_TV.gather(1, items - 1)
            item_TCX = item_VX.index_select(0, items.flatten() - 1).unflatten(0, items.shape)
            score_TC = (item_TCX @ query_TX[:, :, None])[:, :, 0] / self.temperature
        # The normaliser comes from one item's log-probability, which never holds T x V scores.
        first_T = self.softmax.log_prob(query_TX, item_VX, items[:, 0] - 1, 1 / self.temperature, self._bound())
        return score_TC + (first_T - score_TC[:, 0])[:, None]

    def log_prob(self, state: State, item: Tensor) -> Tensor:
        if self.recalls:
            return super().log_prob(state, item)
        return self.softmax.log_prob(*self._vectors(state), item - 1, 1 / self.temperature, self._bound())

    def weighted_nll(self, state: State, item: Tensor, weight: Tensor) -> Tensor:
        if self.recalls:
            return super().weighted_nll(state, item, weight)
        return self.softmax.weighted_nll(*self._vectors(state), item - 1, weight, 1 / self.temperature, self._bound())

    @torch.no_grad()
    def top_k(self, state: State, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.recalls:
            return super().top_k(state, k, seen)
        score, column = self.lists.top_k(*self._vectors(state), k, None if seen is None else (seen[0], seen[1] - 1))
        return score / self.temperature, column + 1

    @torch.no_grad()
    def ranks(self, state: State, item: Tensor, seen: Tensor | None = None) -> Tensor:
        if self.recalls:
            return super().ranks(state, item, seen)
        return target_ranks(*self._vectors(state), item - 1, None if seen is None else (seen[0], seen[1] - 1))

    def vectors_of(self, state: State, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of states and of some items, in float32; their dot product is the logit times the temperature.

        Unit vectors, with further columns if the item prior is on. Shape: int64 (N,) -> (T, X), (N, X).
        """
        table = self.item_embedding(items) if self.features is None else self.item_table().index_select(0, items)
        return self._widened(state, table, items - 1)

    def _vectors(self, state: State) -> tuple[Tensor, Tensor]:
        """`vectors_of` the items in the softmax: all, or, in training, those with training events."""
        table = self.item_table()[1:][: self.num_warm if self.in_training_pass else None]
        return self._widened(state, table, slice(len(table)))

    def _widened(self, state: State, item_ND: Tensor, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        query_TD = state if isinstance(state, Tensor) else state.state_TD
        query_TX = self.prior.augment_queries(unit(query_TD.float()))
        return query_TX, self.prior.augment_items(unit(item_ND.float()), 1 / self.temperature, rows)

    def _bound(self) -> float:
        return LARGEST_COSINE + self.prior.bound(1 / self.temperature)
