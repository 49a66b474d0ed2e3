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

PREFIX_EVENTS = 2**22  # prefixes x events of their contexts, or x codes of a level, that are held at once
HEAD_NUMBERS = 2**24  # numbers that the head holds at once where each state has prefixes of its own


@dataclass(frozen=True)
class CodeState:
    """T states: their contexts, and the decoder after its first token.

    Attributes:
        window: what they see of the histories.
        past: of each block, keys and values of the first token.
        first_TD: the output there, from which the first code is predicted.
        recalled: what the policy's memory reads of the histories, a `recalign.recommender.memory.Recalled`.
    """

    window: Window
    past: list[Past]
    first_TD: Tensor
    recalled: Any = None

    def __len__(self) -> int:
        return len(self.first_TD)

    def __getitem__(self, part: slice | Tensor) -> CodeState:
        if isinstance(part, slice) and part == slice(0, len(self)):
            return self  # with the layout of its window
        recalled = None if self.recalled is None else self.recalled[part]
        past = [Past(k[part], v[part]) for k, v in self.past]
        return CodeState(self.window[part], past, self.first_TD[part], recalled)


class CodePolicy(HistoryPolicy):
    """A decoder over codes.

    Args:
        decoder: writes the codes; it reads events with their positions (`recalign.nn.LazyContext`).
        num_items: V.
        sizes: number of codes at each level.
        feedback: whether the policy sees the rewards of earlier events.
        beam: width of the beam search behind `top_k`; k where that is more.
        widest: how wide it may become where a list is not known to be exact; no more than ``beam``: it never widens.
        temperature: of the softmax over cosines of the decoder's output and the nodes' vectors; null: over their
            products, as published.
        memory: as in `HistoryPolicy`. A node's logit among its siblings gains log(sum_v n_v exp(a s_v) / sum_v n_v)
            over the items below it, n_v their training events and a half.
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

    def trunk(self) -> SequencePolicy:
        """A policy of the item table and an untrained HSTU, as the decoder has no attention between events."""
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
        """Log-probabilities. Without candidates, or with more of them than prefixes, every prefix is walked once."""
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
        """Reads only the prefixes that `recalign.recommender.onerec_choices.ranks_within` asks for."""
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
        """The decoder is asked once, about all prefixes."""
        self.set_strengths(0.0, 0.0)
        plain_TV = self.log_probs(state).double().exp()
        nodes = [self.trie.below(depth, plain_TV) for depth in range(1, self.trie.levels + 1)]
        pairs = seen_within(seen, slice(0, len(state)))
        for memory, prior in strengths:
            self.set_strengths(memory, prior)
            yield ranks_from_scores(self._strengthened(nodes, state), item - 1, pairs)

    def _strengthened(self, nodes: list[Tensor], state: CodeState) -> Tensor:
        """Log-probabilities of items, with prior and memory. Shape: -> (T, V).

        ``nodes`` are the probabilities of the nodes of each depth without them, (T, M). A node's weight among its
        siblings is that times exp of what prior and memory add to its logit.
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
        """By beam search, which leaves seen items out on the way.

        No item is more probable than a prefix of it. So a list is exact if its last item is at least as probable as the
        best prefix that the search did not follow. States whose list is not known to be exact are searched again, four
        times as wide each time, up to ``widest``; the last list stands, exact or not. Where a walk of all prefixes
        costs no more than the search, there is a walk. ``width``: of the first search; null: ``beam``.
        """
        width = width or max(self.beam, k)
        if 2 * width >= self.trie.nodes(self.trie.levels - 1):
            return super().top_k(state, k, seen)  # a walk costs half a search that is as wide
        score_TK, item_TK, exact_T = self._search(state, k, seen, width)
        if width < self.widest and not exact_T.all():
            open_X = (~exact_T).nonzero()[:, 0]
            wider = min(4 * width, self.widest)
            if seen is not None:  # number the states that are left from 0 on
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
        """Slices of the states that need bounded memory; ``own``: each state has prefixes of its own."""
        rows = max(1, PREFIX_EVENTS // (prefixes * max(state.window.time_BL.shape[1], *self.trie.sizes)))
        if own:
            rows = max(1, min(rows, HEAD_NUMBERS // (prefixes * self.head.most_numbers(self.trie))))
        return [slice(first, min(first + rows, len(state))) for first in range(0, max(len(state), 1), rows)]

    def walk(self, state: CodeState, levels: int) -> tuple[Tensor, list[Past]]:
        """Log-probabilities of all nodes of a depth, (T, N), for all states at once, and the past of their parents."""
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
        """From the root to leaves, chosen level by level. Shape: -> int64 leaves and log-probabilities, (T, M)."""
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
        """Children of prefixes of a length, log-probabilities from the root to them (-inf where there is none).

        Args:
            depth: length of the prefixes, whose last code is read now.
            node: the prefixes, int64 (T, N) or (N,), the same for all states.
            logp_TN: their log-probabilities.
            state, past: of the states, and of the prefixes before their last code.

        Shape: -> int64 like node and F, float (T, N, F), and the past with the last code.
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
        mass_TV = count_V * (added_TV - added_TV.amax(dim=1, keepdim=True)).exp()  # its own scale for each state
        mean_TM = self.trie.below(depth, mass_TV) / self.trie.below(depth, count_V)
        return prior_1M + mean_TM.clamp(min=torch.finfo(mean_TM.dtype).tiny).log()
