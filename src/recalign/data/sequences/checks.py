"""Check windows before anything is trained or measured on them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from recalign.data.sequences.store import Group, Part, Sequences, is_first
from recalign.data.sequences.windows import NextEvents, Windows
from recalign.errors import InputError

Some = TypeVar("Some", bound=Windows | NextEvents)

_SAID: set[tuple[str, int]] = set()
"""Logs and lengths that `report_truncation` has reported."""


def checked(windows: Some, sequences: Sequences, part: Part, users: Group) -> Some:
    """Return the windows if they can be trained on (``train``) or measured on (the other parts).

    Raises:
        InputError: there are none, or an item is not in the catalogue 1..V. Targets of evaluation may be 0 (unseen in
            training, a miss), and so may rejected items (there is no pair).
    """
    if not len(windows):
        text = f"no event of users {users} in the {part} part has a history to predict it from"
        remedy = "choose other cuts, a group of more users (data.share_a), or a log whose users come back"
        raise InputError(text, where="data.split, data.users", remedy=remedy)
    if isinstance(windows, NextEvents):  # straight from the log
        return windows
    lowest = 1 if part == "train" else 0
    _require_items(windows.target, lowest, sequences.num_items, f"targets of the {part} part")
    if windows.rejected is not None:
        _require_items(windows.rejected, 0, sequences.num_items, "rejected items")
    return windows


def report_truncation(windows: Windows | NextEvents, sequences: Sequences, max_length: int) -> None:
    """Say in one line, once a process, how many histories of a log lose their oldest events, if any."""
    oldest = is_first(windows.user)
    cut = int((windows.start > sequences.offset[windows.user])[oldest].sum())
    if cut and (log := (sequences.catalogue, max_length)) not in _SAID:  # all stages of a chain train on it
        _SAID.add(log)
        rank_zero_info(
            f"the newest {max_length} events are kept of {cut:,} longer histories (of {int(oldest.sum()):,}); "
            "raise data.max_length to keep more, or set data.stride to train on the others too"
        )


def _require_items(item: np.ndarray, lowest: int, highest: int, which: str) -> None:
    outside = (item < lowest) | (item > highest)
    if outside.any():
        raise InputError(
            f"{int(outside.sum()):,} of {item.size:,} {which} are not in the catalogue of items {lowest} to {highest}, "
            f"such as {item[outside][0]}",
            where="data",
            remedy="training() gives items as recalign.data.sequences.Sequences.item does: the index in items, plus 1",
        )
