"""Choose the codes of each level for a policy over semantic ids: given, sampled or best.

Shape suffixes:
    T  states      N  prefixes of each state      F  most children of a node      M  prefixes one code longer
    C  candidates      X  N F or pairs
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recalign.nn import Trie
from recalign.recommender.policy import draw

Choice = tuple[Tensor | None, Tensor, Tensor]
"""Parents (places among the N prefixes; None: all N in order), children and their log-probabilities: (T, M) each."""
Choose = Callable[[int, Tensor, Tensor], Choice]
"""Choose from the level, the children (T, N, F) and the log-probabilities (T, N, F) from the root to them."""


def follow(trie: Trie, item_TC: Tensor) -> Choose:
    """Teacher forcing: the path to each of some items."""

    def choose(depth: int, child_TNF: Tensor, logp_TNF: Tensor) -> Choice:
        child_TC = trie.node_VS[item_TC - 1, depth]
        place_TC1 = trie.place(depth + 1, child_TC)[:, :, None]
        logp_TC = logp_TNF.expand(-1, item_TC.shape[1], -1).gather(2, place_TC1)[:, :, 0]
        fans_out = depth == 0 and item_TC.shape[1] > 1
        return child_TC.new_zeros(item_TC.shape[1]) if fans_out else None, child_TC, logp_TC

    return choose


def sampled(count: int) -> Choose:
    """Ancestral sampling, with replacement."""

    def choose(depth: int, child_TNF: Tensor, logp_TNF: Tensor) -> Choice:
        states, prefixes, _ = child_TNF.shape
        place_TNX = draw(logp_TNF.flatten(0, 1), count // prefixes).unflatten(0, (states, prefixes))
        child_TM, logp_TM = child_TNF.gather(2, place_TNX).flatten(1), logp_TNF.gather(2, place_TNX).flatten(1)
        return child_TM.new_zeros(count) if depth == 0 else None, child_TM, logp_TM

    return choose


class Beam:
    """Beam search: the most probable prefixes below which an item is left.

    Args:
        trie: of the catalogue.
        width: prefixes that are kept at each level.
        dead: nodes that are left out, see `dead_nodes`; None: none.

    Attributes:
        lost_T: after a search, the log-probability of the best prefix that was not followed. No item below such a
            prefix is more probable. -inf: all were followed.
    """

    lost_T: Tensor

    def __init__(self, trie: Trie, width: int, dead: list[Tensor] | None) -> None:
        self.trie, self.width, self.dead = trie, width, dead

    def __call__(self, depth: int, child_TNF: Tensor, logp_TNF: Tensor) -> Choice:
        if self.dead is not None:
            nodes = self.trie.nodes(depth + 1)
            state_T11 = torch.arange(len(child_TNF), device=child_TNF.device)[:, None, None]
            logp_TNF = logp_TNF.masked_fill(torch.isin(state_T11 * nodes + child_TNF, self.dead[depth]), -torch.inf)
        logp_TX = logp_TNF.flatten(1).nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # topk takes NaN for the largest
        logp_TM, place_TM = logp_TX.topk(min(self.width + 1, logp_TX.shape[1]), dim=1)
        if depth == 0:
            self.lost_T = logp_TM.new_full((len(logp_TM),), -torch.inf)
        if depth < self.trie.levels - 1 and logp_TM.shape[1] > self.width:
            self.lost_T = self.lost_T.maximum(logp_TM[:, -1])
        logp_TM, place_TM = logp_TM[:, : self.width], place_TM[:, : self.width]
        return place_TM // child_TNF.shape[2], child_TNF.flatten(1).gather(1, place_TM), logp_TM


def dead_nodes(trie: Trie, state_X: Tensor, row_X: Tensor) -> list[Tensor]:
    """For each level, the nodes below which a state has seen every item, from its seen pairs (state, item - 1).

    A pair of a state and a node is one number, state * nodes + node.
    """
    state_X, row_X = torch.stack([state_X, row_X]).unique(dim=1)
    dead = []
    for depth in range(1, trie.levels + 1):
        nodes = trie.nodes(depth)
        key_Y, seen_Y = (state_X * nodes + trie.node_VS[row_X, depth - 1]).unique(return_counts=True)
        leaves_N = trie.below(depth, torch.ones_like(trie.item_V))
        dead.append(key_Y[seen_Y == leaves_N[key_Y % nodes]])
    return dead
