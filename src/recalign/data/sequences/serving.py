"""Windows to recommend from: the newest events of the whole log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recalign.data.sequences.store import Sequences
from recalign.data.sequences.windows import Windows


def serving_windows(sequences: Sequences, users: np.ndarray, max_length: int) -> Windows:
    """Make one window per user over the newest events of the whole log, with a placeholder target (item 0).

    The known events of each user must be in time order (`by_time`).
    """
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


def by_time(sequences: Sequences) -> Sequences:
    """The log with each user's known events in time order; ordered by split they may not be (`Where`)."""
    user_N = np.repeat(np.arange(sequences.num_users), np.diff(sequences.offset))
    if ((np.diff(sequences.time) >= 0) | (np.diff(user_N) > 0)).all():
        return sequences
    order = np.lexsort((sequences.frame["row"].to_numpy()[sequences.event], sequences.time, user_N))
    return replace(sequences, **{name: getattr(sequences, name)[order] for name in ("item", "time", "reward", "event")})
