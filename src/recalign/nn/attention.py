"""HSTU's attention in tiles, with hand-written gradients.

    S_ij = q_i . k_j + p_ij + g[bucket_ij]        O_i = sum_j SiLU(S_ij) v_j

    dV = P^T dO      dS = SiLU'(S) * (dO V^T)      dQ = dS K      dK = dS^T Q      with P = SiLU(S)
    dp = dS summed over sequences and heads        dg[b] = dS summed over heads and over all pairs of bucket b

Of each tile only S and SiLU(S) are saved. The backward sums the time bias's gradient in parallel.

Shape suffixes:
    B  sequences      H  heads      L  rows      C  width of a head      G  time buckets
    S  sequences of a tile          Q  queries of a tile, and K the keys that they can see
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .hstu import TIME_BUCKETS, Attention, time_buckets

# Queries per block. A block only sees keys up to its end: at 200 events, three quarters of the full square.
QUERIES = 100
# Scores per tile: few enough for a CPU's caches, enough to keep a GPU busy.
CPU_SCORES = 2**22
GPU_SCORES = 2**27
# Copies of the time bias, used by the keys in turn. Neighbouring keys mostly share a bucket: with one copy, atomic
# additions to its gradient would be serialised.
LANES = 4


class Tile(NamedTuple):
    """A block of queries, the keys that they see, and the time buckets between them (`in_lanes`)."""

    sequences: slice
    queries: slice
    keys: slice
    bucket_SN: Tensor | None


class TiledAttention(Attention):
    """`Attention` computed tile by tile, never holding all scores at once; differentiable in all five tensors.

    Queries, keys and values are contiguous and in the precision of the products. Biases are added in the precision of
    ``position_LL`` (float32 under autocast). It also holds the causal mask: where j > i, SiLU of it is 0.
    """

    def buckets(self, time_BL: Tensor, request_time_BL: Tensor) -> list[Tile]:
        """Tiles with their time buckets; together they cover every visible pair once."""
        sequences, rows = time_BL.shape
        return [
            Tile(s, q, k, in_lanes(time_buckets(request_time_BL[s, q], time_BL[s, k]), TIME_BUCKETS + 1))
            for s, q, k, _ in tiles(rows, sequences, time_BL.device.type == "cpu")
        ]

    def __call__(self, *tensors_and_tiles: Any) -> Tensor:
        return _Attention.apply(*tensors_and_tiles)


def tiles(rows: int, sequences: int, cpu: bool) -> list[Tile]:
    """Split rows into even blocks of at most QUERIES, and sequences into groups that fit a tile. Buckets are None."""
    block = math.ceil(rows / math.ceil(rows / QUERIES))
    most = max(1, (CPU_SCORES if cpu else GPU_SCORES) // (block * rows))
    together = math.ceil(sequences / max(1, math.ceil(sequences / most))) or 1
    groups = [slice(s, min(s + together, sequences)) for s in range(0, sequences, together)]
    blocks = [slice(q, min(q + block, rows)) for q in range(0, rows, block)]
    return [Tile(s, q, slice(0, q.stop), None) for s in groups for q in blocks]


def in_lanes(bucket_SQK: Tensor, buckets: int) -> Tensor:
    """Index of each pair's bucket in the LANES copies of the time bias, computed in place: int64 (S, Q * K)."""
    lane_K = torch.arange(bucket_SQK.shape[2], device=bucket_SQK.device) % LANES
    return bucket_SQK.add_(lane_K * buckets).flatten(1)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHLC: Tensor,
        k_BHLC: Tensor,
        v_BHLC: Tensor,
        position_LL: Tensor,
        time_G: Tensor | None,
        tiles: list,
    ) -> Tensor:
        time_X = None if time_G is None else time_G.repeat(LANES)
        mixed_BHLC = torch.empty_like(v_BHLC)
        kept = []
        for s, q, k, bucket_SN in tiles:
            bias_SQK = position_LL[q, k]
            if time_X is not None:
                time_SN = time_X.expand(len(bucket_SN), -1).gather(1, bucket_SN)
                bias_SQK = time_SN.view(-1, *bias_SQK.shape).add_(bias_SQK)
            score_SHQK = v_BHLC.new_empty(s.stop - s.start, v_BHLC.shape[1], *bias_SQK.shape[-2:])
            score_SHQK.copy_(bias_SQK.unsqueeze(-3))
            _add_product(score_SHQK, q_BHLC[s, :, q], k_BHLC[s, :, k].transpose(2, 3))
            weight_SHQK = F.silu(score_SHQK)
            mixed_BHLC[s, :, q] = weight_SHQK @ v_BHLC[s, :, k]
            kept += [score_SHQK, weight_SHQK]
        ctx.save_for_backward(q_BHLC, k_BHLC, v_BHLC, position_LL, time_G, *kept)
        ctx.tiles = tiles
        return mixed_BHLC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHLC: Tensor) -> tuple[Tensor | None, ...]:
        q_BHLC, k_BHLC, v_BHLC, position_LL, time_G, *kept = ctx.saved_tensors
        dq_BHLC, dk_BHLC, dv_BHLC = torch.empty_like(q_BHLC), torch.zeros_like(k_BHLC), torch.zeros_like(v_BHLC)
        dposition_LL = torch.zeros_like(position_LL)
        dtime_XG = None if time_G is None else time_G.new_zeros(LANES, len(time_G))
        for (s, q, k, bucket_SN), score_SHQK, weight_SHQK in zip(ctx.tiles, kept[::2], kept[1::2], strict=True):
            grad_SHQC = grad_BHLC[s, :, q]
            _add_product(dv_BHLC[s, :, k], weight_SHQK.transpose(2, 3), grad_SHQC)
            dscore_SHQK = grad_SHQC @ v_BHLC[s, :, k].transpose(2, 3)
            torch.ops.aten.silu_backward.grad_input(dscore_SHQK, score_SHQK, grad_input=dscore_SHQK)
            dq_BHLC[s, :, q] = dscore_SHQK @ k_BHLC[s, :, k]
            _add_product(dk_BHLC[s, :, k], dscore_SHQK.transpose(2, 3), q_BHLC[s, :, q])
            dbias_SQK = dscore_SHQK.to(position_LL.dtype)
            dbias_SQK = dbias_SQK[:, 0] if dbias_SQK.shape[1] == 1 else dbias_SQK.sum(dim=1)  # over heads
            dposition_LL[q, k] += dbias_SQK.sum(dim=0)
            if dtime_XG is not None:
                dtime_SX = dtime_XG.new_zeros(len(bucket_SN), dtime_XG.numel())
                dtime_XG += dtime_SX.scatter_add_(1, bucket_SN, dbias_SQK.flatten(1)).sum(dim=0).view_as(dtime_XG)
        dtime_G = None if dtime_XG is None else dtime_XG.sum(dim=0)
        return dq_BHLC, dk_BHLC, dv_BHLC, dposition_LL, dtime_G, None


def _add_product(sum_SHQK: Tensor, a_SHQC: Tensor, b_SHCK: Tensor) -> None:
    """sum += a @ b, in one pass if there is a single head."""
    if sum_SHQK.shape[1] == 1:
        sum_SHQK[:, 0].baddbmm_(a_SHQC[:, 0], b_SHCK[:, 0])
    else:
        sum_SHQK += a_SHQC @ b_SHCK
