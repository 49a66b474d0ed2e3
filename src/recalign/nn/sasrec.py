"""SASRec: self-attentive sequential recommendation.

Kang and McAuley (https://arxiv.org/abs/1808.09781). With learned layer norms LN, one layer is

    x <- x + Dropout(Attention(LN(x)))                  Attention = softmax(Q K^T / sqrt(d), causal) V, projected
    x <- x + Dropout(W2 Dropout(ReLU(W1 LN(x))))

and the output is LN(x). The first layer's x is Dropout(item * sqrt(D) + absolute position). Times are not used.

Shape suffixes:
    B  sequences      L  length of the bucket      D  width of the model      H  heads      C  D / H
"""

import torch.nn.functional as F
from torch import Tensor, nn

from recalign.errors import require_positive

from .encoder import Encoder, position_table, valid_rows
from .layers import Dropout


class SASRec(Encoder):
    """SASRec over item embeddings.

    Args:
        dim: width of the model, D; a multiple of heads.
        layers: number of layers.
        heads: heads of each layer.
        max_length: the longest history.
        dropout: on the input, the attention weights and every residual branch.
    """

    def __init__(
        self, dim: int = 50, layers: int = 2, heads: int = 1, max_length: int = 200, dropout: float = 0.2
    ) -> None:
        super().__init__(dim, max_length, heads, dropout=dropout)
        require_positive("model.encoder", {"layers": layers}, "layers")
        self.position = position_table(max_length, dim)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(SASRecLayer(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLD: Tensor, length_B: Tensor, time_BL: Tensor, request_time_BL: Tensor) -> Tensor:
        rows = x_BLD.shape[1]
        valid_BL1 = valid_rows(length_B, rows)
        x_BLD = self.dropout(x_BLD * self.dim**0.5 + self.position[:rows]).masked_fill(~valid_BL1, 0)
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        return self.norm(x_BLD).masked_fill(~valid_BL1, 0)


class SASRecLayer(nn.Module):
    """Causal self-attention, then a feed-forward block. Padding is at the end, so the causal mask hides it."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.dropout(self.attend(self.attention_norm(x_BLD)))
        return x_BLD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BLD)))

    def attend(self, x_BLD: Tensor) -> Tensor:
        q_BHLC, k_BHLC, v_BHLC = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_BLD).chunk(3, dim=-1)
        )
        dropout = self.dropout.p if self.training else 0.0
        mixed_BHLC = F.scaled_dot_product_attention(q_BHLC, k_BHLC, v_BHLC, dropout_p=dropout, is_causal=True)
        return self.output(mixed_BHLC.transpose(1, 2).flatten(2))
