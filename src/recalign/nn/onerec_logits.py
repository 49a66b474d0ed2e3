"""Logits of the children of a trie's nodes, from one vector a node.

OneRec's papers have one vector a code, which all parents share. One a node ranks better where items are few. Products
are in the vectors' precision, also under autocast: bfloat16 would round close logits to one number.

Shape suffixes:
    T  states      N  nodes of one depth that a state asks about      F  most children of a node      D  width
    M  nodes of the next depth
"""

import math

import torch
from torch import Tensor, nn

from .layers import EPS, unit
from .onerec_trie import Trie


class NodeLogits(nn.Module):
    """Logits of the children of a node: products of a decoder's output h with a vector w of each child, or cosines.

    Args:
        dim: D.
        num_items: V; a level has at most as many nodes.
        sizes: codes of each level.
        temperature: logits are cos(h, w) / temperature; null: h . w, as published.
    """

    def __init__(self, dim: int, num_items: int, sizes: list[int], temperature: float | None = None) -> None:
        super().__init__()
        rows = [min(math.prod(sizes[: level + 1]), num_items) for level in range(len(sizes))]
        self.vectors = nn.ParameterList(nn.init.normal_(torch.empty(count, dim), std=0.02) for count in rows)
        self.temperature = temperature

    def most_numbers(self, trie: Trie) -> int:
        """The most numbers that `forward` holds at once for a state and a node of its own."""
        dim = self.vectors[0].shape[1]
        return max(min(trie.nodes(depth + 1), dim * fan) for depth, fan in enumerate(trie.fans))

    def log_probs(
        self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor, exists: Tensor, prior_M: Tensor
    ) -> Tensor:
        """Log-probabilities of children among those that exist, -inf where there is none.

        Shape:
            h_TND, child: as in `forward`.
            exists: bool, as child.
            prior_M: added to the logit of each node of the next depth.
            returns: (T, N, F), float32.
        """
        logit_TNF = self(trie, depth, h_TND, child).float() + prior_M[child]
        return logit_TNF.masked_fill(~exists, -torch.inf).log_softmax(dim=-1)

    def forward(self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor) -> Tensor:
        """Logits of the children ``child`` of nodes of a depth.

        Shape: (T, N, D), int64 (T, N, F) or (N, F), the same for every state -> (T, N, F).
        """
        nodes, (states, asked, dim) = trie.nodes(depth + 1), h_TND.shape
        vector_MD, q_TND = self.vectors[depth][:nodes], h_TND.to(self.vectors[0].dtype)
        if self.temperature is not None:
            q_TND = unit(q_TND) / self.temperature
        with torch.autocast(h_TND.device.type, enabled=False):
            if child.dim() == 2:
                vector_NFD = vector_MD.index_select(0, child.flatten()).view(*child.shape, dim)
                product_NTF = q_TND.transpose(0, 1) @ vector_NFD.transpose(1, 2)
                return self._scaled(product_NTF.transpose(0, 1), vector_NFD)
            if nodes <= dim * child.shape[2]:  # smaller and faster than gathering vectors
                return self._scaled((q_TND @ vector_MD.T).gather(2, child), vector_MD, child)
            vector_XFD = vector_MD.index_select(0, child.flatten()).view(states * asked, child.shape[2], dim)
            product_XF = (vector_XFD @ q_TND.flatten(0, 1)[:, :, None])[:, :, 0]
            return self._scaled(product_XF, vector_XFD).view(child.shape)

    def _scaled(self, product: Tensor, vector: Tensor, child: Tensor | None = None) -> Tensor:
        """Products as logits; ``child``: the vectors' rows, if they are not in order."""
        if self.temperature is None:
            return product
        length = torch.linalg.vector_norm(vector, dim=-1).clamp_min(EPS)  # without the copy that `unit` makes
        return product / (length if child is None else length[child])
