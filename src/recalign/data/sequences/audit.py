"""The figures of ``recalign check`` on a split: sizes, unseen items, users left out, leaks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from recalign.data.events import EventTable, audit, data_root, read_features
from recalign.data.events.audit import TIES, Section
from recalign.data.events.division import FEW, SHORT, divide
from recalign.data.events.items import feature_figures
from recalign.data.sequences.data import EventDataModule
from recalign.data.sequences.splits import LeaveLast, Split, TimeSplit
from recalign.data.sequences.store import PARTS, Part, Sequences
from recalign.data.sequences.windows import evaluation_windows, training_windows, with_events

CATALOGUE, COLD = "items in training (the catalogue)", "further items, which are in the catalogue by their features"
COLD_TARGETS = "share of targets on items without training events that are known by their features"
SEEN = "share of targets that the user had seen before (they are ranked all the same)"
HIGH = "share of events with a high reward"
MISSES = "share of targets on them (misses)"
LEFT_OUT = "users left out of the test: no history before it"
PAIRS = "users of A with two validation events or more (a pair to order)"
LONGER = f"users with {SHORT} events or more"
LEFT = "training events of the median user with test events"
JUDGED = "training events with a reward of the judges' users (B1 or B2, whichever has fewer)"
LEAKS = "leaks (all must be 0)"
DRAWN, CHANCES = "events shown at random", "of these, with a known propensity"
UNREWARDED = "of those, without a reward"
OTHER_USERS, OTHER_MISSES = "other splits: users with test events and a history", "other splits: share of misses"
OFTEN = 0.2
"""Share of test targets, or of events, above which a fault of the log makes figures hard to read. A fifth of misses
takes a fifth off every ndcg and widens intervals, beside a gain, by an eighth (1 / sqrt(0.8)); a fifth of ties makes at
least a tenth of the next events arbitrary."""


def audit_log(data: EventDataModule) -> dict[str, Section]:
    """Compute all figures of ``recalign check``, by section: the log, its split, its leaks."""
    figures = log_figures(data)  # first, while the log is in memory
    sequences, max_length, stride = data.sequences, data.max_length, data.stride
    sections: dict[str, Section] = {
        **figures,
        **{part: part_figures(sequences, part) for part in PARTS},
        "split": split_figures(sequences, max_length, stride),
    }
    if data.log_.is_random is not None:
        sections["exposure"] = _exposure(sequences.frame, data.log_.propensity is not None)
    if isinstance(data.split, LeaveLast | TimeSplit) and _is_doubtful(sections):
        sections |= other_splits(sequences, data.split)
    return {**sections, LEAKS: leaks(sequences, max_length, stride, data.log_.timestamp is not None)}


def log_figures(data: EventDataModule) -> dict[str, Section]:
    """The figures of the log that need no split (`recalign.data.events.audit`), saved with the prepared log."""
    sections = data.entry and data.entry.figures()
    if not sections:
        table, made, ranked = data.table, data.sequences, None  # the second writes the entry, and drops the first
        if data.relative_to:
            ranks = made.frame.select("row", "reward")
            ranked = table.frame.drop("reward").join(ranks, on="row", how="left", maintain_order="left")
        sections = audit(table, ranked)
        sections["item features"] = feature_figures(
            read_features(data.log_, data_root(data.root), table.items), table.items
        )
        if data.entry:
            data.entry.save_figures(sections)
    return {**sections, "titles": data.titles_and_counts[1]}


def _exposure(frame: pl.DataFrame, weighed: bool) -> Section:
    drawn = frame.filter("is_random")
    known = drawn.filter(pl.col("propensity").is_not_null()) if weighed else drawn.clear()
    return {DRAWN: drawn.height, CHANCES: known.height, UNREWARDED: known["reward"].null_count()}


def users_tested(sections: Mapping[str, Section]) -> int:
    """Users with test events and a history to predict them from."""
    return int(sections["test"]["users"]) - int(sections["split"][LEFT_OUT])


def _is_doubtful(sections: Mapping[str, Section]) -> bool:
    """Whether another split may be better."""
    faults = sections["test"][MISSES], sections["repeated items and times"].get(TIES, 0)
    return max(map(float, faults)) > OFTEN or users_tested(sections) < FEW


def other_splits(sequences: Sequences, split: Split) -> dict[str, Section]:
    """What other splits of the log would measure, by their line of YAML."""
    frame = sequences.frame
    table = EventTable(frame, sequences.users, sequences.items, True, sequences.report, sequences.fingerprint)
    chosen = divide(frame["user"], frame["reward"])
    users, misses = Section(), Section()
    others: list[LeaveLast | TimeSplit] = [LeaveLast(chosen.test, chosen.validation), LeaveLast(1, 1), TimeSplit()]
    for other in dict.fromkeys(others):
        part = other.assign(table)
        test = part == PARTS["test"]
        if other != split and test.any() and not test.all():
            trained = frame["item"].filter(part == PARTS["train"]).unique()
            past = frame["user"].filter(~test).unique()
            users[_yaml_line(other)] = int(frame["user"].filter(test).unique().is_in(past.implode()).sum())
            misses[_yaml_line(other)] = 1 - float(frame["item"].filter(test).is_in(trained.implode()).mean())  # type: ignore[arg-type]
    return {OTHER_USERS: users, OTHER_MISSES: misses}


def _yaml_line(split: LeaveLast | TimeSplit) -> str:
    given = ", ".join(
        f"{key}: {list(value) if isinstance(value, tuple) else value}" for key, value in vars(split).items()
    )
    return f"split: {{class_path: recalign.data.sequences.{type(split).__name__}, init_args: {{{given}}}}}"


def part_figures(sequences: Sequences, part: Part) -> Section:
    """Size and span of a part, and its targets that are unseen in training or seen by the user before."""
    chosen = sequences.frame.filter(pl.col("split") == PARTS[part])
    first, last = (str(pl.from_epoch(chosen["timestamp"]).dt.date().sort()[end]) for end in (0, -1))
    rows: Section = {"events": len(chosen), "users": chosen["user"].n_unique(), "first day": first, "last day": last}
    if part != "train":
        unseen = chosen.filter(pl.col("item_id") == 0)
        rows["items unseen in training"] = unseen["item"].n_unique()
        rows[MISSES] = len(unseen) / len(chosen)
        if sequences.features:
            rows[COLD_TARGETS] = float((chosen["item_id"] > sequences.num_warm).mean())  # type: ignore[arg-type]
        pair = pl.col("user").cast(pl.Int64) * (sequences.num_items + 1) + pl.col("item_id")
        again = pair.is_first_distinct().not_() & (pl.col("split") == PARTS[part])
        rows[SEEN] = sequences.frame.filter(pl.col("item_id") > 0).select(again.sum()).item() / len(chosen)
    return rows


def split_figures(sequences: Sequences, max_length: int, stride: int | None = None) -> Section:
    """What the split leaves to train and test on."""
    groups, counts = np.unique(sequences.group, return_counts=True)
    targets = int(training_windows(sequences, sequences.users_in("all"), max_length, stride).offset[-1])
    count_U = {part: _events_of(sequences, part) for part in PARTS}
    tested, in_a = count_U["test"] > 0, sequences.users_in("A")
    return {
        CATALOGUE: sequences.num_warm,
        **({COLD: sequences.num_items - sequences.num_warm} if sequences.features else {}),
        HIGH: float(sequences.frame["high"].mean()),  # type: ignore[arg-type]
        LEFT_OUT: int(tested.sum() - with_events(sequences).sum()),
        LONGER: int((np.bincount(sequences.frame["user"].to_numpy()) >= SHORT).sum()),
        "users of A with test events": int((in_a & tested).sum()),
        "users of A with validation events": int((in_a & (count_U["validation"] > 0)).sum()),
        PAIRS: int((in_a & (count_U["validation"] > 1)).sum()),
        LEFT: int(np.median(count_U["train"][tested])),
        **({JUDGED: _rewards_of_judges(sequences)} if sequences.frame["reward"].count() and not in_a.all() else {}),
        "events of the longest history": int(np.diff(sequences.offset).max()),
        "newest events of a history that a model sees": max_length,
        f"training targets ({'the newest' if stride is None else 'all but the first'} events of each user)": targets,
        **{f"users in group {group}": int(count) for group, count in zip(groups, counts, strict=True)},
    }


def _events_of(sequences: Sequences, part: Part) -> np.ndarray:
    """Events of each user in a part. Shape: -> int64 (U,)."""
    user = sequences.frame["user"].filter(sequences.frame["split"] == PARTS[part])
    return np.bincount(user.to_numpy(), minlength=sequences.num_users)


def _rewards_of_judges(sequences: Sequences) -> int:
    """Training rewards of B1 or of B2, whichever has fewer: the log's own, though judges may be given others."""
    trained = sequences.frame.filter(pl.col("reward").is_not_null() & (pl.col("split") == PARTS["train"]))
    user_N = trained["user"].to_numpy()
    return min(int(sequences.users_in(group)[user_N].sum()) for group in ("B1", "B2"))


def leaks(sequences: Sequences, max_length: int, stride: int | None = None, timed: bool = True) -> Section:
    """Count four ways in which the future could reach a model; all must be 0. A log without times has no future."""
    everybody = sequences.users_in("all")
    train = training_windows(sequences, everybody, max_length, stride).in_memory()
    test = evaluation_windows(sequences, everybody, "test", max_length)
    last = sequences.frame.filter(pl.col("split") == PARTS["train"]).group_by("user").agg(pl.col("event").max())
    first = sequences.frame.filter(pl.col("split") == PARTS["test"]).group_by("user").agg(pl.col("event").min())
    early = last.join(first, on="user", suffix="_test").filter(pl.col("event") > pl.col("event_test"))
    future = sum(int((sequences.time[w.state] > w.time).sum()) for w in (train, test))
    return {
        **({"future events in a history": future} if timed else {}),
        "targets in their own history": sum(int((sequences.event[w.state] >= w.event).sum()) for w in (train, test)),
        "users whose test begins before their training ends": early.height,
        "test events seen in training": int(np.isin(test.event, train.event).sum()),
    }
