"""Histories as inputs of the exported graph, and the encoder's output after the newest event, in plain operations.

Shape suffixes: B histories, L events, D width, E width of all heads, H heads, C width of a head, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from recalign.nn import HSTU, Encoder
from recalign.nn.hstu import EPS, Attention, HSTULayer, layer_norm, time_buckets


@dataclass(frozen=True)
class GraphInputs:
    """B histories, padded at the end; a history may be empty.

    Attributes:
        item_BL: int64, 0 is padding.
        time_BL, request_time_BL: int64, seconds, as in `recalign.data.sequences.Batch`.
        length_B: int64.
        reward_BL: NaN if unknown.
    """

    item_BL: Tensor
    time_BL: Tensor
    request_time_BL: Tensor
    length_B: Tensor
    reward_BL: Tensor

    @property
    def newest_B(self) -> Tensor:
        """Index of the newest event; 0 for an empty history. Shape: int64 (B,)."""
        return (self.length_B - 1).clamp(min=0)


@singledispatch
def last_hidden(encoder: Encoder, x_BLD: Tensor, h: GraphInputs) -> Tensor:
    """The encoder's output after the newest event. Shape: (B, L, D) -> (B, D)."""
    return at(encoder(x_BLD, h.length_B, h.time_BL, h.request_time_BL), h.newest_B)


@last_hidden.register
def _(encoder: HSTU, x_BLD: Tensor, h: GraphInputs) -> Tensor:
    """HSTU without tiles. The last layer has a single query: the newest event."""
    layers: list[HSTULayer] = [*encoder.layers]
    last = layers.pop()
    x_BLD = encoder.add_positions(x_BLD, h.length_B)
    if layers:
        index_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        offset_LL, bucket_BLL = index_L - index_L[:, None], time_buckets(h.request_time_BL, h.time_BL)
        for layer in layers:
            x_BLD = dense(layer, x_BLD, x_BLD, offset_LL, bucket_BLL)
    offset_B1L = torch.arange(x_BLD.shape[1], device=x_BLD.device) - h.newest_B[:, None, None]
    request_B1 = h.request_time_BL.gather(1, h.newest_B[:, None])
    return dense(last, at(x_BLD, h.newest_B)[:, None], x_BLD, offset_B1L, time_buckets(request_B1, h.time_BL))[:, 0]


def dense(layer: HSTULayer, query_BQD: Tensor, x_BLD: Tensor, offset_QL: Tensor, bucket_BQL: Tensor) -> Tensor:
    """`HSTULayer` for some queries, without tiles. Shape: offset (Q, L) or (B, Q, L) -> (B, Q, D)."""
    u, v, q, k = layer.uvqk.weight.chunk(4)
    u_BQE, q_BQE = F.silu(F.linear(layer_norm(query_BQD), torch.cat([u, q]))).chunk(2, dim=-1)
    v_BLE, k_BLE = F.silu(F.linear(layer_norm(x_BLD), torch.cat([v, k]))).chunk(2, dim=-1)
    v_BHLC, q_BHQC, k_BHLC = (e.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for e in (v_BLE, q_BQE, k_BLE))
    position_BXQL = layer.masked_position_bias(offset_QL).unsqueeze(-3)
    mixed_BHQC = Attention()(q_BHQC, k_BHLC, v_BHLC, position_BXQL, layer.time_bias, bucket_BQL)
    mixed_BQE = mixed_BHQC.transpose(1, 2).flatten(2)
    return query_BQD + layer.output(u_BQE * layer_norm(mixed_BQE, EPS * layer.max_length**2))


def at(x_BLD: Tensor, place_B: Tensor) -> Tensor:
    """One event per history. Shape: (B, L, D), (B,) -> (B, D)."""
    return x_BLD.gather(1, place_B[:, None, None].expand(-1, 1, x_BLD.shape[2]))[:, 0]
