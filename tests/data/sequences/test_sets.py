"""Events that came together (`data.ties`): none is in another's history, whatever reads it."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.events import LogMapping
from recalign.data.events.rows import TIED
from recalign.data.events.table import load_events
from recalign.data.sequences import LeaveLast, TimeSplit, UserGroups, build_sequences, reward_means
from recalign.data.sequences.batch import collate
from recalign.data.sequences.other_splits import Where
from recalign.data.sequences.store import TIE_GROUP
from recalign.data.sequences.windows import evaluation_windows, training_windows
from recalign.errors import InputError

from .tables import table

# Gaps between a user's events: most are 0, so that there are sets; some items are too rare to be known.
people = st.lists(
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 7]), st.integers(0, 6)), min_size=1, max_size=14),
    min_size=1,
    max_size=4,
)
splits = st.sampled_from([LeaveLast(2, 2), TimeSplit((0.5, 0.8)), Where("item = 3 or item = 5", 0.3)])


def events_of(people, **settings):
    users = [user for user, own in enumerate(people) for _ in own]
    times = [int(time) for own in people for time in np.cumsum([gap for gap, _ in own])]
    return table(users, [item for own in people for _, item in own], times, **settings)


def built(people, split, min_events=2):
    """The log with ties together, or nothing where the split leaves no part."""
    try:
        return build_sequences(events_of(people, together=True), split, None, UserGroups(), min_events)
    except InputError:
        return None


def earlier(sequences, event):
    """The known items that a user chose before the time of an event, and those of its time: the rule, word for word."""
    user, time = sequences.frame.row(event, named=True)["user"], sequences.frame["timestamp"][event]
    rows = sequences.frame.filter(pl.col("user") == user, pl.col("item_id") > 0)
    return [rows.filter(at)["item_id"].to_list() for at in (pl.col("timestamp") < time, pl.col("timestamp") == time)]


@given(people, st.sampled_from([LeaveLast(2, 2), TimeSplit((0.5, 0.8))]), st.integers(1, 9), st.booleans())
def test_history_ends_before_the_tie_group_of_its_target(people, split, max_length, known):
    sequences = built(people, split)
    if sequences is None:
        return
    everybody, found = sequences.users_in("all"), {}
    parts = {"train": training_windows(sequences, everybody, max_length)}
    for part in ("validation", "test"):
        parts[part] = evaluation_windows(sequences, everybody, part, max_length, apart=known)
    for part, windows in parts.items():
        if not len(windows):
            continue
        assert windows.length.max() <= max_length
        batch = collate(sequences, windows, np.arange(len(windows)), max_length, know_request=known, seen=True)
        for t, event in enumerate(batch.event_T.tolist()):
            row, column = int(batch.row_T[t]), int(batch.column_T[t])
            history, (before, same) = batch.item_BL[row, : column + 1].tolist(), earlier(sequences, event)
            assert history == before[-len(history) :]
            assert sorted({*before}) == batch.seen_N[1, batch.seen_N[0] == t].sort().values.tolist()
            if batch.target_T[t]:
                assert sorted(same) == sorted(batch.tied_N[1, batch.tied_N[0] == t].tolist())
            time = sequences.frame["timestamp"][event] if known else int(batch.time_BL[row, column])
            assert int(batch.request_time_BL[row, column]) == time
            assert found.setdefault(event, part) == part
    for event, user, part in sequences.frame.select("event", "user", "split").iter_rows():
        before, start = earlier(sequences, event)[0], sequences.offset[user]
        past = before and sequences.frame["split"][int(sequences.event[start])] < part
        if part or max_length >= 14:  # in training, only what is in the newest window
            assert (event in found) == bool(past if part else before)


@given(people, splits)
def test_splits_put_whole_tie_groups_into_the_later_split(people, split):
    events = events_of(people, together=True)
    alone = dataclasses.replace(events, together=False)
    sequences = built(people, split, 1)
    if sequences is None:
        return
    by_row = dict(zip(events.frame["row"], split.assign(alone), strict=True))
    sets = sequences.frame.group_by("user", "timestamp").agg("split", "row", pl.col(TIE_GROUP).n_unique())
    for _, _, of_set, rows, numbers in sets.iter_rows():
        assert len({*of_set}) == numbers == 1
        assert isinstance(split, LeaveLast) or of_set[0] == max(by_row[row] for row in rows)


def test_leave_last_takes_whole_tie_groups():
    """Parts of one event each grow to whole sets. Who has two sets has none to train on before both."""
    sets = [[0], [0, 5, 5, 5, 9, 9], [1, 1, 1, 7, 7], [3, 3, 3], [4, 5, 6, 7]]
    users = [user for user, times in enumerate(sets) for _ in times]
    events = table(users, [0] * len(users), [time for own in sets for time in own], together=True)
    found = LeaveLast(1, 1).assign(events).to_list()
    assert found == [0, *[0, 1, 1, 1, 2, 2], *[0] * 5, *[0] * 3, *[0, 0, 1, 2]]
    more = LeaveLast(3, 1).assign(dataclasses.replace(events, together=False)).to_list()
    assert more == [0, *[0, 0, 1, 2, 2, 2], *[0, 1, 2, 2, 2], *[0] * 3, *[0] * 4]


@given(people)
def test_ties_together_and_order_are_equal_without_ties(people):
    apart = [[(gap + 1, item) for gap, item in own] for own in people]
    try:
        both = [build_sequences(events_of(apart, together=x), LeaveLast(1, 1), None, UserGroups()) for x in (0, 1)]
    except InputError:
        return
    for name in ("item", "event", "train_count", "offset"):
        assert np.array_equal(getattr(both[0], name), getattr(both[1], name))
    assert both[0].frame["known_before"].equals(both[1].frame["known_before"])
    order, together = (training_windows(x, x.users_in("all"), 5).in_memory() for x in both)
    for name, x in vars(order).items():
        assert np.array_equal(x, getattr(together, name)), name
    assert (TIE_GROUP in both[0].frame, TIE_GROUP in both[1].frame) == (False, True)


def test_user_mean_uses_rewards_before_the_tie_group():
    rewards, known = [1.0, 2.0, 4.0, 9.0, 5.0], {"user": [0] * 5, "item": [1] * 5, "split": [0, 0, 0, 0, 2]}
    frame = pl.DataFrame(known | {"reward": rewards, TIE_GROUP: [0, 1, 1, 1, 4]})
    mu, means = 4.0, reward_means(frame)
    assert means["user"].to_list() == pytest.approx([mu, *[(1 + 5 * mu) / 6] * 3, (16 + 5 * mu) / 9])
    residuals = [0.0, *[(1 - mu) / 6] * 3, (16 - 4 * mu) / 9]
    assert (means["user_item"] - means["item"]).to_list() == pytest.approx(residuals)
    assert reward_means(frame.drop(TIE_GROUP))["user"][2] == pytest.approx((3 + 5 * mu) / 7)


def test_ties_are_found_before_times_are_floored(tmp_path):
    rows = [("a", 1, 60), ("a", 2, 61), ("a", 3, 61), ("b", 1, 61), ("b", 2, 119)]
    text = "\n".join(["user,item,timestamp", *(",".join(map(str, row)) for row in rows)])
    (tmp_path / "log.csv").write_text(text)
    events = load_events(LogMapping("log", ["log.csv"], time_resolution=60), tmp_path, None, together=True)
    assert events.frame["timestamp"].to_list() == [60] * 5
    assert events.frame[TIED].to_list() == [False, False, True, False, False]
    assert events.tie_group_max(pl.Series([0, 1, 2, 1, 0])).to_list() == [0, 2, 2, 1, 0]
    alone = load_events(LogMapping("log", ["log.csv"], time_resolution=60), tmp_path, None)
    assert alone.tie_group_max(pl.Series([0, 1, 2, 1, 0])).to_list() == [0, 1, 2, 1, 0]
    assert alone.fingerprint != events.fingerprint


def test_ties_together_needs_times(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n1,2\n1,3\n")
    with pytest.raises(InputError, match=r"data\.ties"):
        load_events(LogMapping("log", ["log.csv"], timestamp=None), tmp_path, None, together=True)
