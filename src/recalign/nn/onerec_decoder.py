"""OneRec V2's lazy decoder: it generates an item code by code, with almost no computation on the history.

OneRec-V2 Technical Report (https://arxiv.org/abs/2508.20900), section on the lazy decoder-only architecture. Each event
of the context is mapped once to G_kv heads of keys, which serve as values too. All blocks share them:

    k = RMSNorm(x W)

The decoder neither projects them again nor lets events attend to each other. Its tokens are a constant start token and
the codes generated so far. With R an RMSNorm, each block is

    h <- h + CrossAttention(R(h), k, k)
    h <- h + CausalSelfAttention(R(h))
    h <- h + W_down (SiLU(W_gate R(h)) * W_up R(h))

and the output is R(h). Not in the report: learned biases over position and time in the cross-attention (`Recency`),
dropout on each branch, and training on all targets of a window at once (each sees only the events before it).

Shape suffixes:
    T  targets      N  prefixes of codes of each target      D  width
    B  rows         L  events                                H  heads      G  heads of keys and values    C  D / H
    P  tokens so far                                         Y  H / G
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.errors import DROPOUT, InputError, require_positive

from .encoder import Encoder, Rebuildable, position_table, valid_rows
from .layers import Dropout
from .window import Recency, Window, attend


class Past(NamedTuple):
    """Key-value cache of one block's self-attention over the tokens so far: (T, N, P, G, C) each."""

    k: Tensor
    v: Tensor

    def of(self, parent: Tensor) -> Past:
        """Select prefixes of each target by index. Shape: int64 (T, M), or (M,), the same for every target."""
        if parent.dim() == 1:
            return Past(*(x.index_select(1, parent) for x in self))
        state_T1 = torch.arange(len(parent), device=parent.device)[:, None]
        return Past(*(x[state_T1, parent] for x in self))


class LazyDecoder(Rebuildable, nn.Module):
    """The decoder, which reads one token per call.

    Args:
        dim: width, D; a multiple of heads.
        layers: number of blocks.
        heads: heads of queries; a multiple of kv_heads.
        kv_heads: G_kv, heads of keys and values.
        hidden: width of the SwiGLU; null: 8 / 3 of dim.
        max_length: the longest history.
        dropout: on each branch and on the tokens.

    Raises:
        InputError: the sizes do not divide.
    """

    def __init__(
        self,
        dim: int = 64,
        layers: int = 2,
        heads: int = 1,
        kv_heads: int = 1,
        hidden: int | None = None,
        max_length: int = 200,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "layers": layers, "heads": heads, "kv_heads": kv_heads}
        require_positive("model.decoder", sizes, *sizes)
        DROPOUT.require(dropout, "model.decoder.dropout")
        if dim % heads or heads % kv_heads:
            text = f"dim {dim}, {heads} heads and {kv_heads} kv_heads do not fit"
            remedy = "choose a dim that is a multiple of heads, and heads of kv_heads"
            raise InputError(text, where="model.decoder", remedy=remedy)
        self.dim, self.max_length, self.kv_heads = dim, max_length, kv_heads
        self.blocks = nn.ModuleList(
            LazyBlock(dim, heads, kv_heads, hidden or 8 * dim // 3, max_length, dropout) for _ in range(layers)
        )
        self.dropout, self.norm = Dropout(dropout), nn.RMSNorm(dim)
        self.to_kv = nn.Linear(dim, kv_heads * dim // heads, bias=False)
        self.kv_norm = nn.RMSNorm(dim // heads)

    def keys(self, x_BLD: Tensor) -> Tensor:
        """Keys (and values) of the context's events, for all blocks. Shape: (B, L, D) -> (B, G, L, C)."""
        k_BLGC = self.to_kv(x_BLD).unflatten(-1, (self.kv_heads, -1)).to(self.kv_norm.weight.dtype)  # in autocast too
        return self.kv_norm(k_BLGC).transpose(1, 2).contiguous()

    def forward(self, token_TND: Tensor, window: Window, past: list[Past] | None) -> tuple[Tensor, list[Past]]:
        """Read one more token after each prefix.

        Shape:
            token_TND: embedding of the token.
            window: context of the T targets.
            past: each block's cache of the earlier tokens; None for the first token.
            returns: (T, N, D), from which the next code is predicted, and the caches with this token.
        """
        h_TND, grown = self.dropout(token_TND), []
        for layer, block in enumerate(self.blocks):
            h_TND, longer = block(h_TND, window, past and past[layer])
            grown.append(longer)
        return self.norm(h_TND), grown


class LazyBlock(nn.Module):
    """One block; see the formula at the top."""

    def __init__(self, dim: int, heads: int, kv_heads: int, hidden: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        gate_up, down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.cross_norm, self.self_norm, self.hidden_norm = (nn.RMSNorm(dim) for _ in range(3))
        self.query, self.cross_output = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.recency = Recency(max_length)
        self.qkv = nn.Linear(dim, dim + 2 * kv_heads * dim // heads, bias=False)
        self.self_output = nn.Linear(dim, dim, bias=False)
        self.gate_up, self.down = gate_up, down
        self.dropout = Dropout(dropout)

    def forward(self, h_TND: Tensor, window: Window, past: Past | None) -> tuple[Tensor, Past]:
        q_TNHC = self.query(self.cross_norm(h_TND)).unflatten(-1, (self.heads, -1))
        mixed_TNHC = attend(q_TNHC, window, self.recency(window))
        h_TND = h_TND + self.dropout(self.cross_output(mixed_TNHC.flatten(2)))
        mixed_TND, past = self.attend_to_prefix(self.self_norm(h_TND), past)
        h_TND = h_TND + self.dropout(mixed_TND)
        gate, up = self.gate_up(self.hidden_norm(h_TND)).chunk(2, dim=-1)
        return h_TND + self.dropout(self.down(F.silu(gate) * up)), past

    def attend_to_prefix(self, x_TND: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Attention of a token to itself and to earlier tokens, with G heads of keys and values (GQA)."""
        head_dim = x_TND.shape[-1] // self.heads
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        q_TNHC, k_TNGC, v_TNGC = self.qkv(x_TND).unflatten(-1, (-1, head_dim)).split(sizes, dim=2)
        k_TNPGC, v_TNPGC = k_TNGC[:, :, None], v_TNGC[:, :, None]
        if past is not None:
            k_TNPGC, v_TNPGC = torch.cat([past.k, k_TNPGC], dim=2), torch.cat([past.v, v_TNPGC], dim=2)
        q_TNGYC = q_TNHC.unflatten(2, (self.kv_heads, -1)) * head_dim**-0.5
        share_TNGYP = (q_TNGYC @ k_TNPGC.permute(0, 1, 3, 4, 2)).softmax(dim=-1)
        mixed_TNGYC = share_TNGYP.to(v_TNPGC.dtype) @ v_TNPGC.transpose(2, 3)
        return self.self_output(mixed_TNGYC.flatten(2)), Past(k_TNPGC, v_TNPGC)


class LazyContext(Encoder):
    """The context of a decoder: events plus positions, without attention between events.

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
