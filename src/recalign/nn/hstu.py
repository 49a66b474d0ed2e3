"""HSTU: Hierarchical Sequential Transduction Unit.

Zhai et al., "Actions Speak Louder than Words" (https://arxiv.org/abs/2402.17152), in the form of the published research
code (meta-recsys/generative-recommenders, research branch). With LN a layer norm without learned parameters (eps 1e-6)
and N the maximal length, one layer is

    [U, V, Q, K] = SiLU(LN(x) W)
    A_ij = SiLU(q_i . k_j + p[j - i] + g[bucket(T_i - t_j)]) / N      for j <= i, else 0
    x <- x + W_o Dropout(U * LN(A V)) + b_o

There is no softmax, no 1/sqrt(d) and no feed-forward block. p is a learned bias over relative positions. g is a learned
bias over the time from event j to T_i, the time at which the item after event i is requested. Heads share both; each
layer has its own. The first layer's x is Dropout(item * sqrt(D) + absolute position).

Shape suffixes:
    B  sequences      L  length of the bucket <= N      D  width of the model
    H  heads          C  width of a head                E  H * C
    Q  queries        K  keys                           G  time buckets
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recalign.errors import require_positive

from .encoder import Encoder, position_table, valid_rows
from .layers import Dropout

EPS = 1e-6
TIME_BUCKETS = 128
MAX_GAP = math.exp(0.301 * (TIME_BUCKETS + 0.5))  # gaps are clipped to this, in seconds
# The causal mask is added to the position bias: SiLU(-30,000) and its slope are exactly zero, also in float16.
MASKED = -3e4


class HSTU(Encoder):
    """HSTU over item embeddings.

    Args:
        dim: width of the model, D.
        layers: number of layers.
        heads: heads of each layer.
        max_length: N, the longest history; attention is divided by it.
        dropout: on the input and before each layer's output projection.
        time_bias: learn a bias over time gaps.
        position_bias: learn a bias over relative positions.
        head_dim: width of a head; None: dim / heads.
    """

    def __init__(
        self,
        dim: int = 50,
        layers: int = 2,
        heads: int = 1,
        max_length: int = 200,
        dropout: float = 0.5,
        time_bias: bool = True,
        position_bias: bool = True,
        head_dim: int | None = None,
    ) -> None:
        super().__init__(dim, max_length, heads, head_dim, dropout)
        require_positive("model.encoder", {"layers": layers}, "layers")
        self.position = position_table(max_length, dim)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            HSTULayer(dim, heads, head_dim or dim // heads, max_length, dropout, time_bias, position_bias)
            for _ in range(layers)
        )

    def forward(self, x_BLD: Tensor, length_B: Tensor, time_BL: Tensor, request_time_BL: Tensor) -> Tensor:
        x_BLD = self.add_positions(x_BLD, length_B)
        buckets = HSTULayer.attention.buckets(time_BL, request_time_BL)
        index = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        offset_LL = index - index[:, None]  # j - i
        for layer in self.layers:
            x_BLD = layer(x_BLD, buckets, offset_LL)
        return x_BLD.masked_fill_(~valid_rows(length_B, x_BLD.shape[1]), 0)

    def add_positions(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """Add position embeddings to the events, and apply dropout; 0 in padding."""
        rows = x_BLD.shape[1]
        x_BLD = torch.add(self.position[:rows], x_BLD, alpha=self.dim**0.5)
        return self.dropout(x_BLD).masked_fill_(~valid_rows(length_B, rows), 0)


class Attention:
    """SiLU(Q K^T + rab^{p,t}) V of the paper (equation 2), with all scores in memory at once."""

    def buckets(self, time_BL: Tensor, request_time_BL: Tensor) -> Any:
        """The time buckets of all pairs of events, which all layers share."""
        return time_buckets(request_time_BL, time_BL)

    def __call__(
        self, q_BHLC: Tensor, k_BHLC: Tensor, v_BHLC: Tensor, position_LL: Tensor, time_G: Tensor | None, buckets: Any
    ) -> Tensor:
        """sum_j SiLU(q_i . k_j + p_ij + g[bucket_ij]) v_j; no time bias if ``time_G`` is None. -> (B, H, L, C)."""
        bias = position_LL if time_G is None else position_LL + gather(time_G, buckets)[:, None]
        return F.silu(q_BHLC @ k_BHLC.transpose(2, 3) + bias) @ v_BHLC


class HSTULayer(nn.Module):
    """One layer; see the formula at the top."""

    attention: ClassVar[Attention] = Attention()
    """`recalign.nn` replaces it by `recalign.nn.attention.TiledAttention`: the same result, in tiles."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, max_length: int, dropout: float, time_bias: bool, position_bias: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.max_length = max_length
        self.uvqk = nn.Linear(dim, 4 * heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim)
        self.dropout = Dropout(dropout)
        self.time_bias = nn.Parameter(torch.empty(TIME_BUCKETS + 1)) if time_bias else None
        self.position_bias = nn.Parameter(torch.empty(2 * max_length - 1)) if position_bias else None
        nn.init.xavier_uniform_(self.output.weight)
        for weight in (self.uvqk.weight, self.time_bias, self.position_bias):
            if weight is not None:
                nn.init.normal_(weight, std=0.02)

    def forward(self, x_BLD: Tensor, buckets: Any, offset_LL: Tensor) -> Tensor:
        u_BLE, *vqk = F.silu(self.uvqk(layer_norm(x_BLD))).chunk(4, dim=-1)
        v_BHLC, q_BHLC, k_BHLC = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous() for part in vqk)
        position_LL = self.masked_position_bias(offset_LL)
        mixed_BHLC = self.attention(q_BHLC, k_BHLC, v_BHLC, position_LL, self.time_bias, buckets)
        # LN(a / N) with eps equals LN(a) with eps N^2, so the division by N is not needed.
        normed_BLE = layer_norm(mixed_BHLC.transpose(1, 2).flatten(2), EPS * self.max_length**2)
        return x_BLD + self.output(self.dropout(u_BLE * normed_BLE))

    def masked_position_bias(self, offset_LL: Tensor) -> Tensor:
        """p[j - i] at (i, j), MASKED where j > i: (L, L)."""
        if self.position_bias is None:
            bias_LL = torch.zeros_like(offset_LL, dtype=self.uvqk.weight.dtype)
        else:
            bias_LL = gather(self.position_bias, offset_LL + self.max_length - 1)
        return bias_LL.masked_fill(offset_LL > 0, MASKED)


def layer_norm(x: Tensor, eps: float = EPS) -> Tensor:
    """Layer norm over the last dimension, without learned parameters; its statistics are float32 at least."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def gather(table: Tensor, index: Tensor) -> Tensor:
    """table[index], with a faster backward: the gradient of `Tensor.gather` is a single scatter_add."""
    return table.gather(0, index.flatten()).view(index.shape)


def time_buckets(request_time_BQ: Tensor, time_BK: Tensor) -> Tensor:
    """floor(ln(max(|T_i - t_j|, 1)) / 0.301), at most TIME_BUCKETS: (B, Q, K), int64.

    The logarithm is in float64. In float32 some gaps, the first at 417,901 seconds, would fall into a neighbouring
    bucket, and which ones depends on the device.
    """
    gap_BQK = (request_time_BQ.double()[:, :, None] - time_BK.double()[:, None, :]).abs_().clamp_(1, MAX_GAP)
    return gap_BQK.log_().div_(0.301).long()
