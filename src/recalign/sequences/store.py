"""Histories as flat arrays: what a checked event table becomes before it meets a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.events import EventTable
from recalign.sequences.splits import TEST, TRAIN, VALIDATION, High, Split, UserGroups

Group = Literal["all", "A", "B1", "B2"]
Part = Literal["train", "validation", "test"]
PARTS: dict[Part, int] = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Sequences:
    """A log, divided, with its catalogue.

    The catalogue is made of the items that stand in training rows: item v of 1..V, and 0 for everything else. An event
    whose item is 0 is in no history; as a target it is a miss.

    Attributes:
        frame: the events in order, with ``item_id`` (int64, 0..V), ``split``, ``high``, ``known`` (number of the user's
            events with a known item before this one) besides the event table's columns; a feedback column of such a
            name can be read by `High` and by the split, but is not kept.
        users: raw user ids by user index.
        items: raw item ids by item - 1.
        group: ``A``, ``B1`` or ``B2`` by user index.
        offset: int64 (U + 1), where each user's known events lie in the arrays that follow.
        item, time, reward, event: the known events of all users in a row: items 1..V, seconds, float32 rewards (NaN
            where there is none), rows of ``frame``.
        fingerprint: digest of the log and of everything that divides it.
        catalogue: digest of the raw ids in catalogue order and of every event's part: what a network was trained on,
            whatever the reward.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    group: np.ndarray
    offset: np.ndarray
    item: np.ndarray
    time: np.ndarray
    reward: np.ndarray
    event: np.ndarray
    fingerprint: str
    catalogue: str

    @property
    def num_items(self) -> int:
        """V, the items that a policy can choose from."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        return len(self.users)

    def users_in(self, group: Group) -> np.ndarray:
        """Bool by user index: who belongs to a group."""
        return np.full(self.num_users, True) if group == "all" else self.group == group


def build(table: EventTable, split: Split, high: High | None, groups: UserGroups) -> Sequences:
    """Divide a checked event table and index its catalogue.

    Raises:
        InputError: a part has no events, or the training part has no two events of one user.
    """
    frame = table.frame.with_columns(split.assign(table).alias("split"))
    # a split by time leaves each user's order as it is; any other would put what is set aside into training histories
    frame = frame.sort(pl.col("user").cast(pl.Int64) * len(PARTS) + pl.col("split"), maintain_order=True)
    marks = high.mark(frame) if high else pl.Series("high", [False]).new_from_index(0, len(frame))
    frame = frame.drop({"event", "item_id", "known"} & set(frame.columns)).with_columns(marks.alias("high"))
    _check_parts(frame, split)
    vocabulary = frame.filter(pl.col("split") == TRAIN)["item"].unique().sort()
    ids = pl.DataFrame({"item": vocabulary, "item_id": np.arange(1, len(vocabulary) + 1)})
    frame = frame.join(ids, on="item", how="left", maintain_order="left").with_columns(pl.col("item_id").fill_null(0))
    is_known = (pl.col("item_id") > 0).cast(pl.Int64)
    frame = frame.with_columns((is_known.cum_sum().over("user") - is_known).alias("known")).with_row_index("event")
    known = frame.filter(pl.col("item_id") > 0)
    counts = np.bincount(known["user"].to_numpy(), minlength=len(table.users))
    items = table.items.gather(vocabulary)
    return Sequences(
        frame=frame,
        users=table.users,
        items=items,
        group=groups.assign(table.users).to_numpy(),
        offset=np.concatenate([[0], counts.cumsum()]),
        item=known["item_id"].to_numpy(),
        time=known["timestamp"].to_numpy(),
        reward=known["reward"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        event=known["event"].cast(pl.Int64).to_numpy(),
        fingerprint=division(table.fingerprint, split, high, groups),
        catalogue=_catalogue(items, frame),
    )


def division(log: str, split: Split, high: High | None, groups: UserGroups) -> str:
    """`Sequences.fingerprint`, from that of the log."""
    return hashlib.sha256(f"{log}|{split!r}|{high!r}|{groups!r}".encode()).hexdigest()[:16]


def _catalogue(items: pl.Series, frame: pl.DataFrame) -> str:
    digest = hashlib.sha256("\n".join(map(str, items.to_list())).encode())
    for column in ("user", "item", "timestamp", "split"):
        digest.update(frame[column].to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_parts(frame: pl.DataFrame, split: Split) -> None:
    sizes = dict(frame.group_by("split").len().iter_rows())
    empty = [name for name, part in PARTS.items() if not sizes.get(part)]
    if empty:
        raise InputError(
            f"{split} leaves no events for {', '.join(empty)} (of {len(frame)})",
            where="data.split",
            remedy="choose other cuts, or a log with more events a user",
        )
    train = frame.filter(pl.col("split") == TRAIN)
    if train.group_by("user").len()["len"].max() == 1:
        raise InputError(
            "no user has two events in the training part, so there is nothing to predict",
            where="data.split",
            remedy="choose another split or a log whose users come back",
        )
