"""What windows must be before anything is trained or measured on them."""

from __future__ import annotations

import functools

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from recalign.errors import InputError
from recalign.sequences.store import Group, Part, Sequences
from recalign.sequences.windows import Windows


def checked(windows: Windows, sequences: Sequences, part: Part, users: Group) -> Windows:
    """The same windows, all of which can be trained on (``train``) or measured on (the other parts).

    Raises:
        InputError: there are none; a training target or a rejected item is not in the catalogue 1..V. Of evaluation,
            a target may be 0: an item that training never saw, which counts as a miss. So may a rejected item: there
            is no pair.
    """
    if not len(windows):
        raise InputError(
            f"no event of users {users} in the {part} part has a history to predict it from",
            where="data.split, data.users",
            remedy="choose other cuts, a group of more users (data.share_a), or a log whose users come back",
        )
    lowest = 1 if part == "train" else 0
    _require_items(windows.target, lowest, sequences.num_items, f"targets of the {part} part")
    if windows.rejected is not None:
        _require_items(windows.rejected, 0, sequences.num_items, "rejected items")
    return windows


def say_cut(windows: Windows, sequences: Sequences, max_length: int) -> None:
    """Say, in one line, of how many histories only the newest events are seen, if any."""
    first = np.append(True, windows.user[1:] != windows.user[:-1])  # each user's oldest window
    cut = int((windows.start > sequences.offset[windows.user])[first].sum())
    if cut:
        _say(
            f"the newest {max_length} events are kept of {cut:,} longer histories (of {int(first.sum()):,}); "
            "data.max_length says how many, data.stride trains on the others too"
        )


@functools.cache
def _say(line: str) -> None:
    """Say something once a process: all stages of a chain train on the same histories."""
    rank_zero_info(line)


def _require_items(item: np.ndarray, lowest: int, highest: int, which: str) -> None:
    if item.min() >= lowest and item.max() <= highest:
        return
    outside = (item < lowest) | (item > highest)
    raise InputError(
        f"{int(outside.sum()):,} of {item.size:,} {which} are not in the catalogue of items {lowest} to {highest}, "
        f"such as {item[outside][0]}",
        where="data",
        remedy="items of training() are those of recalign.sequences.Sequences.item: the index in items, plus 1",
    )
