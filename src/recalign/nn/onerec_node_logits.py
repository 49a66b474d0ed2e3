"""Log-probabilities of a trie's next nodes: from one vector a code, which all parents share, or from one a node.

Products are in the vectors' precision, also under autocast: bfloat16 would round close logits to one number.

Shape suffixes:
    T  states      N  nodes of one depth that a state asks about      F  most children of a node      D  width
    K  codes of a level      M  nodes of the next depth
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .onerec_trie import Trie
from .unit import EPS, unit


def full_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in their own precision, also under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


class NodeLogits(nn.Module, ABC):
    """Logits of the children of a node: products of a decoder's output h with vectors w, or cosines.

    Args:
        dim: D.
        rows: vectors of each level.
        temperature: logits are cos(h, w) / temperature; null: h . w, as published.
    """

    def __init__(self, dim: int, rows: list[int], temperature: float | None = None) -> None:
        super().__init__()
        self.vectors = nn.ParameterList(nn.init.normal_(torch.empty(count, dim), std=0.02) for count in rows)
        self.temperature = temperature

    def query(self, h: Tensor) -> Tensor:
        """The output that vectors are multiplied with."""
        h = h.to(self.vectors[0].dtype)
        return h if self.temperature is None else unit(h) / self.temperature

    def scaled(self, product: Tensor, vector: Tensor, child: Tensor | None = None) -> Tensor:
        """Products of `query` with vectors as logits; ``child``: the vectors' rows, if they are not in order."""
        if self.temperature is None:
            return product
        length = torch.linalg.vector_norm(vector, dim=-1).clamp_min(EPS)  # without the copy that `unit` makes
        return product / (length if child is None else length[child])

    def held(self, trie: Trie) -> int:
        """The most numbers that `forward` holds for a state and a node of its own, beside their logits."""
        return 1

    @abstractmethod
    def forward(self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor) -> Tensor:
        """Logits of the children ``child`` of nodes of a depth.

        Shape: (T, N, D), int64 (T, N, F) or (N, F), the same for every state -> (T, N, F).
        """

    def log_probs(
        self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor, exists: Tensor, prior_M: Tensor
    ) -> Tensor:
        """Log-probabilities of children among those that exist, -inf where there is none.

        Shape:
            h_TND, child: as in `forward`.
            exists: bool, as child.
            prior_M: added to the logit of each node of the next depth; the last entry is a code's that no node has.
            returns: (T, N, F), float32.
        """
        logit_TNF = self(trie, depth, h_TND, child).float() + prior_M[child]
        return logit_TNF.masked_fill(~exists, -torch.inf).log_softmax(dim=-1)


class SharedCodes(NodeLogits):
    """One vector a code of each level, as published: siblings of all parents share them."""

    def __init__(self, dim: int, num_items: int, sizes: list[int], temperature: float | None = None) -> None:
        super().__init__(dim, sizes, temperature)

    def forward(self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor) -> Tensor:
        code = trie.code(depth + 1)[child]
        return self.of_codes(depth, h_TND).gather(2, code.expand(h_TND.shape[0], -1, -1))

    def of_codes(self, depth: int, h_TND: Tensor) -> Tensor:
        """Logits of every code of a level. Shape: (T, N, D) -> (T, N, K)."""
        vector_KD = self.vectors[depth]
        return self.scaled(full_product(self.query(h_TND), vector_KD.T), vector_KD)


class AllCodes(SharedCodes):
    """One vector a code, and a softmax over all codes of a level, as published: some of it falls on no item."""

    def log_probs(
        self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor, exists: Tensor, prior_M: Tensor
    ) -> Tensor:
        logit_TNK = self.of_codes(depth, h_TND).float() + prior_M[-1]
        code_TNF = trie.code(depth + 1)[child].expand(h_TND.shape[0], -1, -1)
        gain_TNF = (prior_M[child] - prior_M[-1]).masked_fill(~exists, 0).expand_as(code_TNF)
        logp_TNK = logit_TNK.scatter_add(2, code_TNF, gain_TNF).log_softmax(dim=-1)
        return logp_TNK.gather(2, code_TNF).masked_fill(~exists, -torch.inf)

    def write(self, depth: int, h_TND: Tensor) -> Tensor:
        """Log-probabilities of every code of a level, without a prior. Shape: (T, N, D) -> (T, N, K), float32."""
        return self.of_codes(depth, h_TND).float().log_softmax(dim=-1)


class OwnVectors(NodeLogits):
    """One vector a node: a level has as many as it can have nodes."""

    def __init__(self, dim: int, num_items: int, sizes: list[int], temperature: float | None = None) -> None:
        rows = [min(math.prod(sizes[: level + 1]), num_items) for level in range(len(sizes))]
        super().__init__(dim, rows, temperature)

    def held(self, trie: Trie) -> int:
        dim = self.vectors[0].shape[1]
        return max(min(trie.nodes(depth + 1), dim * fan) for depth, fan in enumerate(trie.fans))

    def forward(self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor) -> Tensor:
        nodes, (states, asked, dim) = trie.nodes(depth + 1), h_TND.shape
        q_TND, vector_MD = self.query(h_TND), self.vectors[depth][:nodes]
        if child.dim() == 2:
            vector_NFD = vector_MD.index_select(0, child.flatten()).view(*child.shape, dim)
            product_NTF = full_product(q_TND.transpose(0, 1), vector_NFD.transpose(1, 2))
            return self.scaled(product_NTF.transpose(0, 1), vector_NFD)
        if nodes <= dim * child.shape[2]:  # smaller and faster than gathering vectors
            return self.scaled(full_product(q_TND, vector_MD.T).gather(2, child), vector_MD, child)
        vector_XFD = vector_MD.index_select(0, child.flatten()).view(states * asked, child.shape[2], dim)
        product_XF = full_product(vector_XFD, q_TND.flatten(0, 1)[:, :, None])[:, :, 0]
        return self.scaled(product_XF, vector_XFD).view(child.shape)
