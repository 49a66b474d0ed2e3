"""OneRec V2's lazy decoder: it writes an item code after code, and hardly computes on the history.

OneRec-V2 Technical Report (https://arxiv.org/abs/2508.20900), section on the lazy decoder-only architecture. Each event
of the context is mapped once to L_kv sets of G_kv heads of keys (and of values, unless they are the keys),

    k_j = RMSNorm(x W_j),    v_j = k_j or RMSNorm(x W'_j)

and the decoder neither projects them again nor lets events see each other. Its tokens are a constant first one and the
codes written so far. With R an RMSNorm, block l of N is

    h <- h + CrossAttention(R(h), k_j, v_j),  j = floor(l L_kv / N)
    h <- h + CausalSelfAttention(R(h))
    h <- h + W_down (SiLU(W_gate R(h)) * W_up R(h))

and the output is R(h). Added here: learned biases over position and time in the cross-attention (`Recency`), and
dropout on each branch. As each target's cross-attention is cut at its own event, all targets of a window are trained at
once; the paper trains on a window's newest target only.

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

from recalign.errors import InputError, require_positive

from .encoder import Encoder, Rebuildable, position_table, valid_rows
from .layers import Dropout
from .window import Recency, Window, attend


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


class LazyDecoder(Rebuildable, nn.Module):
    """The decoder, one token at a time.

    Args:
        dim: width, D.
        layers: blocks.
        heads: heads of queries; dim is a multiple.
        kv_heads: G_kv, heads of keys and values; heads is a multiple.
        kv_sets: L_kv, at most layers; blocks share them in turn.
        own_values: S_kv = 2: values have a projection of their own; else they are the keys.
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
        kv_sets: int = 1,
        own_values: bool = False,
        hidden: int | None = None,
        max_length: int = 200,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "layers": layers, "heads": heads, "kv_heads": kv_heads, "kv_sets": kv_sets}
        require_positive("model.decoder", sizes, *sizes)
        if dim % heads or heads % kv_heads or kv_sets > layers:
            text = f"dim {dim}, {heads} heads, {kv_heads} kv_heads, and {kv_sets} kv_sets of {layers} layers do not fit"
            remedy = "choose a dim that is a multiple of heads, heads of kv_heads, and no more kv_sets than layers"
            raise InputError(text, where="model.decoder", remedy=remedy)
        self.dim, self.max_length, self.kv_heads, self.kv_sets = dim, max_length, kv_heads, kv_sets
        self.blocks = nn.ModuleList(
            LazyBlock(dim, heads, kv_heads, hidden or 8 * dim // 3, max_length, dropout, layer * kv_sets // layers)
            for layer in range(layers)
        )
        self.dropout, self.norm = Dropout(dropout), nn.RMSNorm(dim)
        self.streams, head_dim = 2 if own_values else 1, dim // heads
        self.to_kv = nn.Linear(dim, self.streams * kv_sets * kv_heads * head_dim, bias=False)
        self.kv_norm = nn.RMSNorm(head_dim)

    def keys_and_values(self, x_BLD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What the blocks read of the context: L_kv tensors (B, G, L, C) of keys, and as many of values."""
        parts = self.to_kv(x_BLD).unflatten(-1, (self.streams * self.kv_sets, self.kv_heads, -1)).unbind(2)
        precise = self.kv_norm.weight.dtype  # also under autocast
        normed = [self.kv_norm(x_BLGC.to(precise)).transpose(1, 2).contiguous() for x_BLGC in parts]
        return normed[: self.kv_sets], normed[-self.kv_sets :]

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


class LazyBlock(nn.Module):
    """One block, which reads set ``kv`` of keys and values; see the formula at the top."""

    def __init__(
        self, dim: int, heads: int, kv_heads: int, hidden: int, max_length: int, dropout: float, kv: int
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.kv = heads, kv_heads, kv
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
        mixed_TNHC = attend(q_TNHC, window, self.kv, self.recency(window))
        h_TND = h_TND + self.dropout(self.cross_output(mixed_TNHC.flatten(2)))
        mixed_TND, past = self.attend_to_prefix(self.self_norm(h_TND), past)
        h_TND = h_TND + self.dropout(mixed_TND)
        gate, up = self.gate_up(self.hidden_norm(h_TND)).chunk(2, dim=-1)
        return h_TND + self.dropout(self.down(F.silu(gate) * up)), past

    def attend_to_prefix(self, x_TND: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Attention of a token to itself and to those before it, with G heads of keys and values (GQA)."""
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
    """The default context of a decoder: events with their positions, which do not see each other.

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
