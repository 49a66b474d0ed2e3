"""Windows: stretches of history to encode, and the targets to predict from each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recalign.data.sequences.store import PARTS, Part, Sequences, is_first


@dataclass(frozen=True)
class _Stretches:
    """Which events each window encodes, and where its targets lie; see `Windows`."""

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
class Windows(_Stretches):
    """W stretches of history with their targets.

    Attributes:
        user, start, stop: int64 (W,); a window encodes the known events start..stop - 1 (flat indices).
        offset: int64 (W + 1,), where each window's targets begin in the next arrays.
        state: int64, flat index of the known event after which the target is predicted.
        target: int32, its item (0: unseen in training).
        event: int64, its row in `Sequences.frame`.
        reward: float32, NaN where there is none.
        high: bool, whether the reward is high.
        time: int64, seconds.
        advantage: float32, for post-training only.
        rejected: integers (targets, N), for post-training on pairs only: items of less worth than the target, 0 where
            there is no pair.
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
        """Some of the windows, with their targets. Shape: int64 (B,), indices of windows."""
        counts = self.offset[chosen + 1] - self.offset[chosen]
        return self._some(chosen, counts, ranges(self.offset[chosen], counts))

    def keep(self, kept: np.ndarray) -> Windows:
        """Keep some of the targets, and the windows that still have any. Shape: bool (targets,)."""
        before = np.concatenate([[0], kept.cumsum()])
        counts = np.diff(before[self.offset])
        return self._some(counts > 0, counts[counts > 0], kept)

    def in_memory(self) -> Windows:
        """Itself: its targets are arrays."""
        return self

    def _some(self, windows: np.ndarray, counts: np.ndarray, targets: np.ndarray) -> Windows:
        by_window = {name: getattr(self, name)[windows] for name in ("user", "start", "stop")}
        by_window["offset"] = np.concatenate([[0], counts.cumsum()])
        by_target = {name: x for name, x in vars(self).items() if name not in by_window and x is not None}
        return Windows(**by_window, **{name: x[targets] for name, x in by_target.items()})


@dataclass(frozen=True)
class NextEvents(_Stretches):
    """Training windows whose targets stay in the log's arrays until a batch needs them.

    The newest states of each window predict the user's next known event, so the log says all about them. As arrays they
    would take 33 bytes an event.

    Attributes:
        sequences: the log.
        user, start, stop, offset: as in `Windows`.
    """

    sequences: Sequences

    def take(self, chosen: np.ndarray) -> Windows:
        """Some of the windows, with their targets. Shape: int64 (B,), indices of windows."""
        counts = self.offset[chosen + 1] - self.offset[chosen]
        state = ranges(self.stop[chosen] - counts, counts)
        event = self.sequences.event[state + 1]
        return Windows(
            user=self.user[chosen],
            start=self.start[chosen],
            stop=self.stop[chosen],
            offset=np.concatenate([[0], counts.cumsum()]),
            state=state,
            target=self.sequences.item[state + 1],
            event=event,
            reward=self.sequences.reward[state + 1],
            high=self.sequences.frame["high"].gather(event).to_numpy(),
            time=self.sequences.time[state + 1],
        )

    def in_memory(self) -> Windows:
        """All of them, with their targets."""
        return self.take(np.arange(len(self)))


def training_windows(sequences: Sequences, users: np.ndarray, max_length: int, stride: int | None = None) -> NextEvents:
    """Make the windows of the training part: the newest of each user or, with a stride, the whole history.

    A state is a training event that another one follows; a user has m of them, and each predicts its next event.
    Without a stride, one window per user holds the L newest states. With one, K = 1 + ceil(max(0, m - L) / stride)
    windows hold them all: counted from the end, state j belongs to block min(floor((m - 1 - j) / stride), K - 1). A
    block's window is the L events up to its last state, and only the states of that block predict. So every training
    event but a user's first is a target exactly once.

    Args:
        sequences: the log.
        users: bool by user index.
        max_length: L, events that a model can encode.
        stride: states per block, 1 to L; null: only the newest window of each user.
    """
    states_U = np.maximum(sequences.trained - 1, 0)
    chosen = np.flatnonzero(users & (states_U > 0))
    older = np.maximum(states_U[chosen] - max_length, 0)
    blocks = np.ones_like(older) if stride is None else 1 - (-older // stride)
    user = np.repeat(chosen, blocks)
    from_end = np.repeat(blocks.cumsum(), blocks) - 1 - np.arange(len(user))  # K - 1 down to 0 for each user
    last = states_U[user] - from_end * (stride or 0)
    skipped = 0 if stride else np.repeat(older, blocks)
    counts = last - np.where(is_first(user), skipped, last - (stride or 0))
    stop = sequences.offset[user] + last
    return NextEvents(
        sequences=sequences,
        user=user,
        start=np.maximum(sequences.offset[user], stop - max_length),
        stop=stop,
        offset=np.concatenate([[0], counts.cumsum()]),
    )


def evaluation_windows(
    sequences: Sequences, users: np.ndarray, part: Part, max_length: int, apart: bool = False
) -> Windows:
    """Make windows in which every target of a part sees at least L / 2 events of history, if there are as many.

    Users without a known event before the part are left out. ``apart``: targets that come after the same event, as
    items unseen in training are not in histories, are in windows of their own: each can be asked at its own time.
    """
    columns = ["user", "known", "item_id", "event", "reward", "high", "timestamp"]
    wanted = (pl.col("split") == PARTS[part]) & (pl.col("known") > 0)
    of_part = sequences.frame.lazy().filter(wanted).select(columns).collect(engine="streaming")  # a few rows at a time
    targets = of_part.filter(pl.Series(users & _has_past(sequences, PARTS[part])).gather(of_part["user"]))
    user = targets["user"].cast(pl.Int64).to_numpy()
    base = sequences.offset[user]
    state = base + targets["known"].to_numpy() - 1
    # The states of a window's targets span half of it, so that the other half is history for all of them.
    first = is_first(user)
    anchor = state[first][np.cumsum(first) - 1]
    block = (state - anchor) // max(max_length // 2, 1)
    alone = apart & (np.diff(state, prepend=-1) == 0)
    starts = np.flatnonzero(first | is_first(block) | alone)
    offset = np.append(starts, len(user))
    stop = state[offset[1:] - 1] + 1
    return Windows(
        user=user[starts],
        start=np.maximum(base[starts], stop - max_length),
        stop=stop,
        offset=offset,
        state=state,
        target=targets["item_id"].to_numpy(),
        event=targets["event"].cast(pl.Int64).to_numpy(),
        reward=targets["reward"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        high=targets["high"].to_numpy(),
        time=targets["timestamp"].to_numpy(),
    )


def serving_windows(sequences: Sequences, users: np.ndarray, max_length: int) -> Windows:
    """Make one window per user over the newest events of the whole log, with one target yet to come (item 0)."""
    user = np.flatnonzero(users & (np.diff(sequences.offset) > 0))
    stop = sequences.offset[user + 1]
    nothing = np.zeros(len(user), np.int64)
    return Windows(
        user=user,
        start=np.maximum(sequences.offset[user], stop - max_length),
        stop=stop,
        offset=np.arange(len(user) + 1),
        state=stop - 1,
        target=nothing,
        event=nothing,
        reward=np.full(len(user), np.nan, np.float32),
        high=nothing.astype(bool),
        time=sequences.time[stop - 1],
    )


def with_events(sequences: Sequences, part: Part = "test") -> np.ndarray:
    """Who has events of a part that `evaluation_windows` does not leave out. Shape: bool (U,)."""
    number = PARTS[part]
    has = np.zeros(sequences.num_users, bool)
    has[sequences.frame["user"].filter(sequences.frame["split"] == number).unique().to_numpy()] = True
    return has & _has_past(sequences, number)


def sample_users(sequences: Sequences, users: np.ndarray, number: int, part: Part = "test") -> np.ndarray:
    """Draw users among those with events of a part; all of these if they are no more. Shape: bool (U,) -> bool (U,).

    The log's catalogue seeds the draw, so every run takes the same users. A smaller sample is part of a larger one.
    """
    order = np.random.default_rng(int(sequences.catalogue, 16)).permutation(sequences.num_users)
    drawn = np.zeros(sequences.num_users, bool)
    drawn[order[(users & with_events(sequences, part))[order]][:number]] = True
    return drawn


def _has_past(sequences: Sequences, part: int) -> np.ndarray:
    """Who has a known event before a part: their first one is in an earlier part. Shape: bool (U,)."""
    past = np.diff(sequences.offset) > 0
    first = sequences.event[sequences.offset[:-1][past]]
    past[past] = sequences.frame["split"].gather(first).to_numpy() < part
    return past


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges first[i]..first[i] + counts[i] - 1."""
    ends = counts.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - counts), counts)
