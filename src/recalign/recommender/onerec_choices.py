"""Choose the codes of each level for a policy over semantic ids: given items, sampling, or beam search.

Shape suffixes:
    T  states      N  prefixes of each state      F  most children of a node      M  prefixes one code longer
    C  candidates      X  N F, pairs, or unfinished states
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recalign.nn import Trie
from recalign.nn.ranks import Pairs
from recalign.recommender.policy import draw

AT_ONCE = 8  # prefixes that `ranks_within` reads between two checks whether it needs more

Choice = tuple[Tensor | None, Tensor, Tensor]
"""Parents (indices into the N prefixes; None: all N in order), children, their log-probabilities: (T, M) each."""
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
    """Beam search: the most probable prefixes that still lead to an unseen item.

    Args:
        trie: of the catalogue.
        width: prefixes to keep at each level.
        dead: nodes to leave out, see `dead_nodes`; None: none.

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
        logp_TX = logp_TNF.flatten(1).nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # topk puts NaN first
        logp_TM, place_TM = logp_TX.topk(min(self.width + 1, logp_TX.shape[1]), dim=1)
        if depth == 0:
            self.lost_T = logp_TM.new_full((len(logp_TM),), -torch.inf)
        if depth < self.trie.levels - 1 and logp_TM.shape[1] > self.width:
            self.lost_T = self.lost_T.maximum(logp_TM[:, -1])
        logp_TM, place_TM = logp_TM[:, : self.width], place_TM[:, : self.width]
        return place_TM // child_TNF.shape[2], child_TNF.flatten(1).gather(1, place_TM), logp_TM


def ranks_within(
    trie: Trie,
    item_T: Tensor,
    k: int,
    seen: Pairs | None,
    logp_TN: Tensor,
    below: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Rank targets as `Policy.ranks` does, except that ranks above k need not be exact, only above k.

    Reads prefixes of all codes except the last, best first, until k items are ahead of the target or the next prefix is
    less probable than the target: no item is more probable than its prefix. A NaN among the items read counts as ahead.

    Args:
        trie: of the catalogue.
        item_T: the targets; 0 has rank 0.
        k: the largest rank that matters.
        seen: the seen pairs (state, item - 1); None: none.
        logp_TN: log-probabilities of all these prefixes.
        below: from states (X,) and prefixes (X, M) to the leaves below and their log-probabilities, (X, M, F) each.
    """
    leaf_T = trie.node_VS[item_T - 1, -1]
    state_T = torch.arange(len(item_T), device=item_T.device)
    own_T1F = below(state_T, trie.parent(trie.levels)[leaf_T][:, None])[1]
    target_T = own_T1F[state_T, 0, trie.place(trie.levels, leaf_T)]
    best_TN, node_TN = logp_TN.sort(dim=1, descending=True)
    leaves, ahead_T, open_X = len(trie.item_V), torch.zeros_like(item_T), state_T[item_T > 0]
    seen_N = None if seen is None else seen[0] * leaves + trie.node_VS[seen[1], -1]
    for first in range(0, node_TN.shape[1], AT_ONCE):
        enough_X = (ahead_T[open_X] >= k) | (best_TN[open_X, first] < target_T[open_X])
        open_X = open_X[~enough_X]
        if not len(open_X):
            break
        node_XM = node_TN[open_X, first : first + AT_ONCE]
        leaf_XMF, logp_XMF = below(open_X, node_XM)
        ahead_XMF = (logp_XMF < target_T[open_X, None, None]).logical_not_()  # not >=: NaN counts as ahead
        ahead_XMF &= trie.children_of(trie.levels - 1, node_XM)[1] & (leaf_XMF != leaf_T[open_X, None, None])
        if seen_N is not None:
            ahead_XMF &= ~torch.isin(open_X[:, None, None] * leaves + leaf_XMF, seen_N)
        ahead_T[open_X] += ahead_XMF.flatten(1).sum(dim=1)
    return (ahead_T + 1).masked_fill(item_T == 0, 0)


def dead_nodes(trie: Trie, seen: Pairs | None) -> list[Tensor] | None:
    """For each level, the nodes below which a state has seen every item, from its seen pairs (state, item - 1).

    A pair of a state and a node is encoded as state * nodes + node. None: nothing was seen.
    """
    if seen is None:
        return None
    state_X, row_X = torch.stack(seen).unique(dim=1)
    dead = []
    for depth in range(1, trie.levels + 1):
        nodes = trie.nodes(depth)
        key_Y, seen_Y = (state_X * nodes + trie.node_VS[row_X, depth - 1]).unique(return_counts=True)
        leaves_N = trie.below(depth, torch.ones_like(trie.item_V))
        dead.append(key_Y[seen_Y == leaves_N[key_Y % nodes]])
    return dead
