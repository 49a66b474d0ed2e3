"""OneRec V2's lazy decoder: it writes an item code after code, and hardly computes on the history.

OneRec-V2 Technical Report (https://arxiv.org/abs/2508.20900), section on the lazy decoder-only architecture. Each event
of the context is mapped once to L_kv sets of G_kv heads of keys (and of values, unless they are the keys),

    k_j = RMSNorm(x W_j),    v_j = k_j or RMSNorm(x W'_j)

and the decoder neither projects them again nor lets events see each other. Its tokens are a first one (BOS) and the
codes written so far. With R an RMSNorm, block l of N is

    h <- h + CrossAttention(R(h), k_j, v_j),  j = floor(l L_kv / N)
    h <- h + CausalSelfAttention(R(h))
    h <- h + SwiGLU(R(h))

and the output is R(h). The SwiGLU may be a mixture of experts (`feed_forward.py`). Added here: learned biases over
position and time in the cross-attention (`Recency`), dropout on each branch, and a first token that may be more than
the paper's constant (``bos`` of `recalign.recommender.CodePolicy`). As each target's cross-attention is
cut at its own event, all targets of a window are trained at once; the paper trains on a window's newest target only.

Shape suffixes:
    T  targets      N  prefixes of codes of each target      D  width
    B  rows         L  events                                H  heads      G  heads of keys and values    C  D / H
"""

from __future__ import annotations

from torch import Tensor, nn

from recalign.errors import InputError, require_positive

from .dropout import Dropout
from .feed_forward import feed_forward
from .onerec_decoder import Decoder, Past, PrefixAttention
from .window import Recency, Window, attend


class LazyDecoder(Decoder):
    """The decoder's blocks, one token at a time.

    Args:
        dim: width, D.
        layers: blocks.
        heads: heads of queries; dim is a multiple.
        kv_heads: G_kv, heads of keys and values; heads is a multiple.
        kv_sets: L_kv, at most layers; blocks share them in turn.
        own_values: S_kv = 2: values have a projection of their own; else they are the keys.
        hidden: width of the SwiGLU, or of each expert; null: 8 / 3 of dim.
        experts: SwiGLUs of each block's mixture of experts; 0: one, which all tokens use.
        experts_per_token: experts that a token uses.
        max_length: the longest history.
        dropout: on each branch and on the tokens.

    Raises:
        InputError: the sizes do not divide, or a token would use more experts than there are.
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
        experts: int = 0,
        experts_per_token: int = 2,
        max_length: int = 200,
        dropout: float = 0.3,
    ) -> None:
        sizes = {"dim": dim, "layers": layers, "heads": heads, "kv_heads": kv_heads, "kv_sets": kv_sets}
        require_positive("model.decoder", sizes, *sizes)
        if dim % heads or heads % kv_heads or kv_sets > layers:
            text = f"dim {dim}, {heads} heads, {kv_heads} kv_heads, and {kv_sets} kv_sets of {layers} layers do not fit"
            remedy = "choose a dim that is a multiple of heads, heads of kv_heads, and no more kv_sets than layers"
            raise InputError(text, where="model.decoder", remedy=remedy)
        blocks = []
        for layer in range(layers):
            last = feed_forward(dim, hidden, experts, experts_per_token)
            blocks.append(LazyBlock(dim, heads, kv_heads, last, max_length, dropout, layer * kv_sets // layers))
        super().__init__(dim, max_length, dropout, blocks)
        self.kv_heads, self.kv_sets, self.streams = kv_heads, kv_sets, 2 if own_values else 1
        head_dim = dim // heads
        self.to_kv = nn.Linear(dim, self.streams * kv_sets * kv_heads * head_dim, bias=False)
        self.kv_norm = nn.RMSNorm(head_dim)

    def keys_and_values(self, x_BLD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """L_kv tensors (B, G, L, C) of keys, and as many of values."""
        parts = self.to_kv(x_BLD).unflatten(-1, (self.streams * self.kv_sets, self.kv_heads, -1)).unbind(2)
        precise = self.kv_norm.weight.dtype  # also under autocast
        normed = [self.kv_norm(x_BLGC.to(precise)).transpose(1, 2).contiguous() for x_BLGC in parts]
        return normed[: self.kv_sets], normed[-self.kv_sets :]


class LazyBlock(nn.Module):
    """One block, whose ``last`` part is its feed-forward layer; see the formula at the top."""

    def __init__(
        self, dim: int, heads: int, kv_heads: int, last: nn.Module, max_length: int, dropout: float, kv: int
    ) -> None:
        super().__init__()
        self.heads, self.kv = heads, kv
        self.cross_norm, self.self_norm, self.hidden_norm = (nn.RMSNorm(dim) for _ in range(3))
        self.query, self.cross_output = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.recency = Recency(max_length)
        self.prefix, self.feed_forward = PrefixAttention(dim, heads, kv_heads), last
        self.dropout = Dropout(dropout)

    def forward(self, h_TND: Tensor, window: Window, past: Past | None) -> tuple[Tensor, Past]:
        q_TNHC = self.query(self.cross_norm(h_TND)).unflatten(-1, (self.heads, -1))
        mixed_TNHC = attend(q_TNHC, window, self.kv, self.recency(window))
        h_TND = h_TND + self.dropout(self.cross_output(mixed_TNHC.flatten(2)))
        mixed_TND, past = self.prefix(self.self_norm(h_TND), past)
        h_TND = h_TND + self.dropout(mixed_TND)
        return h_TND + self.dropout(self.feed_forward(self.hidden_norm(h_TND))), past
