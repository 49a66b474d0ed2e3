"""A policy over semantic ids: OneRec's decoder writes an item code by code, and only codes that items have.

    log pi(v | s) = sum_l log softmax(logits of the children of the node c_1 .. c_(l-1) at s)[c_l]

The softmax of each level runs over the children that exist, so that the probabilities of all items sum to 1 and
mean what they mean for a policy over item ids.

Shape suffixes:
    T  states      V  items      S  levels      D  width      N  prefixes of each state      F  most children of a node
    C  candidates      M  prefixes one code longer      X  states whose list is not known to be exact
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.errors import InputError
from recalign.nn import HSTU, Encoder, LazyContext, LazyDecoder, NodeLogits, Trie, Window
from recalign.nn.onerec_decoder import Past
from recalign.recommender.onerec_choices import Beam, Choose, dead_nodes, follow, ranks_within, sampled
from recalign.recommender.policy import seen_within
from recalign.recommender.sequence_policy import HistoryPolicy, SequencePolicy

PREFIX_EVENTS = 2**22  # prefixes x events of their contexts, or x codes of a level, that are held at once
HEAD_NUMBERS = 2**24  # numbers that the head holds at once where each state has prefixes of its own


@dataclass(frozen=True)
class CodeState:
    """T states: their contexts, and the decoder after its first token.

    Attributes:
        window: what they see of the histories.
        past: of each block, keys and values of the first token.
        first_TD: the output there, from which the first code is predicted.
    """

    window: Window
    past: list[Past]
    first_TD: Tensor

    def __len__(self) -> int:
        return len(self.first_TD)

    def __getitem__(self, part: slice | Tensor) -> CodeState:
        if isinstance(part, slice) and part == slice(0, len(self)):
            return self  # with the layout of its window
        past = [Past(k[part], v[part]) for k, v in self.past]
        return CodeState(self.window[part], past, self.first_TD[part])


class CodePolicy(HistoryPolicy):
    """A decoder over codes.

    Args:
        decoder: writes the codes.
        num_items: V.
        sizes: number of codes at each level.
        encoder: reads the history before the decoder does; null: `recalign.nn.LazyContext`, events and positions.
        feedback: whether the policy sees the rewards of earlier events.
        beam: width of the beam search behind `top_k`; k where that is more.
        widest: how wide it may become where a list is not known to be exact; no more than ``beam``: it never widens.
        temperature: of the softmax over cosines of the decoder's output and the nodes' vectors; null: over their
            products, as published.

    Raises:
        InputError: encoder and decoder differ in dim or max_length.
    """

    PRIOR_STATE = ("count_V", "strength")
    count_V: Tensor
    strength: Tensor

    def __init__(
        self,
        decoder: LazyDecoder,
        num_items: int,
        sizes: list[int],
        encoder: Encoder | None = None,
        feedback: bool = False,
        beam: int = 50,
        widest: int = 400,
        temperature: float | None = None,
    ) -> None:
        encoder = encoder or LazyContext(decoder.dim, decoder.max_length, decoder.dropout.p)
        if (encoder.dim, encoder.max_length) != (decoder.dim, decoder.max_length):
            raise InputError(
                f"an encoder of dim {encoder.dim} and max_length {encoder.max_length}, and a decoder of dim "
                f"{decoder.dim} and max_length {decoder.max_length}",
                where="model.encoder",
                remedy="give both the same",
            )
        super().__init__(encoder, num_items, feedback)
        self.decoder, self.beam, self.widest = decoder, beam, widest
        self.trie = Trie(num_items, sizes)
        self.start = nn.Parameter(torch.randn(decoder.dim) * 0.02)
        self.code_embedding = nn.ParameterList(
            nn.init.normal_(torch.empty(size, decoder.dim), std=0.02) for size in sizes[:-1]
        )
        self.head = NodeLogits(decoder.dim, num_items, sizes, temperature)
        self.register_buffer("count_V", torch.zeros(num_items))
        self.register_buffer("strength", torch.zeros(()))
        self.register_load_state_dict_post_hook(lambda policy, _: policy.set_counts(policy.count_V))
        self.set_counts(self.count_V)

    def set_codes(self, codes_VS: Tensor) -> None:
        """Give item v the codes of row v - 1. Shape: int64 (V, S)."""
        self.trie.set_codes(codes_VS)
        self.set_counts(self.count_V)

    def set_counts(self, count_V: Tensor) -> None:
        """Set how often each item was chosen in training: the item prior. Shape: (V,)."""
        self.count_V.copy_(count_V)
        for depth in range(1, self.trie.levels + 1):
            below_N = self.trie.below(depth, self.count_V)
            self.register_buffer(f"prior_{depth}", (below_N + 0.5).log(), persistent=False)

    @property
    def prior_strength(self) -> float:
        """c: a node's logit among its siblings gains c log(training events below it + 1/2)."""
        return self.strength.item()

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        self.strength.fill_(strength)

    @property
    def has_trunk(self) -> bool:  # type: ignore[override]
        return not isinstance(self.encoder, LazyContext)

    def trunk(self) -> SequencePolicy:
        """The encoder; a lazy context, whose events do not see each other, gives way to an untrained HSTU."""
        own = self.encoder
        policy = SequencePolicy(own if self.has_trunk else HSTU(own.dim, max_length=own.max_length), self.num_items)
        policy.item_embedding.load_state_dict(self.item_embedding.state_dict())
        return policy

    def encode(self, batch: Batch) -> CodeState:
        x_BLD = self.read(batch)
        window = Window(self.decoder.keys(x_BLD), batch.time_BL, batch.request_time_BL, batch.row_T, batch.column_T)
        h_TND, past = self.decoder(self.start.expand(len(batch.row_T), -1)[:, None], window, None)
        return CodeState(window, past, h_TND[:, 0])

    def hidden(self, state: CodeState) -> Tensor:
        return state.first_TD

    def log_probs(self, state: CodeState, items: Tensor | None = None) -> Tensor:
        """Without candidates, or with more than there are prefixes, every prefix is walked once."""
        prefixes = self.trie.nodes(self.trie.levels - 1)
        if items is not None and items.shape[1] <= prefixes:
            return self._descend(state, follow(self.trie, items))[1]
        leaf_V = self.trie.node_VS[:, -1]
        parts = [self.score_all(state[part]).index_select(1, leaf_V) for part in self._parts(state, prefixes)]
        logp_TV = torch.cat(parts)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)

    @torch.no_grad()
    def ranks_within(self, state: CodeState, item: Tensor, k: int, seen: Tensor | None = None) -> Tensor:
        """Reads only the prefixes that `recalign.recommender.onerec_choices.ranks_within` asks for."""
        ranks, depth = [], self.trie.levels - 1
        for part in self._parts(state, self.trie.nodes(depth)):
            logp_TN, past = self._walk(state[part], depth)
            below = functools.partial(self._below, state[part], past, logp_TN)
            ranks.append(ranks_within(self.trie, item[part], k, seen_within(seen, part), logp_TN, below))
        return torch.cat(ranks)

    @torch.no_grad()
    def sample(self, state: CodeState, count: int) -> Tensor:
        leaf = [self._descend(state[part], sampled(count))[0] for part in self._parts(state, count, own=True)]
        return self.trie.item_V[torch.cat(leaf)]

    @torch.no_grad()
    def top_k(self, state: CodeState, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """By beam search, which leaves seen items out on the way.

        No item is more probable than a prefix of it. So a list is exact if its last item is at least as probable as the
        best prefix that the search did not follow. States whose list is not known to be exact are searched again, four
        times as wide each time, up to ``widest``; the last list stands, exact or not. Where a walk of all prefixes
        costs no more than the search, there is a walk.
        """
        return self._widening(state, k, seen, max(self.beam, k))

    def _widening(self, state: CodeState, k: int, seen: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
        """`top_k` with a beam that begins at some width."""
        if 2 * width >= self.trie.nodes(self.trie.levels - 1):
            return super().top_k(state, k, seen)  # a walk costs half a search that is as wide
        score_TK, item_TK, exact_T = self._search(state, k, seen, width)
        if width < self.widest and not exact_T.all():
            open_X = (~exact_T).nonzero()[:, 0]
            wider = min(4 * width, self.widest)
            if seen is not None:  # number the states that are left from 0 on
                own = seen[:, torch.isin(seen[0], open_X)]
                seen = torch.stack([torch.searchsorted(open_X, own[0]), own[1]])
            score_TK[open_X], item_TK[open_X] = self._widening(state[open_X], k, seen, wider)
        return score_TK, item_TK

    def _search(self, state: CodeState, k: int, seen: Tensor | None, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Beam search of one width: `top_k`, and whether each list is known to be exact, bool (T,)."""
        found = []
        for part in self._parts(state, width, own=True):
            beam = Beam(self.trie, width, dead_nodes(self.trie, seen_within(seen, part)))
            leaf, logp = self._descend(state[part], beam)
            missing = max(0, k - leaf.shape[1])
            score = nn.functional.pad(logp[:, :k], (0, missing), value=-torch.inf)
            item = nn.functional.pad(self.trie.item_V[leaf[:, :k]], (0, missing))
            found.append((score, item.masked_fill(score == -torch.inf, 0), score[:, -1] >= beam.lost_T))
        score_TK, item_TK, exact_T = map(torch.cat, zip(*found, strict=True))
        return score_TK, item_TK, exact_T

    def _parts(self, state: CodeState, prefixes: int, own: bool = False) -> list[slice]:
        """Slices of the states that need bounded memory; ``own``: each state has prefixes of its own."""
        rows = max(1, PREFIX_EVENTS // (prefixes * max(state.window.time_BL.shape[1], *self.trie.sizes)))
        if own:
            rows = max(1, min(rows, HEAD_NUMBERS // (prefixes * self.head.most_numbers(self.trie))))
        return [slice(first, min(first + rows, len(state))) for first in range(0, max(len(state), 1), rows)]

    def _next(self, depth: int, h_TND: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Children of nodes of a depth and their log-probabilities among siblings, -inf where there is none.

        Shape: int64 (T, N) or (N,) -> int64 and float (T, N, F); the first (N, F) if nodes are the same for all states.
        """
        child, exists = self.trie.children_of(depth, node)
        prior_M = self.strength * self.get_buffer(f"prior_{depth + 1}")
        return child, self.head.log_probs(self.trie, depth, h_TND, child, exists, prior_M)

    def _read_code(self, depth: int, code: Tensor, state: CodeState, past: list[Past]) -> tuple[Tensor, list[Past]]:
        """Read the last code of prefixes of a length. Shape: int64 (T, N) or (N,) -> (T, N, D)."""
        token = self.code_embedding[depth - 1].index_select(0, code.flatten()).unflatten(0, code.shape)
        h_TND, past = self.decoder(token.expand(state.first_TD.shape[0], -1, -1), state.window, past)
        return h_TND, past

    def score_all(self, state: CodeState) -> Tensor:
        """Log-probabilities of all leaves of the trie. Shape: -> (T, N), N = V leaves in the trie's order."""
        return self._walk(state, self.trie.levels)[0]

    def _walk(self, state: CodeState, levels: int) -> tuple[Tensor, list[Past]]:
        """Log-probabilities of all nodes of a depth, for all states at once, and the past of their parents."""
        h_TND, past = state.first_TD[:, None], state.past
        logp_TN = h_TND.new_zeros(h_TND.shape[0], 1, dtype=torch.float32)  # `len` would be a constant in a graph
        for depth in range(levels):
            node_N = torch.arange(self.trie.nodes(depth), device=h_TND.device)
            if depth:
                past = [each.of(self.trie.parent(depth)) for each in past]
                h_TND, past = self._read_code(depth, self.trie.code(depth)[node_N], state, past)
            logp_TNF = logp_TN[:, :, None] + self._next(depth, h_TND, node_N)[1]
            child_M = torch.arange(self.trie.nodes(depth + 1), device=h_TND.device)
            parent_M, place_M = self.trie.parent(depth + 1), self.trie.place(depth + 1, child_M)
            logp_TN = logp_TNF.flatten(1).index_select(1, parent_M * logp_TNF.shape[2] + place_M)
        return logp_TN, past

    def _below(
        self, state: CodeState, past: list[Past], logp_TN: Tensor, state_X: Tensor, node_XM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Leaves below prefixes of some states and their log-probabilities: `_walk`'s next step. Shape: -> (X, M, F)"""
        depth, h_XMD = self.trie.levels - 1, state.first_TD[state_X][:, None]
        if depth:
            parent_XM = self.trie.parent(depth)[node_XM]
            own = [Past(*(x[state_X[:, None], parent_XM] for x in each)) for each in past]
            h_XMD, _ = self._read_code(depth, self.trie.code(depth)[node_XM], state[state_X], own)
        leaf_XMF, logp_XMF = self._next(depth, h_XMD, node_XM)
        return leaf_XMF, logp_TN[state_X[:, None], node_XM][:, :, None] + logp_XMF

    def _descend(self, state: CodeState, choose: Choose) -> tuple[Tensor, Tensor]:
        """From the root to leaves, chosen level by level. Shape: -> int64 leaves and log-probabilities, (T, M)."""
        h_TND, past = state.first_TD[:, None], state.past
        node_TN = state.window.row_T.new_zeros(len(state), 1)
        logp_TN = h_TND.new_zeros(len(state), 1, dtype=torch.float32)
        for depth in range(self.trie.levels):
            if depth:
                h_TND, past = self._read_code(depth, self.trie.code(depth)[node_TN], state, past)
            child_TNF, logp_TNF = self._next(depth, h_TND, node_TN)
            parent, node_TN, logp_TN = choose(depth, child_TNF, logp_TN[:, :, None] + logp_TNF)
            if parent is not None:
                past = [each.of(parent) for each in past]
        return node_TN, logp_TN
