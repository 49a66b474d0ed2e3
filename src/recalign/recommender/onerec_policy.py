"""A policy over semantic ids: OneRec's decoder generates an item code by code, along the trie of existing items.

    log pi(v | s) = sum_l log softmax(logits of the children of the node c_1 .. c_(l-1) at s)[c_l]

The softmax of each level runs over existing children, so that the probabilities of all items sum to 1, as for a policy
over item ids.

Shape suffixes:
    T  states      V  items      S  levels      D  width      N  prefixes of each state      F  most children of a node
    C  candidates      M  prefixes one code longer      X  states whose list is not known to be exact
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.nn import HSTU, LazyContext, LazyDecoder, NodeLogits, Trie, Window, ranks_from_scores
from recalign.nn.onerec_decoder import Past
from recalign.recommender.onerec_choices import Beam, Choose, dead_nodes, follow, ranks_within, sampled
from recalign.recommender.policy import seen_within
from recalign.recommender.sequence_policy import HistoryPolicy, SequencePolicy

PREFIX_EVENTS = 2**22  # prefixes x events of their contexts (or x codes of a level) in memory at once
HEAD_NUMBERS = 2**24  # numbers that the head has in memory at once if each state has its own prefixes


@dataclass(frozen=True)
class CodeState:
    """T states: their contexts, and the decoder after its start token.

    Attributes:
        window: the part of the histories that they see.
        past: each block's keys and values of the start token.
        first_TD: the decoder's output, from which the first code is predicted.
        recalled: the memory's view of the histories, a `recalign.recommender.memory.Recalled`; None: no memory.
    """

    window: Window
    past: list[Past]
    first_TD: Tensor
    recalled: Any = None

    def __len__(self) -> int:
        return len(self.first_TD)

    def __getitem__(self, part: slice | Tensor) -> CodeState:
        if isinstance(part, slice) and part == slice(0, len(self)):
            return self  # keeps the window's cached grid
        recalled = None if self.recalled is None else self.recalled[part]
        past = [Past(k[part], v[part]) for k, v in self.past]
        return CodeState(self.window[part], past, self.first_TD[part], recalled)


class CodePolicy(HistoryPolicy):
    """A decoder over codes.

    Args:
        decoder: generates the codes; it reads events with their positions (`recalign.nn.LazyContext`).
        num_items: V.
        sizes: number of codes at each level.
        feedback: whether the policy sees the rewards of earlier events.
        beam: width of the beam search behind `top_k`; at least k.
        widest: largest width of the search, which widens if a list may not be exact; up to ``beam``: it never widens.
        temperature: of the softmax over cosines of the decoder's output and the nodes' vectors; null: over their
            dot products, as published.
        memory: as in `HistoryPolicy`. It adds log(sum_v n_v exp(a s_v) / sum_v n_v) to a node's logit, over the
            items v below the node, with n_v their training events + 1/2.
    """

    PRIOR_STATE = ("count_V", "strength")
    has_trunk = False
    count_V: Tensor
    strength: Tensor

    def __init__(
        self,
        decoder: LazyDecoder,
        num_items: int,
        sizes: list[int],
        feedback: bool = False,
        beam: int = 50,
        widest: int = 400,
        temperature: float | None = None,
        memory: Any = None,
    ) -> None:
        context = LazyContext(decoder.dim, decoder.max_length, decoder.dropout.p)
        super().__init__(context, num_items, feedback, memory=memory)
        self.decoder, self.beam, self.widest = decoder, beam, widest
        self.trie = Trie(num_items, sizes)
        self.start = nn.Parameter(torch.randn(decoder.dim) * 0.02)
        self.code_embedding = nn.ParameterList(
            nn.init.normal_(torch.empty(size, decoder.dim), std=0.02) for size in sizes[:-1]
        )
        self.head = NodeLogits(decoder.dim, num_items, sizes, temperature)
        self.register_buffer("count_V", torch.zeros(num_items))
        self.register_buffer("strength", torch.zeros(()))
        self._prior_strength = 0.0  # that of the buffer; reading it does not synchronise with the device
        self.register_load_state_dict_post_hook(lambda policy, _: policy.read_buffers())
        self.set_counts(self.count_V)

    def set_codes(self, codes_VS: Tensor) -> None:
        """Give item v the codes of row v - 1. Shape: int64 (V, S)."""
        self.trie.set_codes(codes_VS)
        self.set_counts(self.count_V)

    def set_counts(self, count_V: Tensor) -> None:
        """Set the item prior's counts: training events of each item. Shape: (V,)."""
        self.count_V.copy_(count_V)
        for depth in range(1, self.trie.levels + 1):
            below_N = self.trie.below(depth, self.count_V)
            self.register_buffer(f"prior_{depth}", (below_N + 0.5).log(), persistent=False)

    def read_buffers(self) -> None:
        """After a ``state_dict`` is loaded: set what follows from its counts and strength."""
        self.set_counts(self.count_V)
        self._prior_strength = self.strength.item()

    @property
    def prior_strength(self) -> float:
        """c: the prior adds c log(training events below it + 1/2) to a node's logit."""
        return self._prior_strength

    @prior_strength.setter
    def prior_strength(self, strength: float) -> None:
        self._prior_strength = float(strength)
        self.strength.fill_(strength)

    def trunk(self) -> SequencePolicy:
        """A policy with this item table and an untrained HSTU, as the decoder has no attention between events."""
        policy = SequencePolicy(HSTU(self.decoder.dim, max_length=self.decoder.max_length), self.num_items)
        policy.item_embedding.load_state_dict(self.item_embedding.state_dict())
        return policy

    def encode(self, batch: Batch) -> CodeState:
        x_BLD = self.read(batch)
        window = Window(self.decoder.keys(x_BLD), batch.time_BL, batch.request_time_BL, batch.row_T, batch.column_T)
        h_TND, past = self.decoder(self.start.expand(len(batch.row_T), -1)[:, None], window, None)
        recalled = None if self.memory is None or self.in_training_pass else self.memory.recall(batch)
        return CodeState(window, past, h_TND[:, 0], recalled)

    def hidden(self, state: CodeState) -> Tensor:
        return state.first_TD

    def log_probs(self, state: CodeState, items: Tensor | None = None) -> Tensor:
        """Log-probabilities. Without candidates, or with more candidates than prefixes, computes every prefix once."""
        prefixes = self.trie.nodes(self.trie.levels - 1)
        if items is not None and items.shape[1] <= prefixes:
            return self._descend(state, follow(self.trie, items))[1]
        parts = [
            self.walk(state[part], self.trie.levels)[0].index_select(1, self.trie.node_VS[:, -1])
            for part in self._parts(state, prefixes)
        ]
        logp_TV = torch.cat(parts)
        return logp_TV if items is None else logp_TV.gather(1, items - 1)

    @torch.no_grad()
    def ranks_within(self, state: CodeState, item: Tensor, k: int, seen: Tensor | None = None) -> Tensor:
        """Decodes last codes only below prefixes that `recalign.recommender.onerec_choices.ranks_within` reads."""
        ranks, depth = [], self.trie.levels - 1
        for part in self._parts(state, self.trie.nodes(depth)):
            logp_TN, past = self.walk(state[part], depth)
            below = functools.partial(self._below, state[part], past, logp_TN)
            ranks.append(ranks_within(self.trie, item[part], k, seen_within(seen, part), logp_TN, below))
        return torch.cat(ranks)

    @torch.no_grad()
    def ranks_by_strengths(
        self, state: CodeState, item: Tensor, k: int, seen: Tensor, strengths: Iterable[tuple[float, float]]
    ) -> Iterator[Tensor]:
        """Runs the decoder once, on all prefixes, for all strengths."""
        self.set_strengths(0.0, 0.0)
        plain_TV = self.log_probs(state).double().exp()
        nodes = [self.trie.below(depth, plain_TV) for depth in range(1, self.trie.levels + 1)]
        pairs = seen_within(seen, slice(0, len(state)))
        for memory, prior in strengths:
            self.set_strengths(memory, prior)
            yield ranks_from_scores(self._strengthened(nodes, state), item - 1, pairs)

    def _strengthened(self, nodes: list[Tensor], state: CodeState) -> Tensor:
        """Log-probabilities of items, with prior and memory. Shape: -> (T, V).

        ``nodes`` are the probabilities of each depth's nodes without prior and memory, (T, M). A node's weight among
        its siblings is its probability times exp of what prior and memory add to its logit.
        """
        found_TV = torch.zeros_like(nodes[-1])
        for depth, plain_TM in enumerate(nodes, 1):
            weight_TM = plain_TM * self._added(depth, state).exp()
            parent_M, item_V = self.trie.parent(depth), self.trie.node_VS[:, depth - 1]
            siblings_TN = weight_TM.new_zeros(len(weight_TM), self.trie.nodes(depth - 1))
            siblings_TN.index_add_(1, parent_M, weight_TM)
            found_TV += (weight_TM / siblings_TN[:, parent_M]).log()[:, item_V]
        return found_TV

    @torch.no_grad()
    def sample(self, state: CodeState, count: int) -> Tensor:
        leaf = [self._descend(state[part], sampled(count))[0] for part in self._parts(state, count, own=True)]
        return self.trie.item_V[torch.cat(leaf)]

    @torch.no_grad()
    def top_k(
        self, state: CodeState, k: int, seen: Tensor | None = None, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """By beam search, which skips seen items on the way.

        No item is more probable than a prefix of it. So a list is exact if its last item is at least as probable as the
        best prefix that the search did not follow. States whose list may not be exact are searched again, four times as
        wide each time, up to ``widest``; the last list is returned, exact or not. If computing all prefixes costs no
        more than the search, it replaces the search. ``width``: of the first search; None: ``beam``, at least k.
        """
        width = width or max(self.beam, k)
        if 2 * width >= self.trie.nodes(self.trie.levels - 1):
            return super().top_k(state, k, seen)  # a walk costs half as much as a search of the same width
        score_TK, item_TK, exact_T = self._search(state, k, seen, width)
        if width < self.widest and not exact_T.all():
            open_X = (~exact_T).nonzero()[:, 0]
            wider = min(4 * width, self.widest)
            if seen is not None:  # renumber the remaining states from 0
                own = seen[:, torch.isin(seen[0], open_X)]
                seen = torch.stack([torch.searchsorted(open_X, own[0]), own[1]])
            score_TK[open_X], item_TK[open_X] = self.top_k(state[open_X], k, seen, wider)
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
        """Split states into slices of bounded memory; ``own``: each state has its own prefixes."""
        rows = max(1, PREFIX_EVENTS // (prefixes * max(state.window.time_BL.shape[1], *self.trie.sizes)))
        if own:
            rows = max(1, min(rows, HEAD_NUMBERS // (prefixes * self.head.most_numbers(self.trie))))
        return [slice(first, min(first + rows, len(state))) for first in range(0, max(len(state), 1), rows)]

    def walk(self, state: CodeState, levels: int) -> tuple[Tensor, list[Past]]:
        """Log-probabilities of all nodes of depth ``levels``, (T, N), and the key-value caches of their parents."""
        past, node_N = state.past, torch.arange(1, device=state.first_TD.device)
        logp_TN = state.first_TD.new_zeros(state.first_TD.shape[0], 1, dtype=torch.float32)  # `len` is fixed in a graph
        for depth in range(levels):
            if depth:
                past = [each.of(self.trie.parent(depth)) for each in past]
            _, logp_TNF, past = self._children(depth, node_N, logp_TN, state, past)
            node_N = torch.arange(self.trie.nodes(depth + 1), device=node_N.device)
            parent_N, place_N = self.trie.parent(depth + 1), self.trie.place(depth + 1, node_N)
            logp_TN = logp_TNF.flatten(1).index_select(1, parent_N * logp_TNF.shape[2] + place_N)
        return logp_TN, past

    def _descend(self, state: CodeState, choose: Choose) -> tuple[Tensor, Tensor]:
        """Descend from the root to leaves, level by level. Shape: -> int64 leaves and log-probabilities, (T, M)."""
        past, node_TN = state.past, state.window.row_T.new_zeros(len(state), 1)
        logp_TN = state.first_TD.new_zeros(len(state), 1, dtype=torch.float32)
        for depth in range(self.trie.levels):
            child_TNF, logp_TNF, past = self._children(depth, node_TN, logp_TN, state, past)
            parent, node_TN, logp_TN = choose(depth, child_TNF, logp_TNF)
            if parent is not None:
                past = [each.of(parent) for each in past]
        return node_TN, logp_TN

    def _below(
        self, state: CodeState, past: list[Past], logp_TN: Tensor, state_X: Tensor, node_XM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Leaves below prefixes of some states and their log-probabilities: `walk`'s next step. Shape: -> (X, M, F)"""
        depth, state_X1 = self.trie.levels - 1, state_X[:, None]
        if depth:
            parent_XM = self.trie.parent(depth)[node_XM]
            past = [Past(*(x[state_X1, parent_XM] for x in each)) for each in past]
        return self._children(depth, node_XM, logp_TN[state_X1, node_XM], state[state_X], past)[:2]

    def _children(
        self, depth: int, node: Tensor, logp_TN: Tensor, state: CodeState, past: list[Past]
    ) -> tuple[Tensor, Tensor, list[Past]]:
        """Children of prefixes, with log-probabilities from the root to them (-inf for missing children).

        Args:
            depth: length of the prefixes; the decoder reads their last code now.
            node: the prefixes, int64 (T, N), or (N,) if all states share them.
            logp_TN: the prefixes' log-probabilities.
            state, past: the states, and the key-value caches of the prefixes without their last code.

        Shape: -> int64 like node with a dimension F added, float (T, N, F), and the caches with the last code.
        """
        h_TND = state.first_TD[:, None]
        if depth:
            code = self.trie.code(depth)[node]
            token = self.code_embedding[depth - 1].index_select(0, code.flatten()).unflatten(0, code.shape)
            h_TND, past = self.decoder(token.expand(state.first_TD.shape[0], -1, -1), state.window, past)
        child, exists = self.trie.children_of(depth, node)
        added_TM = self._added(depth + 1, state)
        return child, logp_TN[:, :, None] + self.head.log_probs(self.trie, depth, h_TND, child, exists, added_TM), past

    def _added(self, depth: int, state: CodeState) -> Tensor:
        """What the item prior and the memory add to the logits of the nodes of a depth. Shape: -> (T, M) or (1, M)."""
        prior_1M = self.strength * self.get_buffer(f"prior_{depth}")[None]
        if not self.recalls:
            return prior_1M
        added_TV, count_V = self.memory.strength * state.recalled.score_TV, self.count_V + 0.5
        mass_TV = count_V * (added_TV - added_TV.amax(dim=1, keepdim=True)).exp()  # softmax cancels the shift
        mean_TM = self.trie.below(depth, mass_TV) / self.trie.below(depth, count_V)
        return prior_1M + mean_TM.clamp(min=torch.finfo(mean_TM.dtype).tiny).log()
