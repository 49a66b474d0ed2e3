"""The batch of all stages, and how windows become one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences.store import Sequences, is_first
from recalign.data.sequences.windows import AnyWindows, Windows, ranges

BY_ROW = ("user_B", "item_BL", "length_B", "time_BL", "request_time_BL", "reward_BL")
"""Fields with one row per history; the others have one per target."""


@dataclass(frozen=True)
class Batch:
    """B histories of up to L events, and T targets to predict from them.

    Histories are padded at the end. Target t is predicted from row ``row_T[t]``, up to and including event
    ``column_T[t]`` of it. Several targets may share a row, or a position in it.

    Attributes:
        user_B: int64, user index.
        item_BL: int64, items 1..V; 0 is padding.
        length_B: int64, events of each row without padding.
        time_BL: int64, seconds; padding repeats the last event's time.
        request_time_BL: int64, when the item after event i is requested: with ``data.request_time: known`` the time of
            the (chosen) target there, else of event i + 1; with ``last_event`` that of event i.
        reward_BL: float32, rewards of the history's events, NaN if absent.
        row_T, column_T: int64, where each target's history ends.
        target_T: int64, the item to predict or rate; 0 if it is not in the catalogue.
        reward_T: float32, its reward, NaN if absent.
        high_T: bool, whether that reward is high.
        event_T: int64, the target's row in `Sequences.frame`.
        advantage_T: float32, for post-training: its reward minus the expected one, NaN if absent.
        rejected_TN: int64, for post-training on pairs: items of less worth than the target, 0 without a pair.
        seen_N: (2, N) int64, for evaluation: pairs (index of a target, item that its user had seen before).
        tied_N: (2, N) int64, for evaluation of tie groups: pairs (index of a target, item of its tie group).
    """

    user_B: Tensor
    item_BL: Tensor
    length_B: Tensor
    time_BL: Tensor
    request_time_BL: Tensor
    reward_BL: Tensor
    row_T: Tensor
    column_T: Tensor
    target_T: Tensor
    reward_T: Tensor
    high_T: Tensor
    event_T: Tensor
    advantage_T: Tensor | None = None
    rejected_TN: Tensor | None = None
    seen_N: Tensor | None = None
    tied_N: Tensor | None = None

    @property
    def unranked_N(self) -> Tensor | None:
        """Pairs (target, item) to leave out of rankings: items seen, and items of its tie group. Shape: (2, N)."""
        if self.seen_N is None or self.tied_N is None:
            return self.seen_N
        return torch.cat([self.seen_N, self.tied_N], dim=1)

    def newest(self, x_BLD: Tensor) -> Tensor:
        """Pick the vector at the newest event that each target sees. Shape: (B, L, D) -> (T, D)."""
        return x_BLD.flatten(0, 1).index_select(0, self.row_T * x_BLD.shape[1] + self.column_T)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Move all tensors to a device (Lightning calls this)."""
        tensors = {name: x for name, x in vars(self).items() if x is not None}
        return Batch(**{name: x.to(device, non_blocking=non_blocking) for name, x in tensors.items()})

    def pin_memory(self) -> Batch:
        """Copy all tensors to pinned memory (the DataLoader calls this)."""
        return Batch(**{name: x.pin_memory() for name, x in vars(self).items() if x is not None})

    def head(self, rows: int) -> Batch:
        """Keep the first rows and their targets."""
        few = self.keep(self.row_T < rows)
        return dataclasses.replace(few, **{name: getattr(self, name)[:rows] for name in BY_ROW})

    def keep(self, kept_T: Tensor) -> Batch:
        """Keep some of the targets, without `seen_N` and `tied_N`. Shape: bool (T,)."""
        by_target = {name: x for name, x in vars(self).items() if name not in (*BY_ROW, "seen_N", "tied_N")}
        kept: dict[str, Any] = {name: None if x is None else x[kept_T] for name, x in by_target.items()}
        return dataclasses.replace(self, seen_N=None, tied_N=None, **kept)


def collate(
    sequences: Sequences, windows: AnyWindows, chosen: np.ndarray, bucket: int, *, know_request: bool, seen: bool
) -> Batch:
    """Make the batch of some windows of a log.

    Args:
        chosen: int64 (B,), indices of windows.
        bucket: L, the length to pad to.
        know_request: whether ``request_time_BL`` holds the next event's time (else that of the event before it).
        seen: whether to fill ``seen_N``, and ``tied_N`` if there are tie groups.
    """
    part = windows.take(chosen)
    column_L, length_B1 = np.arange(bucket), part.length[:, None]
    valid_BL = column_L < length_B1
    event_BL = part.start[:, None] + np.minimum(column_L, length_B1 - 1)
    row_T = np.repeat(np.arange(len(part)), np.diff(part.offset))
    column_T = part.state - part.start[row_T]
    time_BL = request_time_BL = sequences.time[event_BL]
    if know_request:
        request_time_BL = np.concatenate([time_BL[:, 1:], time_BL[:, -1:]], axis=1)
        first_T = is_first(row_T * bucket + column_T)  # the chosen one of several targets
        request_time_BL[row_T[first_T], column_T[first_T]] = part.time[first_T]
    fields = {
        "user_B": part.user,
        "item_BL": np.where(valid_BL, sequences.item[event_BL], np.int64(0)),
        "length_B": part.length,
        "time_BL": time_BL,
        "request_time_BL": request_time_BL,
        "reward_BL": np.where(valid_BL, sequences.reward[event_BL], np.float32("nan")),
        "row_T": row_T,
        "column_T": column_T,
        "target_T": part.target.astype(np.int64),
        "reward_T": part.reward,
        "high_T": part.high,
        "event_T": part.event,
        "advantage_T": part.advantage,
        "rejected_TN": None if part.rejected is None else part.rejected.astype(np.int64),
        "seen_N": _seen(sequences, part, part.user[row_T]) if seen else None,
        "tied_N": _tied(sequences, part) if seen and sequences.tie_group_starts is not None else None,
    }
    tensors = {name: None if x is None else torch.from_numpy(np.ascontiguousarray(x)) for name, x in fields.items()}
    return Batch(**tensors)  # type: ignore[arg-type]


def _seen(sequences: Sequences, windows: Windows, user: np.ndarray) -> np.ndarray:
    """Pairs (target, item) of all items that the user had seen before; the target's own may be among them.

    Each item occurs once per target, from its first event of that user: with repeats, a user with many events on few
    items would take gigabytes. ``user``: the user of each target.
    """
    users, user_index = np.unique(user, return_inverse=True)
    history_end = windows.state + 1
    last_history_end = sequences.offset[users]
    np.maximum.at(last_history_end, user_index, history_end)
    length = last_history_end - sequences.offset[users]
    event = ranges(sequences.offset[users], length)
    user_item_key = np.repeat(np.arange(len(users)), length) * (sequences.num_items + 1) + sequences.item[event]
    first_occurrence = np.sort(np.unique(user_item_key, return_index=True)[1])
    event = event[first_occurrence]
    start = np.searchsorted(event, sequences.offset[user])
    count = np.searchsorted(event, history_end) - start
    return np.stack([np.repeat(np.arange(len(user)), count), sequences.item[event[ranges(start, count)]]])


def _tied(sequences: Sequences, windows: Windows) -> np.ndarray:
    """Pairs (target, item) of the known items of each known target's tie group, its own item included."""
    target = np.flatnonzero(windows.target > 0)
    begin = windows.state[target] + 1
    size = sequences.tie_group_end(begin) - begin
    return np.stack([np.repeat(target, size), sequences.item[ranges(begin, size)]])
