"""Event tables made by hand."""

from __future__ import annotations

import polars as pl

from recalign.data.events import EventTable, Report
from recalign.data.events.rows import TIED


def table(users, items, times, rewards=None, has_time=True, together=False, **columns) -> EventTable:
    """An event table of dense users and items, in the order given."""
    rewards = rewards if rewards is not None else [float(i % 5 + 1) for i in items]
    frame = pl.DataFrame(
        {
            "user": pl.Series(users, dtype=pl.UInt32),
            "item": pl.Series(items, dtype=pl.UInt32),
            "timestamp": pl.Series(times, dtype=pl.Int64),
            "row": pl.Series(range(1, len(users) + 1), dtype=pl.UInt32),
            "reward": pl.Series(rewards, dtype=pl.Float64),
            **columns,
        }
    )
    frame = frame.with_columns((pl.struct("user", "timestamp").rle_id().diff() == 0).fill_null(False).alias(TIED))
    raw = pl.Series([100 + i for i in range(max(items) + 1)])
    people = pl.Series([f"u{i}" for i in range(max(users) + 1)])
    return EventTable(frame, people, raw, has_time, Report({}, [], len(frame), []), "made-by-hand", 1, together)
