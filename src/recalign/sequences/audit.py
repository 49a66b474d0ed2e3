"""What a split does to a log: sizes, cold items, users left out, and leaks that must not be there."""

from __future__ import annotations

import numpy as np
import polars as pl

from recalign.sequences.data import EventDataModule
from recalign.sequences.store import PARTS, Part, Sequences
from recalign.sequences.windows import evaluation_windows, left_out, training_windows

Rows = dict[str, int | float | str]
MET = "share of targets that their user had met (ranked all the same)"
HIGH = "share of events with a high reward"
OFTEN = 0.2  # a share of such targets that is worth a word


def audit_log(data: EventDataModule) -> dict[str, Rows]:
    """All that `recalign check` says, by section: the log, its division, its leaks."""
    figures = data.figures()  # first, as long as the log is in memory
    sequences, max_length, stride = data.sequences, data.max_length, data.stride
    return {
        **figures,
        **{part: part_figures(sequences, part) for part in PARTS},
        "split": split_figures(sequences, max_length, stride),
        "leaks (all must be 0)": leaks(sequences, max_length, stride),
    }


def concerns(data: EventDataModule, sections: dict[str, Rows]) -> list[str]:
    """What of `audit_log` a user should hear of before anything is made of the log, a line each."""
    lines, met = [], float(sections["test"][MET])
    if met > OFTEN:
        lines.append(
            f"{met:.0%} of the test's targets are items that their user had met: they are ranked all the same, though "
            "nothing that was met is recommended, so ranks look better than they are"
        )
    if data.high is not None and (share := sections["split"][HIGH]) in (0, 1):
        lines.append(f"{'every' if share else 'no'} event has a high reward, so high/* say nothing: look at data.high")
    if data.log_.time_unit in ("ms", "us") and str(sections["test"]["last day"]).startswith("1970"):
        lines.append(f"all events lie in 1970: is data.log.time_unit {data.log_.time_unit} right?")
    return lines


def part_figures(sequences: Sequences, part: Part) -> Rows:
    """Size and span of one part, and its targets that training never saw."""
    chosen = sequences.frame.filter(pl.col("split") == PARTS[part])
    first, last = (str(pl.from_epoch(chosen["timestamp"]).dt.date().sort()[end]) for end in (0, -1))
    rows: Rows = {"events": len(chosen), "users": chosen["user"].n_unique(), "first day": first, "last day": last}
    if part != "train":
        cold = chosen.filter(pl.col("item_id") == 0)
        rows["items unseen in training"] = cold["item"].n_unique()
        rows["share of targets on them (misses)"] = len(cold) / len(chosen)
        rows[MET] = _met(sequences, part) / len(chosen)
    return rows


def _met(sequences: Sequences, part: Part) -> int:
    """How many events of a part are of an item that their user chose before."""
    pair = pl.col("user").cast(pl.Int64) * (sequences.num_items + 1) + pl.col("item_id")
    known = sequences.frame.filter(pl.col("item_id") > 0)
    return known.select((pair.is_first_distinct().not_() & (pl.col("split") == PARTS[part])).sum()).item()


def split_figures(sequences: Sequences, max_length: int, stride: int | None = None) -> Rows:
    """What the division leaves, and what is lost on the way."""
    everybody = np.full(sequences.num_users, True)
    groups, counts = np.unique(sequences.group, return_counts=True)
    return {
        "items in training (the catalogue)": sequences.num_items,
        HIGH: float(sequences.frame["high"].mean()),  # type: ignore[arg-type]
        "users left out: test events, no history before": left_out(sequences, everybody),
        "events of the longest history": int(np.diff(sequences.offset).max()),
        "newest events that a model sees": max_length,
        f"training events that are a target (a user's {'newest' if stride is None else 'all but the first'})": len(
            training_windows(sequences, everybody, max_length, stride).target
        ),
        **{f"users in group {group}": int(count) for group, count in zip(groups, counts, strict=True)},
    }


def leaks(sequences: Sequences, max_length: int, stride: int | None = None) -> Rows:
    """Four ways in which the future could reach a model, each counted; all must be 0."""
    everybody = np.full(sequences.num_users, True)
    train = training_windows(sequences, everybody, max_length, stride)
    test = evaluation_windows(sequences, everybody, "test", max_length)
    future = target_in_history = 0
    for windows in (train, test):
        future += int((sequences.time[windows.state] > windows.time).sum())
        target_in_history += int((sequences.event[windows.state] >= windows.event).sum())
    last = sequences.frame.filter(pl.col("split") == PARTS["train"]).group_by("user").agg(pl.col("event").max())
    first = sequences.frame.filter(pl.col("split") == PARTS["test"]).group_by("user").agg(pl.col("event").min())
    both = last.join(first, on="user", suffix="_test")
    return {
        "future events in a history": future,
        "targets in their own history": target_in_history,
        "users whose test begins before their training ends": both.filter(
            pl.col("event") > pl.col("event_test")
        ).height,
        "test events seen in training": int(np.isin(test.event, train.event).sum()),
    }
