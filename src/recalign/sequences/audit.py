"""What a split does to a log: sizes, cold items, users left out, and leaks that must not be there."""

from __future__ import annotations

import numpy as np
import polars as pl

from recalign.events import EventTable, audit
from recalign.sequences.store import PARTS, Sequences
from recalign.sequences.windows import evaluation_windows, left_out, training_windows


def audit_log(table: EventTable, sequences: Sequences, max_length: int) -> dict[str, dict[str, int | float | str]]:
    """All that `recalign check` says, by section: the log, its division, its leaks."""
    own = {"split": split_figures(sequences, max_length), "leaks (all must be 0)": leaks(sequences, max_length)}
    return {**audit(table), **own}


def split_figures(sequences: Sequences, max_length: int) -> dict[str, str]:
    """Sizes of the parts and what is lost on the way, by name, ready to be printed."""
    frame, everybody = sequences.frame, np.full(sequences.num_users, True)
    rows = {}
    for part, code in PARTS.items():
        chosen = frame.filter(pl.col("split") == code)
        span = f"{_day(chosen['timestamp'].min())} .. {_day(chosen['timestamp'].max())}"
        rows[part] = f"{len(chosen):,} events of {chosen['user'].n_unique():,} users, {span}"
    rows["catalogue"] = f"{sequences.num_items:,} items in training"
    for part in ("validation", "test"):
        chosen = frame.filter(pl.col("split") == PARTS[part])
        cold = chosen.filter(pl.col("item_id") == 0)
        share = len(cold) / len(chosen)
        rows[f"cold items, {part}"] = (
            f"{cold['item'].n_unique():,} items unseen in training, {share:.2%} of the targets: counted as misses"
        )
    rows["high rewards"] = f"{frame['high'].mean():.1%} of the events"
    rows["users left out"] = f"{left_out(sequences, everybody):,} with test events but no history before the test"
    longest = np.diff(sequences.offset).max()
    if longest > max_length:
        rows["long histories"] = f"up to {longest:,} events; a model sees the newest {max_length}"
    groups, counts = np.unique(sequences.group, return_counts=True)
    rows["user groups"] = ", ".join(f"{g} {n:,}" for g, n in zip(groups, counts, strict=True))
    return rows


def leaks(sequences: Sequences, max_length: int) -> dict[str, str]:
    """Three ways in which the future could reach a model, each counted; all must be 0."""
    everybody = np.full(sequences.num_users, True)
    train = training_windows(sequences, everybody, max_length)
    test = evaluation_windows(sequences, everybody, "test", max_length)
    future = target_in_history = 0
    for windows in (train, test):
        future += int((sequences.time[windows.state] > windows.time).sum())
        target_in_history += int((sequences.event[windows.state] >= windows.event).sum())
    last = sequences.frame.filter(pl.col("split") == PARTS["train"]).group_by("user").agg(pl.col("event").max())
    first = sequences.frame.filter(pl.col("split") == PARTS["test"]).group_by("user").agg(pl.col("event").min())
    both = last.join(first, on="user", suffix="_test")
    return {
        "future events in a history": f"{future:,}",
        "targets in their own history": f"{target_in_history:,}",
        "test events before the end of training": f"{both.filter(pl.col('event') > pl.col('event_test')).height:,}",
        "test events seen in training": f"{np.isin(test.event, train.event).sum():,}",
    }


def _day(seconds: object) -> str:
    return str(pl.from_epoch(pl.Series([seconds]), time_unit="s").dt.date()[0])
