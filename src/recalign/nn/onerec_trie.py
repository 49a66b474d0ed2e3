"""The trie of a catalogue of items with semantic ids: items are its leaves, prefixes of codes its inner nodes.
Also the logits of a node's children, from one vector per node.

The root is the only node of depth 0. Nodes of a depth are numbered in the order of their codes, so a node's children
are contiguous, and two tensors per depth hold everything (compressed sparse rows, as in STATIC,
https://arxiv.org/abs/2602.22647): the index of each node's first child, and the code of each child.

Shape suffixes:
    V  items      S  levels: codes of an item      N  nodes of one depth      F  most children of a node of that depth
    T  states     D  width                         M  nodes of the next depth
"""

import math

import torch
from torch import Tensor, nn

from .layers import EPS, unit

MAX_IDS = 2**62  # the product of the sizes is below this, so that all codes of an item fit into one int64


class Trie(nn.Module):
    """The prefix tree of the items' codes.

    Only ``codes_VS`` is in the ``state_dict``; all else is derived from it, also after loading weights. Before
    `set_codes`, item v has the digits of v - 1 in the mixed base of the sizes.

    Args:
        num_items: V.
        sizes: number of codes at each of the S levels.

    Raises:
        ValueError: the product of the sizes is below V, or not below `MAX_IDS`.
    """

    codes_VS: Tensor
    node_VS: Tensor
    item_V: Tensor

    def __init__(self, num_items: int, sizes: list[int]) -> None:
        super().__init__()
        if not num_items <= math.prod(sizes) < MAX_IDS:
            raise ValueError(f"{num_items} items do not fit into codes of sizes {sizes}")
        self.sizes, self.levels = list(sizes), len(sizes)
        rest_V = torch.arange(num_items)
        digits = []
        for size in reversed(self.sizes):
            digits.append(rest_V % size)
            rest_V = rest_V // size
        self.register_buffer("codes_VS", torch.stack(digits[::-1], dim=1))
        self.register_load_state_dict_post_hook(lambda trie, _: trie.build())
        self.build()

    def set_codes(self, codes_VS: Tensor) -> None:
        """Give item v the codes of row v - 1. Shape: int64 (V, S).

        Raises:
            ValueError: a code is out of range, or two items have the same codes.
        """
        inside = (codes_VS >= 0) & (codes_VS < torch.tensor(self.sizes, device=codes_VS.device))
        if not inside.all() or len(codes_VS.unique(dim=0)) < len(codes_VS):
            raise ValueError(f"codes have to be unique, and below the sizes {self.sizes}")
        self.codes_VS.copy_(codes_VS)
        self.build()

    def build(self) -> None:
        """Derive the tree from the codes."""
        key_V = torch.zeros_like(self.codes_VS[:, 0])
        self.register_buffer("node_VS", torch.empty_like(self.codes_VS), persistent=False)
        keys_N = key_V[:1]  # the root's
        self.fans = []
        for level, size in enumerate(self.sizes):
            key_V = key_V * size + self.codes_VS[:, level]
            child_keys_N, self.node_VS[:, level] = key_V.unique(return_inverse=True)
            parent_N = torch.searchsorted(keys_N, child_keys_N // size)
            count_N = parent_N.bincount(minlength=len(keys_N))
            first_N = torch.cat([count_N.new_zeros(1), count_N.cumsum(0)])
            self.register_buffer(f"first_{level}", first_N, persistent=False)
            self.register_buffer(f"parent_{level}", parent_N, persistent=False)
            self.register_buffer(f"code_{level}", child_keys_N % size, persistent=False)
            self.fans.append(int(count_N.max()))
            place_F = torch.arange(self.fans[-1], device=key_V.device)
            self.register_buffer(f"place_{level}", place_F, persistent=False)
            keys_N = child_keys_N
        self.register_buffer("item_V", self.node_VS[:, -1].argsort() + 1, persistent=False)

    def nodes(self, depth: int) -> int:
        """N, the number of nodes of a depth."""
        return 1 if depth == 0 else self.code(depth).shape[0]  # `len` would be a constant in a graph

    def code(self, depth: int) -> Tensor:
        """The last code of each node of a depth, 1 at least. Shape: int64 (N,)."""
        return self.get_buffer(f"code_{depth - 1}")

    def parent(self, depth: int) -> Tensor:
        """The parent of each node of a depth, 1 at least. Shape: int64 (N,)."""
        return self.get_buffer(f"parent_{depth - 1}")

    def children_of(self, depth: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """The children of some nodes of a depth, as nodes of the next depth.

        Shape: int64 (...) -> int64 (..., F), and bool (..., F): which of them exist; missing ones are padded.
        """
        first_N = self.get_buffer(f"first_{depth}")
        child = first_N[node][..., None] + self.get_buffer(f"place_{depth}")
        return child.clamp(max=self.nodes(depth + 1) - 1), child < first_N[node + 1][..., None]

    def place(self, depth: int, child: Tensor) -> Tensor:
        """Index of nodes of a depth, 1 at least, among their siblings. Shape: int64 (...) -> int64 (...)."""
        return child - self.get_buffer(f"first_{depth - 1}")[self.parent(depth)[child]]

    def below(self, depth: int, value: Tensor) -> Tensor:
        """Sum values of items over each node of a depth, 1 at least. Shape: (..., V) -> (..., N)."""
        sums = value.new_zeros(*value.shape[:-1], self.nodes(depth))
        return sums.index_add(-1, self.node_VS[:, depth - 1], value)


class NodeLogits(nn.Module):
    """Logits of the children of a node: products of a decoder's output h with a vector w of each child, or cosines.

    OneRec's papers have one vector per code, shared by all parents. One per node ranks better if items are few.
    Products are in the vectors' precision, also under autocast: bfloat16 would round close logits to one number.

    Args:
        dim: D.
        num_items: V, the most nodes that a level can have.
        sizes: number of codes at each level.
        temperature: logits are cos(h, w) / temperature; null: h . w, as published.
    """

    def __init__(self, dim: int, num_items: int, sizes: list[int], temperature: float | None = None) -> None:
        super().__init__()
        rows = [min(math.prod(sizes[: level + 1]), num_items) for level in range(len(sizes))]
        self.vectors = nn.ParameterList(nn.init.normal_(torch.empty(count, dim), std=0.02) for count in rows)
        self.temperature = temperature

    def most_numbers(self, trie: Trie) -> int:
        """The most numbers per state and node in memory in `forward`, if each state has its own nodes."""
        dim = self.vectors[0].shape[1]
        return max(min(trie.nodes(depth + 1), dim * fan) for depth, fan in enumerate(trie.fans))

    def log_probs(
        self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor, exists: Tensor, added_TM: Tensor
    ) -> Tensor:
        """Log-probabilities of children among the existing ones, -inf for missing ones.

        Shape:
            h_TND, child: as in `forward`.
            exists: bool, shaped like child.
            added_TM: added to the logits of the nodes of the next depth; one row if all states share it.
            returns: (T, N, F), float32.
        """
        one_row = added_TM.shape[0] == 1  # `len` would fix the number of rows of an exported graph
        if child.dim() == 2 or one_row:
            added_TNF = added_TM[0][child] if one_row else added_TM[:, child]
        else:
            added_TNF = added_TM.gather(1, child.flatten(1)).view(child.shape)
        logit_TNF = self(trie, depth, h_TND, child).float() + added_TNF
        return logit_TNF.masked_fill(~exists, -torch.inf).log_softmax(dim=-1)

    def forward(self, trie: Trie, depth: int, h_TND: Tensor, child: Tensor) -> Tensor:
        """Logits of the children ``child`` of nodes of a depth.

        Shape: (T, N, D), int64 (T, N, F), or (N, F) if all states share them -> (T, N, F).
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
        """Convert products to logits; ``child``: the row of ``vector`` of each product, if not in order."""
        if self.temperature is None:
            return product
        length = torch.linalg.vector_norm(vector, dim=-1).clamp_min(EPS)  # without the copy that `unit` makes
        return product / (length if child is None else length[child])
