"""OneRec V1's encoder-decoder: events see each other in an encoder, and each block of the decoder projects them anew.

OneRec Technical Report (https://arxiv.org/abs/2506.13695). With R an RMSNorm, a block of the encoder is

    x <- x + SelfAttention(R(x))
    x <- x + SwiGLU(R(x))

and a block of the decoder, whose tokens are a first one (BOS) and the codes written so far,

    h <- h + CausalSelfAttention(R(h))
    h <- h + CrossAttention(R(h), K x, V x)        K, V of the block's own, x the encoder's output R(x)
    h <- h + SwiGLU(R(h))                          or a mixture of experts (`feed_forward.py`)

Other than in the report, the encoder is causal, so that all targets of a window are trained in one pass, and the
cross-attention has learned biases over position and time (`Recency`), as in `onerec_lazy_decoder.py`.

Shape suffixes:
    T  targets      N  prefixes of codes of each target      D  width
    B  rows         L  events                                H  heads      C  D / H
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from recalign.errors import InputError, require_positive

from .dropout import Dropout
from .feed_forward import feed_forward
from .onerec_decoder import Decoder, Past, PrefixAttention
from .window import Recency, Window, attend


class EncoderDecoder(Decoder):
    """Encoder and decoder, one token at a time.

    Args:
        dim: width, D.
        layers: blocks of the decoder.
        encoder_layers: blocks of the encoder; null: as many.
        heads: heads of each attention; dim is a multiple.
        hidden: width of each SwiGLU; null: 8 / 3 of dim.
        experts: SwiGLUs of each decoder block's mixture of experts; 0: one, which all tokens use.
        experts_per_token: experts that a token uses.
        max_length: the longest history.
        dropout: on each branch and on the tokens.

    Raises:
        InputError: dim does not divide into the heads, or a token would use more experts than there are.
    """

    def __init__(
        self,
        dim: int = 64,
        layers: int = 2,
        encoder_layers: int | None = None,
        heads: int = 1,
        hidden: int | None = None,
        experts: int = 0,
        experts_per_token: int = 2,
        max_length: int = 200,
        dropout: float = 0.3,
    ) -> None:
        require_positive("model.decoder", {"dim": dim, "layers": layers, "heads": heads}, "dim", "layers", "heads")
        if dim % heads:
            remedy = "choose a dim that is a multiple of heads"
            raise InputError(f"dim {dim} does not divide into {heads} heads", where="model.decoder", remedy=remedy)
        blocks = []
        for layer in range(layers):
            last = feed_forward(dim, hidden, experts, experts_per_token)
            blocks.append(DecoderBlock(dim, heads, last, max_length, dropout, layer))
        super().__init__(dim, max_length, dropout, blocks)
        depth = layers if encoder_layers is None else encoder_layers
        self.encoder_blocks = nn.ModuleList(EncoderBlock(dim, heads, hidden, dropout) for _ in range(depth))
        self.encoder_norm, self.heads = nn.RMSNorm(dim), heads
        self.to_kv = nn.ModuleList(nn.Linear(dim, 2 * dim, bias=False) for _ in range(layers))

    def keys_and_values(self, x_BLD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each block's own, (B, H, L, C) each."""
        for block in self.encoder_blocks:
            x_BLD = block(x_BLD)
        x_BLD = self.encoder_norm(x_BLD)
        split = [to_kv(x_BLD).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1) for to_kv in self.to_kv]
        return [k_BHLC for k_BHLC, _ in split], [v_BHLC for _, v_BHLC in split]


class EncoderBlock(nn.Module):
    """One block of the encoder. Padding stands at the end, where causality hides it."""

    def __init__(self, dim: int, heads: int, hidden: int | None, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.self_norm, self.hidden_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.qkv, self.output = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.feed_forward, self.dropout = feed_forward(dim, hidden), Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        qkv_BXLC = self.qkv(self.self_norm(x_BLD)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        q_BHLC, k_BHLC, v_BHLC = qkv_BXLC.chunk(3, dim=1)
        mixed_BHLC = F.scaled_dot_product_attention(q_BHLC, k_BHLC, v_BHLC, is_causal=True)
        x_BLD = x_BLD + self.dropout(self.output(mixed_BHLC.transpose(1, 2).flatten(2)))
        return x_BLD + self.dropout(self.feed_forward(self.hidden_norm(x_BLD)))


class DecoderBlock(nn.Module):
    """One block of the decoder, which reads set ``kv`` of keys and values; ``last`` is its feed-forward layer."""

    def __init__(self, dim: int, heads: int, last: nn.Module, max_length: int, dropout: float, kv: int) -> None:
        super().__init__()
        self.heads, self.kv = heads, kv
        self.self_norm, self.cross_norm, self.hidden_norm = (nn.RMSNorm(dim) for _ in range(3))
        self.prefix = PrefixAttention(dim, heads, heads)
        self.query, self.cross_output = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.recency = Recency(max_length)
        self.feed_forward, self.dropout = last, Dropout(dropout)

    def forward(self, h_TND: Tensor, window: Window, past: Past | None) -> tuple[Tensor, Past]:
        mixed_TND, past = self.prefix(self.self_norm(h_TND), past)
        h_TND = h_TND + self.dropout(mixed_TND)
        q_TNHC = self.query(self.cross_norm(h_TND)).unflatten(-1, (self.heads, -1))
        mixed_TNHC = attend(q_TNHC, window, self.kv, self.recency(window))
        h_TND = h_TND + self.dropout(self.cross_output(mixed_TNHC.flatten(2)))
        return h_TND + self.dropout(self.feed_forward(self.hidden_norm(h_TND))), past
