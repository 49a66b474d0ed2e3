"""A log split and indexed: histories as flat arrays, and the catalogue of items."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import polars as pl

from recalign.data.events import EventTable, Report
from recalign.data.events.rows import TIED, Note
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION, High, Split, UserGroups
from recalign.errors import InputError
from recalign.files import digest

Group = Literal["all", "A", "B1", "B2"]
SplitName = Literal["train", "validation", "test"]
SPLITS: dict[SplitName, int] = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
ADDED = ("event", "split", "item_id", "known_before", "high")
"""Columns added to `Sequences.frame`. A reward must not read them: it would depend on its own split or rank."""
TIE_GROUP = "recalign_tie_group"
"""A column of `Sequences.frame` if tied events form groups (``data.ties``): the row of the group's first event."""


@dataclass(frozen=True)
class Sequences:
    """A log, split and indexed.

    The catalogue holds the V items that have enough training events (`build_sequences`), numbered 1..V. Every other
    item is 0: its events are in no history, and as targets they are misses. Events with an item of the catalogue are
    called known. If items have features, the catalogue ends with the cold items: they have features, but too few
    training events.

    Attributes:
        frame: the events in order: the event table's columns, ``item_id`` (int32, 0..V), ``split``, ``high`` and
            ``known_before`` (int32, number of the user's known events before this one; with tie groups, before its
            group, and there is `TIE_GROUP` too, u32). The split can read a log's own column of such a name, and so can
            `High`, except ``split``; then the added column replaces it.
        users: raw user ids by user index.
        items: raw item ids by item - 1.
        group: ``A``, ``B1`` or ``B2`` by user index.
        train_count: int64 (U,), training events of each user; they are the first of its known events.
        offset: int64 (U + 1,), where each user's known events begin in the next four arrays.
        item, time, reward, event: known events of all users, one user after the other: int32 items 1..V, int64
            seconds, float32 rewards (NaN if absent), int64 rows of ``frame``.
        fingerprint: digest of the log and of the settings that split it.
        catalogue: digest of the catalogue's items in order, and of every event's user, item, time and split, but not of
            its reward.
        report: counts of the rows read, used and left out.
        num_warm: how many items of the catalogue are not cold: the items 1..num_warm.
        features: item features (`recalign.data.sequences.features.ItemFeatures`); None if the log has none.
        skipped: rows that were shown and not chosen (`recalign.data.sequences.shown`), with the columns of ``frame``.
            Their ``event`` continues the numbers of its rows; ``known_before`` is the number of the user's known events
            before the row's request. None: every row of the log is a choice.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    group: np.ndarray
    train_count: np.ndarray
    offset: np.ndarray
    item: np.ndarray
    time: np.ndarray
    reward: np.ndarray
    event: np.ndarray
    fingerprint: str
    catalogue: str
    report: Report
    num_warm: int
    features: Any = None
    skipped: pl.DataFrame | None = None

    @functools.cached_property
    def impressions(self) -> pl.DataFrame:
        """The chosen rows (`frame`), followed by the rows not chosen (`skipped`)."""
        return self.frame if self.skipped is None else pl.concat([self.frame, self.skipped])

    @property
    def num_items(self) -> int:
        """V, the number of items that a policy can choose from."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """U, the number of users."""
        return len(self.users)

    @functools.cached_property
    def tie_group_starts(self) -> np.ndarray | None:
        """Flat index of the first known event of each tie group, ascending; None if tied events form no groups."""
        if TIE_GROUP not in self.frame:
            return None
        return np.flatnonzero(is_first(self.frame[TIE_GROUP].gather(self.event).to_numpy()))

    def tie_group_begin(self, at: np.ndarray) -> np.ndarray:
        """Index of the first event of each event's tie group; its history ends just before. Flat indices in and out."""
        starts = self.tie_group_starts
        return at if starts is None else starts[np.searchsorted(starts, at, side="right") - 1]

    def tie_group_end(self, at: np.ndarray) -> np.ndarray:
        """One past the index of the last event of each event's tie group. Flat indices in and out."""
        starts = self.tie_group_starts
        return (
            at + 1 if starts is None else np.append(starts, len(self.item))[np.searchsorted(starts, at, side="right")]
        )

    @functools.cached_property
    def rewards_digest(self) -> str:
        """Digest of the known events' rewards: equal values, however expressed, have equal digests."""
        return hashlib.sha256(np.ascontiguousarray(self.reward).data).hexdigest()

    def users_in(self, group: Group) -> np.ndarray:
        """Which users belong to a group. Shape: bool (U,)."""
        return np.full(self.num_users, True) if group == "all" else self.group == group

    def item_counts(self, users: Group = "all", high_only: bool = False) -> np.ndarray:
        """Count each item's training events by a group, all or those with a high reward. Shape: -> int64 (V,)."""
        counted = pl.col("split") == TRAIN
        if users != "all":
            counted &= pl.Series(self.users_in(users)).gather(self.frame["user"])
        if high_only:
            counted &= pl.col("high") & pl.col("reward").is_not_null()
        # streaming: a few rows at a time
        found = self.frame.lazy().filter(counted).group_by("item_id").len().collect(engine="streaming")
        count_V = np.zeros(self.num_items + 1, np.int64)
        count_V[found["item_id"].to_numpy()] = found["len"].to_numpy()
        return count_V[1:]


@dataclass(frozen=True)
class UserCohort:
    """The users that a stage trained and validated on, as checkpoints and manifests store them.

    Attributes:
        group, share_a: all, A, B1 or B2, and the share of users in A.
        count, digest: how many users, and a digest of their raw ids.
    """

    group: Group
    share_a: float
    count: int
    digest: str

    @classmethod
    def of(cls, sequences: Sequences, group: Group, share_a: float) -> UserCohort:
        """The users of a group of a log."""
        raw = sequences.users.filter(sequences.users_in(group)).to_list()
        return cls(group, share_a, len(raw), hashlib.sha256("\n".join(map(str, raw)).encode()).hexdigest())

    def mask(self, sequences: Sequences, where: str) -> np.ndarray:
        """Mask of these users in a log. Shape: bool (U,). `where` names the checkpoint, for errors.

        Raises:
            InputError: the log's group has other users.
        """
        drawn = replace(sequences, group=UserGroups(self.share_a).assign(sequences.users).to_numpy())
        if UserCohort.of(drawn, self.group, self.share_a) != self:
            text = f"it was trained on {self.count:,} users, which are not the same as group {self.group} of this log"
            raise InputError(text, where=where, remedy="train it again on this log")
        return drawn.users_in(self.group)


Numbering = Callable[[pl.Series, np.ndarray], tuple[pl.Series, np.ndarray, int]]
"""Takes the sorted raw ids of a log's items, and whether each has enough training events, bool (I,). Returns the raw
ids of the catalogue (V,), each item's number in it, int32 (I,), 0 if absent, and `Sequences.num_warm`."""


def number_items(items: pl.Series, warm_I: np.ndarray) -> tuple[pl.Series, np.ndarray, int]:
    """The `Numbering` of a plain log: items with enough training events, in the order of their ids."""
    catalogue = items.filter(pl.Series(warm_I))
    return catalogue, warm_I * warm_I.cumsum(dtype=np.int32), len(catalogue)


def build_sequences(
    table: EventTable,
    split: Split,
    high: High | None,
    groups: UserGroups,
    min_events: int = 1,
    relative_to: RelativeTo | None = None,
    numbering: Numbering = number_items,
) -> Sequences:
    """Split a checked event table and index its catalogue: the items with at least `min_events` training events.

    Training events of other items are dropped. With ``relative_to``, rewards are ranked among those that remain.

    Raises:
        InputError: a split has no events, or the training split has no two events of one user.
    """
    frame = assign_splits(table, split)
    count_I = np.bincount(frame["item"].filter(frame["split"] == TRAIN).to_numpy(), minlength=len(table.items))
    items, number_I, warm = numbering(table.items, count_I >= min_events)
    frame, arrays = index_events(frame, number_I, warm, len(table.users), high, relative_to)
    check_splits(split_sizes(frame), int(arrays["train_count"].max(initial=0)), split, min_events)
    return Sequences(
        frame=frame,
        users=table.users,
        items=items,
        group=groups.assign(table.users).to_numpy(),
        **cast(dict[str, Any], arrays),
        fingerprint=fingerprint_of(table.fingerprint, split, high, groups, min_events, relative_to),
        catalogue=catalogue_digest(items, frame),
        report=with_rare_items(table.report, len(frame), min_events),
        num_warm=warm,
    )


def assign_splits(table: EventTable, split: Split) -> pl.DataFrame:
    """The events ordered by (user, split), with the number of their ``split`` and, with tie groups, `TIE_GROUP`."""
    frame = table.frame.with_columns(split_of(table, split).alias("split"))
    if table.together:
        frame = frame.with_columns((~pl.col(TIED)).cum_sum().alias(TIE_GROUP))
    # Order the splits of each user. TimeSplit has them so; under other rules test events could come into histories.
    key = pl.col("user").cast(pl.Int64) * len(SPLITS) + pl.col("split")
    if not frame.select(key).to_series().is_sorted():
        frame = frame.sort(key, maintain_order=True)
    return frame


def split_of(table: EventTable, split: Split) -> pl.Series:
    """The split of each event; a tie group that a cut would divide goes to the later split as a whole."""
    return table.tie_group_max(split.assign(table))


def split_sizes(frame: pl.DataFrame) -> np.ndarray:
    """Events of each split, in the order of `SPLITS`. Shape: int64 (3,)."""
    return np.bincount(frame["split"].to_numpy(), minlength=len(SPLITS))


def index_events(
    frame: pl.DataFrame,
    number_I: np.ndarray,
    warm: int,
    users: int,
    high: High | None,
    relative_to: RelativeTo | None = None,
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """`Sequences.frame`, and the arrays of `Sequences` by name, from the events that `assign_splits` returns.

    ``number_I`` and ``warm`` come from the `Numbering`: training events of items that are not warm are dropped.
    """
    item_id = pl.Series(number_I[frame["item"].to_numpy()])
    if (dropped := ~item_id.is_between(1, warm) & (frame["split"] == TRAIN)).any():
        frame, item_id = frame.filter(~dropped), item_id.filter(~dropped)
    if relative_to is not None:
        frame = frame.with_columns(relative_to.ranks(frame))
    is_high = high.mark(frame) if high else pl.repeat(False, len(frame), eager=True)
    user_N, item_id_N = frame["user"].to_numpy(), item_id.to_numpy()
    before_N = (item_id_N > 0).cumsum(dtype=np.int32) - (item_id_N > 0)  # known events before, of all users
    first_U = np.flatnonzero(is_first(user_N))
    known_before = before_N - np.repeat(before_N[first_U], np.diff(first_U, append=len(user_N)))  # of the same user
    if TIE_GROUP in frame:
        starts = is_first(frame[TIE_GROUP].to_numpy())
        first_of_group_N = np.flatnonzero(starts)[starts.cumsum() - 1]  # rows among the remaining events
        known_before = known_before[first_of_group_N]
        frame = frame.with_columns(pl.Series(TIE_GROUP, first_of_group_N, pl.UInt32))
    frame = frame.drop({"event", "item_id", "known_before"} & set(frame.columns))
    frame = frame.with_columns(is_high.alias("high"), item_id.alias("item_id"), pl.Series("known_before", known_before))
    frame = frame.with_row_index("event")
    event = np.flatnonzero(item_id_N)
    counts = np.bincount(user_N[event], minlength=users)
    return frame, {
        "train_count": np.bincount(user_N[frame["split"].to_numpy() == TRAIN], minlength=users),
        "offset": np.concatenate([[0], counts.cumsum()]),
        "item": item_id_N[event],
        "time": frame["timestamp"].to_numpy()[event],
        "reward": frame["reward"].cast(pl.Float32).fill_null(float("nan")).to_numpy()[event],
        "event": event,
    }


def with_rare_items(report: Report, used: int, min_events: int) -> Report:
    """Add a note to a log's report: how many events ``min_events`` removed."""
    reason = f"are training events of items that have fewer than {min_events}, and are left out"
    notes = [*report.notes, Note(reason, report.used - used, [])] if used < report.used else report.notes
    return replace(report, used=used, notes=notes)


def is_first(key: np.ndarray) -> np.ndarray:
    """Whether each value differs from the one before it; True for the first."""
    return np.append(True, key[1:] != key[:-1])[: len(key)]


def fingerprint_of(log: str, *settings: Split | High | UserGroups | RelativeTo | int | None) -> str:
    """`Sequences.fingerprint`, from the fingerprint of the log and the settings of `build_sequences`."""
    return digest(log, *map(repr, settings))[:16]


def catalogue_digest(items: pl.Series, frame: pl.DataFrame) -> str:
    """Digest of the catalogue and of the events' users, items, times and splits (`Sequences.catalogue`)."""
    content = hashlib.sha256("\n".join(map(str, items.to_list())).encode())
    for column in ("user", "item", "timestamp", "split"):
        content.update(np.ascontiguousarray(frame[column].to_numpy()).data)
    return content.hexdigest()[:16]


def check_splits(sizes: np.ndarray, most_events: int, split: Split, min_events: int) -> None:
    """Refuse a `Split` without anything to train or measure on; ``most_events``: most training events of a user."""
    rare = f" and data.min_events {min_events}" if min_events > 1 else ""
    if empty := [name for name, number in SPLITS.items() if not sizes[number]]:
        text = f"{split}{rare} leaves none of {sizes.sum()} events for {', '.join(empty)}"
        raise InputError(text, where="data.split", remedy="choose another split, or a log with more events per user")
    if most_events <= 1:
        text = f"no user has two events in the training split{rare}, so there is nothing to predict"
        raise InputError(text, where="data.split", remedy="choose another split or a log whose users come back")
