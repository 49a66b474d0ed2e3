"""Cross-attention of a decoder's targets to their histories: keys up to each target's event, with recency biases.

Targets of one row share its keys without copies: targets are laid out in a grid of rows and slots, and one matrix
product per row serves all of its slots.

Shape suffixes:
    T  targets                  B  rows of the batch         L  events of a row
    U  rows that have targets   M  slots: most targets of one row
    N  queries of a target      H  heads                     G  heads of keys and values       C  width of a head
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from .hstu import TIME_BUCKETS, gather, time_buckets


@dataclass(frozen=True)
class Window:
    """The context of T targets.

    Attributes:
        keys: (B, G, L, C), of the events; also used as values.
        time_BL, request_time_BL: as in `recalign.nn.Encoder`.
        row_T, column_T: target t sees the events 0..column_T[t] of row row_T[t].
    """

    keys: Tensor
    time_BL: Tensor
    request_time_BL: Tensor
    row_T: Tensor
    column_T: Tensor

    def __getitem__(self, part: slice | Tensor) -> Window:
        """The context of some targets; it still holds all rows."""
        return replace(self, row_T=self.row_T[part], column_T=self.column_T[part])

    @cached_property
    def grid(self) -> tuple[Tensor, int, Tensor]:
        """Rows that have targets (U,), slots M, and the index of each target in the grid, row * M + slot (T,).

        Synchronises with the device, to read U and M.
        """
        row_U, inverse_T, count_U = self.row_T.unique(return_inverse=True, return_counts=True)
        order_T = inverse_T.argsort(stable=True)
        first_U = count_U.cumsum(0) - count_U
        slot_T = torch.empty_like(order_T)
        slot_T[order_T] = torch.arange(len(order_T), device=order_T.device) - first_U[inverse_T[order_T]]
        slots = int(count_U.max()) if len(count_U) else 0
        return row_U, slots, inverse_T * slots + slot_T

    def lay(self, x_T: Tensor) -> Tensor:
        """Scatter one entry per target into the grid, zero elsewhere. Shape: (T, ...) -> (U, M, ...)."""
        row_U, slots, place_T = self.grid
        empty = x_T.new_zeros(len(row_U) * slots, *x_T.shape[1:])
        return empty.index_copy(0, place_T, x_T).unflatten(0, (len(row_U), slots))

    def pick(self, x_UM: Tensor) -> Tensor:
        """The reverse of `lay`. Shape: (U, M, ...) -> (T, ...)."""
        return x_UM.flatten(0, 1).index_select(0, self.grid[2])

    @cached_property
    def offset_UML(self) -> Tensor:
        """How many events before the newest event of a target's history each event is; negative: not seen."""
        column_UM = self.lay(self.column_T)
        return column_UM[:, :, None] - torch.arange(self.time_BL.shape[1], device=column_UM.device)

    @cached_property
    def bucket_UML(self) -> Tensor:
        """The time bucket between each target's request and each event."""
        return time_buckets(self.lay(self.request_time_BL[self.row_T, self.column_T]), self.time_BL[self.grid[0]])


class Recency(nn.Module):
    """Learned attention biases over an event's position from the end and over the time since it, as in HSTU.

    The decoder's start token is a constant, so its queries cannot tell by themselves what is recent.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(max_length))
        self.time = nn.Parameter(torch.zeros(TIME_BUCKETS + 1))

    def forward(self, window: Window) -> Tensor:
        """Bias of each event, -inf if it is not seen. Shape: -> (U, M, L)."""
        offset_UML = window.offset_UML
        bias_UML = gather(self.position, offset_UML.clamp(min=0)) + gather(self.time, window.bucket_UML)
        return bias_UML.masked_fill(offset_UML < 0, -torch.inf)


def attend(q_TNHC: Tensor, window: Window, bias_UML: Tensor) -> Tensor:
    """Softmax attention of each target's queries to the events it sees: (T, N, H, C).

    Args:
        q_TNHC: queries; head h reads the keys and values of head h G // H.
        window: context of the targets.
        bias_UML: from `Recency`.
    """
    (row_U, slots, _), heads = window.grid, window.keys.shape[1]
    k_UGLC = window.keys.index_select(0, row_U)
    q_UMNGHC = window.lay(q_TNHC).unflatten(3, (heads, -1))
    q_UGMNHC = q_UMNGHC.permute(0, 3, 1, 2, 4, 5)
    scale = q_TNHC.shape[-1] ** -0.5
    score_UGXL = (q_UGMNHC * scale).flatten(2, 4) @ k_UGLC.transpose(2, 3)
    queries = q_UGMNHC.shape[3] * q_UGMNHC.shape[4]  # per slot; torch cannot infer it if there is no slot
    score_UGMYL = score_UGXL.unflatten(2, (slots, queries)) + bias_UML[:, None, :, None]
    mixed_UGXC = score_UGMYL.softmax(dim=-1).flatten(2, 3).to(k_UGLC.dtype) @ k_UGLC
    return window.pick(mixed_UGXC.unflatten(2, q_UGMNHC.shape[2:5]).permute(0, 2, 3, 1, 4, 5).flatten(3, 4))
