"""The figures of ``recalign check`` on a split: sizes, unseen items, users left out, leaks."""

from __future__ import annotations

import numpy as np
import polars as pl

from recalign.events.audit import Section
from recalign.sequences.data import EventDataModule
from recalign.sequences.store import PARTS, Part, Sequences
from recalign.sequences.windows import evaluation_windows, training_windows, with_test

SEEN = "share of targets that the user had seen before (they are ranked all the same)"
HIGH = "share of events with a high reward"
MISSES = "share of targets on them (misses)"
LEAKS = "leaks (all must be 0)"


def audit_log(data: EventDataModule) -> dict[str, Section]:
    """Compute all figures of ``recalign check``, by section: the log, its split, its leaks."""
    figures = data.figures()  # first, while the log is in memory
    sequences, max_length, stride = data.sequences, data.max_length, data.stride
    return {
        **figures,
        **{part: part_figures(sequences, part) for part in PARTS},
        "split": split_figures(sequences, max_length, stride),
        LEAKS: leaks(sequences, max_length, stride),
    }


def part_figures(sequences: Sequences, part: Part) -> Section:
    """Size and span of a part, and its targets that are unseen in training or seen by the user before."""
    chosen = sequences.frame.filter(pl.col("split") == PARTS[part])
    first, last = (str(pl.from_epoch(chosen["timestamp"]).dt.date().sort()[end]) for end in (0, -1))
    rows: Section = {"events": len(chosen), "users": chosen["user"].n_unique(), "first day": first, "last day": last}
    if part != "train":
        unseen = chosen.filter(pl.col("item_id") == 0)
        rows["items unseen in training"] = unseen["item"].n_unique()
        rows[MISSES] = len(unseen) / len(chosen)
        pair = pl.col("user").cast(pl.Int64) * (sequences.num_items + 1) + pl.col("item_id")
        again = pair.is_first_distinct().not_() & (pl.col("split") == PARTS[part])
        rows[SEEN] = sequences.frame.filter(pl.col("item_id") > 0).select(again.sum()).item() / len(chosen)
    return rows


def split_figures(sequences: Sequences, max_length: int, stride: int | None = None) -> Section:
    """What the split leaves to train and test on."""
    groups, counts = np.unique(sequences.group, return_counts=True)
    targets = int(training_windows(sequences, sequences.users_in("all"), max_length, stride).offset[-1])
    tested = sequences.frame["user"].filter(sequences.frame["split"] == PARTS["test"]).n_unique()
    return {
        "items in training (the catalogue)": sequences.num_items,
        HIGH: float(sequences.frame["high"].mean()),  # type: ignore[arg-type]
        "users left out of the test: no history before it": tested - int(with_test(sequences).sum()),
        "events of the longest history": int(np.diff(sequences.offset).max()),
        "newest events of a history that a model sees": max_length,
        f"training targets ({'the newest' if stride is None else 'all but the first'} events of each user)": targets,
        **{f"users in group {group}": int(count) for group, count in zip(groups, counts, strict=True)},
    }


def leaks(sequences: Sequences, max_length: int, stride: int | None = None) -> Section:
    """Count four ways in which the future could reach a model; all must be 0."""
    everybody = sequences.users_in("all")
    train = training_windows(sequences, everybody, max_length, stride).in_memory()
    test = evaluation_windows(sequences, everybody, "test", max_length)
    last = sequences.frame.filter(pl.col("split") == PARTS["train"]).group_by("user").agg(pl.col("event").max())
    first = sequences.frame.filter(pl.col("split") == PARTS["test"]).group_by("user").agg(pl.col("event").min())
    early = last.join(first, on="user", suffix="_test").filter(pl.col("event") > pl.col("event_test"))
    return {
        "future events in a history": sum(int((sequences.time[w.state] > w.time).sum()) for w in (train, test)),
        "targets in their own history": sum(int((sequences.event[w.state] >= w.event).sum()) for w in (train, test)),
        "users whose test begins before their training ends": early.height,
        "test events seen in training": int(np.isin(test.event, train.event).sum()),
    }
