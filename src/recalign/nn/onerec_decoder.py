"""The interface of decoders that write an item code after code, and what their blocks share.

Shape suffixes:
    T  targets      N  prefixes of codes of each target      D  width
    B  rows         L  events                                H  heads      G  heads of keys and values    C  D / H
    P  tokens before this one                                Y  H / G
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .dropout import Dropout
from .encoder import Encoder, Rebuildable, position_table, valid_rows
from .window import Window


class Past(NamedTuple):
    """Keys and values of one block's self-attention over the tokens so far: (T, N, P, G, C) each."""

    k: Tensor
    v: Tensor

    def of(self, parent: Tensor) -> Past:
        """Those of some of the prefixes of each state. Shape: int64 (T, M), or (M,), the same for every state."""
        if parent.dim() == 1:
            return Past(*(x.index_select(1, parent) for x in self))
        state_T1 = torch.arange(len(parent), device=parent.device)[:, None]
        return Past(*(x[state_T1, parent] for x in self))


class Decoder(Rebuildable, nn.Module, ABC):
    """Blocks that read one token at a time, beside keys and values of the history.

    Args:
        dim: width, D.
        max_length: the longest history.
        dropout: on the tokens; the blocks have their own.
        blocks: called with (h_TND, window, past of this block or None), return h_TND and the past with this token.
    """

    def __init__(self, dim: int, max_length: int, dropout: float, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.dim, self.max_length = dim, max_length
        self.blocks = nn.ModuleList(blocks)
        self.dropout, self.norm = Dropout(dropout), nn.RMSNorm(dim)

    @abstractmethod
    def keys_and_values(self, x_BLD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What the blocks read of the context; those of an event depend on no later one.

        Shape: (B, L, D) -> as many tensors (B, G, L, C) of keys as of values.
        """

    def forward(self, token_TND: Tensor, window: Window, past: list[Past] | None) -> tuple[Tensor, list[Past]]:
        """Read one more token after each prefix.

        Shape:
            token_TND: embedding of the token.
            window: of T targets.
            past: of each block, of the tokens before; None: this is the first.
            returns: (T, N, D), from which the next code is predicted, and the past with this token.
        """
        h_TND, grown = self.dropout(token_TND), []
        for layer, block in enumerate(self.blocks):
            h_TND, longer = block(h_TND, window, past and past[layer])
            grown.append(longer)
        return self.norm(h_TND), grown


class PrefixAttention(nn.Module):
    """Attention of a token to itself and to those before it, with G heads of keys and values (GQA)."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.qkv = nn.Linear(dim, dim + 2 * kv_heads * dim // heads, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x_TND: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        head_dim = x_TND.shape[-1] // self.heads
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        q_TNHC, k_TNGC, v_TNGC = self.qkv(x_TND).unflatten(-1, (-1, head_dim)).split(sizes, dim=2)
        k_TNPGC, v_TNPGC = k_TNGC[:, :, None], v_TNGC[:, :, None]
        if past is not None:
            k_TNPGC, v_TNPGC = torch.cat([past.k, k_TNPGC], dim=2), torch.cat([past.v, v_TNPGC], dim=2)
        q_TNGYC = q_TNHC.unflatten(2, (self.kv_heads, -1)) * head_dim**-0.5
        share_TNGYP = (q_TNGYC @ k_TNPGC.permute(0, 1, 3, 4, 2)).softmax(dim=-1)
        mixed_TNGYC = share_TNGYP.to(v_TNPGC.dtype) @ v_TNPGC.transpose(2, 3)
        return self.output(mixed_TNGYC.flatten(2)), Past(k_TNPGC, v_TNPGC)


class LazyContext(Encoder):
    """The context of a decoder by default: events with their positions, which do not see each other.

    Args:
        dim: width, D.
        max_length: the longest history.
        dropout: on the output.
    """

    def __init__(self, dim: int = 64, max_length: int = 200, dropout: float = 0.3) -> None:
        super().__init__(dim, max_length)
        self.position, self.dropout = position_table(max_length, dim), Dropout(dropout)

    def forward(self, x_BLD: Tensor, length_B: Tensor, time_BL: Tensor, request_time_BL: Tensor) -> Tensor:
        x_BLD = torch.add(self.position[: x_BLD.shape[1]], x_BLD, alpha=self.dim**0.5)
        return self.dropout(x_BLD).masked_fill(~valid_rows(length_B, x_BLD.shape[1]), 0)
