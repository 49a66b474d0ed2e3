"""A log split and indexed: histories as flat arrays, and the catalogue of items."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.events import EventTable
from recalign.files import digest
from recalign.sequences.splits import TEST, TRAIN, VALIDATION, High, Split, UserGroups

Group = Literal["all", "A", "B1", "B2"]
Part = Literal["train", "validation", "test"]
PARTS: dict[Part, int] = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Sequences:
    """A log, split, with its catalogue.

    The catalogue holds the V items of training rows, numbered 1..V. Every other item is 0: its events are in no
    history, and as targets they are misses. Events with an item of the catalogue are called known.

    Attributes:
        frame: the events in order: the event table's columns, ``item_id`` (int32, 0..V), ``split``, ``high`` and
            ``known`` (int32, number of the user's known events before this one). A feedback column of such a name can
            be read by `High` and by the split, but is not kept.
        users: raw user ids by user index.
        items: raw item ids by item - 1.
        group: ``A``, ``B1`` or ``B2`` by user index.
        trained: int64 (U,), training events of each user; they are the first of the known ones.
        offset: int64 (U + 1,), where each user's known events begin in the next four arrays.
        item, time, reward, event: known events of all users, one user after the other: int32 items 1..V, int64
            seconds, float32 rewards (NaN where there is none), int64 rows of ``frame``.
        fingerprint: digest of the log and of the settings that split it.
        catalogue: digest of the items in order and of the part of every event: what a network was trained on, whatever
            the reward.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    group: np.ndarray
    trained: np.ndarray
    offset: np.ndarray
    item: np.ndarray
    time: np.ndarray
    reward: np.ndarray
    event: np.ndarray
    fingerprint: str
    catalogue: str

    @property
    def num_items(self) -> int:
        """V, the number of items that a policy can choose from."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """U, the number of users."""
        return len(self.users)

    def users_in(self, group: Group) -> np.ndarray:
        """Who belongs to a group. Shape: bool (U,)."""
        return np.full(self.num_users, True) if group == "all" else self.group == group

    def item_counts(self, users: np.ndarray) -> np.ndarray:
        """The training events of each item by some users. Shape: bool (U,) -> int64 (V,)."""
        chosen = pl.Series(users).gather(self.frame["user"]) & (pl.col("split") == TRAIN)
        return np.bincount(self.frame.filter(chosen)["item_id"].to_numpy(), minlength=self.num_items + 1)[1:]


def build(table: EventTable, split: Split, high: High | None, groups: UserGroups) -> Sequences:
    """Split a checked event table and index its catalogue.

    Raises:
        InputError: a part has no events, or the training part has no two events of one user.
    """
    frame = table.frame.with_columns(split.assign(table).alias("split"))
    # Parts in order for each user: TimeSplit keeps them so, other splits could put test events into histories.
    key = pl.col("user").cast(pl.Int64) * len(PARTS) + pl.col("split")
    if not frame.select(key).to_series().is_sorted():
        frame = frame.sort(key, maintain_order=True)
    marks = high.mark(frame) if high else pl.repeat(False, len(frame), eager=True)
    user_N, item_N, split_N = (frame[name].to_numpy() for name in ("user", "item", "split"))
    trained_U = np.bincount(user_N[split_N == TRAIN], minlength=len(table.users))
    _check_parts(split_N, trained_U, split)
    in_training = np.zeros(len(table.items), bool)
    in_training[item_N[split_N == TRAIN]] = True
    item_id_N = (in_training * in_training.cumsum(dtype=np.int32))[item_N]
    known = _known(user_N, item_id_N > 0)
    items = table.items.filter(in_training)
    frame = frame.drop({"event", "item_id", "known"} & set(frame.columns))
    frame = frame.with_columns(marks.alias("high"), pl.Series("item_id", item_id_N), pl.Series("known", known))
    frame = frame.with_row_index("event")
    event = np.flatnonzero(item_id_N)
    counts = np.bincount(user_N[event], minlength=len(table.users))
    return Sequences(
        frame=frame,
        users=table.users,
        items=items,
        group=groups.assign(table.users).to_numpy(),
        trained=trained_U,
        offset=np.concatenate([[0], counts.cumsum()]),
        item=item_id_N[event],
        time=frame["timestamp"].to_numpy()[event],
        reward=frame["reward"].cast(pl.Float32).fill_null(float("nan")).to_numpy()[event],
        event=event,
        fingerprint=fingerprint_of(table.fingerprint, split, high, groups),
        catalogue=_catalogue(items, frame),
    )


def _known(user_N: np.ndarray, is_known_N: np.ndarray) -> np.ndarray:
    """The number of known events of the same user before each. Shape: sorted (N,), bool (N,) -> int32 (N,)."""
    before_N = is_known_N.cumsum(dtype=np.int32) - is_known_N
    first = np.flatnonzero(is_first(user_N))
    return before_N - np.repeat(before_N[first], np.diff(first, append=len(user_N)))


def is_first(key: np.ndarray) -> np.ndarray:
    """Whether each value differs from the one before it; the first does."""
    return np.append(True, key[1:] != key[:-1])[: len(key)]


def fingerprint_of(log: str, split: Split, high: High | None, groups: UserGroups) -> str:
    """`Sequences.fingerprint`, from the fingerprint of the log."""
    return digest(log, repr(split), repr(high), repr(groups))[:16]


def _catalogue(items: pl.Series, frame: pl.DataFrame) -> str:
    content = hashlib.sha256("\n".join(map(str, items.to_list())).encode())
    for column in ("user", "item", "timestamp", "split"):
        content.update(np.ascontiguousarray(frame[column].to_numpy()).data)
    return content.hexdigest()[:16]


def _check_parts(split_N: np.ndarray, trained_U: np.ndarray, split: Split) -> None:
    if empty := [name for name, part in PARTS.items() if part not in split_N]:
        raise InputError(
            f"{split} leaves no events for {', '.join(empty)} (of {len(split_N)})",
            where="data.split",
            remedy="choose other cuts, or a log with more events a user",
        )
    if trained_U.max() == 1:
        raise InputError(
            "no user has two events in the training part, so there is nothing to predict",
            where="data.split",
            remedy="choose another split or a log whose users come back",
        )
