"""A policy that says an item in two words, as a decoder over semantic ids does.

Item v is the pair of codes (a, b) with v - 1 = a C + b, and

    log pi(v | s) = log p(a | s) + log p(b | s, a)

with a head for the first code and one for the second that reads the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recalign.nn import Encoder
from recalign.recommender.policy import Policy
from recalign.sequences import Batch

NEVER = -1e9  # logit of a code that leads to no item; finite, because a first code may have no second one


class TokenPolicy(Policy):
    """Two codes an item.

    Args:
        encoder: turns embedded histories into states.
        num_items: V, at most codes ** 2.
        codes: C, words for each place.
    """

    def __init__(self, encoder: Encoder, num_items: int, codes: int = 16) -> None:
        super().__init__()
        self.num_items, self.codes = num_items, codes
        self.first_code, self.second_code = nn.Embedding(codes, encoder.dim), nn.Embedding(codes, encoder.dim)
        self.encoder = encoder
        self.query = nn.Linear(encoder.dim, 2 * encoder.dim)
        self.first_head, self.second_head = nn.Linear(encoder.dim, codes), nn.Linear(encoder.dim, codes)
        item_CC = torch.arange(codes**2).view(codes, codes)
        self.exists_CC: Tensor
        self.register_buffer("exists_CC", item_CC < num_items)

    def encode(self, batch: Batch) -> Tensor:
        """Shape: (T, 2, D), what each code is read from."""
        first_BL, second_BL = self._split(batch.item_BL.clamp(min=1))
        x_BLD = self.first_code(first_BL) + self.second_code(second_BL)
        h_BLD = self.encoder(x_BLD, batch.length_B, batch.time_BL, batch.request_time_BL)
        return self.query(h_BLD[batch.row_T, batch.column_T]).unflatten(-1, (2, -1))

    def log_probs(self, state: Tensor, items: Tensor | None = None) -> Tensor:
        second_TCD = state[:, 1, None] + self.first_code.weight
        logp_TCC = self._first(state)[:, :, None] + self._second(second_TCD, self.exists_CC)
        logp_TV = logp_TCC.flatten(1)[:, : self.num_items]
        return logp_TV if items is None else logp_TV.gather(1, items - 1)

    def log_prob(self, state: Tensor, item: Tensor) -> Tensor:
        """Along the item's own codes: two softmaxes over C, none over V."""
        first_T, second_T = self._split(item)
        logp_TC = self._second(state[:, 1] + self.first_code(first_T), self.exists_CC[first_T])
        return (self._first(state).gather(1, first_T[:, None]) + logp_TC.gather(1, second_T[:, None]))[:, 0]

    @torch.no_grad()
    def sample(self, state: Tensor, count: int) -> Tensor:
        """The first code, then the second given the first."""
        first_TS = self._first(state).exp().multinomial(count, replacement=True)
        second_TSD = state[:, 1, None] + self.first_code(first_TS)
        logp_TSC = self._second(second_TSD, self.exists_CC[first_TS])
        second_TS = logp_TSC.exp().flatten(0, 1).multinomial(1).view_as(first_TS)
        return first_TS * self.codes + second_TS + 1

    def _split(self, item: Tensor) -> tuple[Tensor, Tensor]:
        return (item - 1) // self.codes, (item - 1) % self.codes

    def _first(self, state: Tensor) -> Tensor:
        return self.first_head(state[:, 0]).masked_fill(~self.exists_CC.any(dim=1), NEVER).log_softmax(dim=-1)

    def _second(self, query: Tensor, exists: Tensor) -> Tensor:
        return self.second_head(query).masked_fill(~exists, NEVER).log_softmax(dim=-1)


@dataclass
class Parts:
    """What each code is read from: (T, D) twice."""

    first_TD: Tensor
    second_TD: Tensor

    def __len__(self) -> int:
        return len(self.first_TD)

    def __getitem__(self, rows: slice) -> Parts:
        return Parts(self.first_TD[rows], self.second_TD[rows])

    def stacked(self) -> Tensor:
        return torch.stack([self.first_TD, self.second_TD], dim=1)


class PartsPolicy(TokenPolicy):
    """The same with a state that is not a tensor."""

    def encode(self, batch: Batch) -> Parts:  # type: ignore[override]
        return Parts(*super().encode(batch).unbind(1))

    def summary(self, state: Parts) -> Tensor:
        return state.stacked().flatten(1)

    def shift(self, state: Parts, vector: Tensor) -> Parts:
        first_TD, second_TD = vector.chunk(2, dim=1)
        return Parts(state.first_TD + first_TD, state.second_TD + second_TD)

    def log_probs(self, state: Parts, items: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().log_probs(state.stacked(), items)

    def log_prob(self, state: Parts, item: Tensor) -> Tensor:  # type: ignore[override]
        return super().log_prob(state.stacked(), item)

    def sample(self, state: Parts, count: int) -> Tensor:  # type: ignore[override]
        return super().sample(state.stacked(), count)
