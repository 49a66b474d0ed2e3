"""Windows: stretches of history to encode, and the targets to predict from each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recalign.data.sequences.store import SPLITS, Group, Sequences, SplitName, is_first
from recalign.errors import InputError


@dataclass(frozen=True)
class WindowBounds:
    """The bounds of W windows.

    Attributes:
        user, start, stop: int64 (W,); a window encodes the known events start..stop - 1 (flat indices).
        offset: int64 (W + 1,), where each window's targets begin among the targets of all windows.
    """

    user: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def length(self) -> np.ndarray:
        """The number of events that each window encodes. Shape: (W,)."""
        return self.stop - self.start


@dataclass(frozen=True)
class Windows(WindowBounds):
    """W stretches of history to encode, with their targets.

    Attributes:
        state: int64, flat index of the known event after which the target is predicted.
        target: int32, its item (0: unseen in training).
        event: int64, its row in `Sequences.frame`.
        reward: float32, NaN if absent.
        high: bool, whether the reward is high.
        time: int64, seconds.
        advantage: float32, for post-training only.
        rejected: integers (targets, N), for post-training on pairs only: items of less worth than the target, 0
            without a pair.
    """

    state: np.ndarray
    target: np.ndarray
    event: np.ndarray
    reward: np.ndarray
    high: np.ndarray
    time: np.ndarray
    advantage: np.ndarray | None = None
    rejected: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> Windows:
        """Select windows by index, with their targets. Shape: int64 (B,), indices of windows."""
        counts = self.offset[chosen + 1] - self.offset[chosen]
        return self._select(chosen, counts, ranges(self.offset[chosen], counts))

    def in_memory(self) -> Windows:
        """These windows, as `TrainingWindows.in_memory` returns them."""
        return self

    def keep(self, kept: np.ndarray) -> Windows:
        """Keep some of the targets, and the windows that still have any. Shape: bool (targets,)."""
        counts = np.diff(np.concatenate([[0], kept.cumsum()])[self.offset])
        return self._select(counts > 0, counts[counts > 0], kept)

    def _select(self, windows: np.ndarray, counts: np.ndarray, targets: np.ndarray) -> Windows:
        by_window = {name: getattr(self, name)[windows] for name in ("user", "start", "stop")}
        by_window["offset"] = np.concatenate([[0], counts.cumsum()])
        by_target = {name: x for name, x in vars(self).items() if name not in by_window and x is not None}
        return Windows(**by_window, **{name: x[targets] for name, x in by_target.items()})


@dataclass(frozen=True)
class TrainingWindows(WindowBounds):
    """Windows whose targets `take` reads from the log: as arrays, the targets would take 33 bytes an event.

    A window's targets are its user's last training events, each predicted from the events before its tie group.
    """

    log: Sequences

    def take(self, chosen: np.ndarray) -> Windows:
        """Read the targets of some windows. Shape: int64 (B,), indices of windows."""
        log = self.log
        counts = self.offset[chosen + 1] - self.offset[chosen]
        user = self.user[chosen]
        target = ranges(log.offset[user] + log.train_count[user] - counts, counts)
        event = log.event[target]
        return Windows(
            user=user,
            start=self.start[chosen],
            stop=self.stop[chosen],
            offset=np.concatenate([[0], counts.cumsum()]),
            state=log.tie_group_begin(target) - 1,
            target=log.item[target],
            event=event,
            reward=log.reward[target],
            high=log.frame["high"].gather(event).to_numpy(),
            time=log.time[target],
        )

    def in_memory(self) -> Windows:
        """All windows, with their targets as arrays."""
        return self.take(np.arange(len(self)))


AnyWindows = Windows | TrainingWindows


def training_windows(sequences: Sequences, users: np.ndarray, max_length: int) -> TrainingWindows:
    """Make one window per user, bool (U,): the newest training events except the last; each predicts the next one.

    With tie groups, it leaves out the last group, and the last event of each group predicts all of the next group.
    """
    user = np.flatnonzero(users & (sequences.train_count > 0))
    end = sequences.offset[user] + sequences.train_count[user]
    stop = sequences.tie_group_begin(end - 1)
    some = stop > sequences.offset[user]
    user, end, stop = user[some], end[some], stop[some]
    start = np.maximum(sequences.offset[user], stop - max_length)
    offset = np.concatenate([[0], (end - sequences.tie_group_end(start)).cumsum()])
    return TrainingWindows(user, start, stop, offset, sequences)


def shown_training_windows(sequences: Sequences, users: np.ndarray, max_length: int) -> Windows:
    """Like `training_windows`, but training rows shown and not chosen are targets too, beside the chosen ones.

    Windows include the user's newest training event, since a request may have come after it.
    """
    targets, user, state = _targets(sequences, "train", users, skipped=True)
    stop = sequences.offset[user] + sequences.train_count[user]
    inside = state >= stop - max_length
    targets, user, state, stop = targets.filter(pl.Series(inside)), user[inside], state[inside], stop[inside]
    offset = np.append(np.flatnonzero(is_first(user)), len(user))
    first = offset[:-1]
    start = np.maximum(sequences.offset[user[first]], stop[first] - max_length)
    return _windows(targets, state, offset, user[first], start, stop[first])


def evaluation_windows(
    sequences: Sequences,
    users: np.ndarray,
    split: SplitName,
    max_length: int,
    apart: bool = False,
    skipped: bool = False,
) -> Windows:
    """Make windows in which every target of a split sees at least max_length / 2 events of history, or all there are.

    Users without a known event before the split are left out. ``apart``: targets after the same known event get
    windows of their own, so that each has its own request time. ``skipped``: rows shown but not chosen are targets too,
    beside the chosen ones.
    """
    targets, user, state = _targets(sequences, split, users & has_past(sequences, SPLITS[split]), skipped)
    # The states of a window's targets span half of it, so that the other half is history for all of them.
    first_of_user = is_first(user)
    first_state = state[first_of_user][np.cumsum(first_of_user) - 1]
    block = (state - first_state) // max(max_length // 2, 1)
    same_state = apart & (np.diff(state, prepend=-1) == 0)
    if sequences.tie_group_starts is not None:  # a tie group has one request time
        same_state &= np.diff(targets["timestamp"].to_numpy(), prepend=-1) != 0
    first = np.flatnonzero(first_of_user | is_first(block) | same_state)  # the first target of each window
    offset = np.append(first, len(user))
    stop = state[offset[1:] - 1] + 1
    start = np.maximum(sequences.offset[user[first]], stop - max_length)
    return _windows(targets, state, offset, user[first], start, stop)


def _targets(
    sequences: Sequences, split: SplitName, users: np.ndarray, skipped: bool
) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Rows of a split that have a history, ordered by user and state; their users and states."""
    columns = ["user", "known_before", "item_id", "event", "reward", "high", "timestamp"]
    wanted = (pl.col("split") == SPLITS[split]) & (pl.col("known_before") > 0)
    rows = sequences.impressions if skipped else sequences.frame
    targets = rows.lazy().filter(wanted).select(columns).collect(engine="streaming")  # a few rows at a time
    targets = targets.filter(pl.Series(users).gather(targets["user"]))
    if skipped:
        targets = targets.sort("user", "known_before", "event")  # chosen ones first
    user = targets["user"].cast(pl.Int64).to_numpy()
    return targets, user, sequences.offset[user] + targets["known_before"].to_numpy() - 1


def _windows(
    targets: pl.DataFrame, state: np.ndarray, offset: np.ndarray, user: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> Windows:
    return Windows(
        user=user,
        start=start,
        stop=stop,
        offset=offset,
        state=state,
        target=targets["item_id"].to_numpy(),
        event=targets["event"].cast(pl.Int64).to_numpy(),
        reward=targets["reward"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        high=targets["high"].to_numpy(),
        time=targets["timestamp"].to_numpy(),
    )


def require_any(windows: AnyWindows, split: SplitName, users: Group) -> AnyWindows:
    """The windows of a split and of a group of users, if there are any.

    Raises:
        InputError: there are none.
    """
    if not len(windows):
        text = f"no event of users {users} in the {split} split has a history to predict it from"
        remedy = "choose other cuts, a group of more users (data.share_a), or a log whose users come back"
        raise InputError(text, where="data.split, data.users", remedy=remedy)
    return windows


def has_past(sequences: Sequences, split: int) -> np.ndarray:
    """Which users have a known event before a split, a number of `SPLITS`. Shape: bool (U,)."""
    past = np.diff(sequences.offset) > 0
    first = sequences.event[sequences.offset[:-1][past]]
    past[past] = sequences.frame["split"].gather(first).to_numpy() < split
    return past


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges first[i]..first[i] + counts[i] - 1."""
    ends = counts.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - counts), counts)
