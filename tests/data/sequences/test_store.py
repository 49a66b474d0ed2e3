from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import small

from recalign.data.events import Report
from recalign.data.sequences import EventDataModule, High, LeaveLast, UserGroups, Where, build_sequences
from recalign.data.sequences.serving import by_time
from recalign.errors import InputError

from .tables import table

USERS, ITEMS, TIMES = [0] * 5 + [1] * 4, [3, 0, 4, 1, 9, 0, 3, 0, 7], [*range(5), *range(4)]
REWARDS = [1.0, 2.0, None, 4.0, 5.0, 1.5, 2.5, 3.5, 4.5]


@pytest.fixture
def sequences():
    return build_sequences(table(USERS, ITEMS, TIMES, REWARDS), LeaveLast(1, 1), High("reward >= 4"), UserGroups())


def test_catalogue_holds_items_with_training_events(sequences):
    """Items 1 (validation of user 0), 9 and 7 (tests) were never trained on."""
    assert sequences.items.to_list() == [100, 103, 104]
    assert sequences.num_items == 3
    assert sequences.frame["item_id"].to_list() == [2, 1, 3, 0, 0, 1, 2, 1, 0]
    assert sequences.items.gather(sequences.item - 1).to_list() == [103, 100, 104, 100, 103, 100]


def test_flat_arrays_hold_the_known_events_of_all_users(sequences):
    assert sequences.offset.tolist() == [0, 3, 6]
    assert sequences.event.tolist() == [0, 1, 2, 5, 6, 7]
    assert sequences.time.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(sequences.reward, np.float32([1, 2, math.nan, 1.5, 2.5, 3.5]))
    assert sequences.frame["known_before"].to_list() == [0, 1, 2, 3, 3, 0, 1, 2, 3]
    assert sequences.frame["high"].to_list() == [False, False, False, True, True, False, False, False, True]


def test_feedback_columns_may_have_any_name():
    events = table(
        USERS, ITEMS, TIMES, REWARDS, event=list("abcdefghi"), item_id=[7] * 9, known=[True] * 9, split=[5] * 9
    )
    plain = build_sequences(table(USERS, ITEMS, TIMES, REWARDS), LeaveLast(1, 1), None, UserGroups())
    named = build_sequences(events, LeaveLast(1, 1), None, UserGroups())
    for column in ("event", "item_id", "known_before", "split"):
        assert named.frame[column].to_list() == plain.frame[column].to_list()


def test_digests_differ_between_logs_and_splits(sequences):
    events = table(USERS, ITEMS, TIMES, REWARDS)
    same = build_sequences(events, LeaveLast(1, 1), High("reward >= 4"), UserGroups())
    assert (same.fingerprint, same.catalogue) == (sequences.fingerprint, sequences.catalogue)
    for split, high, groups in [
        (LeaveLast(1, 2), High("reward >= 4"), UserGroups()),
        (LeaveLast(1, 1), High("reward >= 5"), UserGroups()),
        (LeaveLast(1, 1), High("reward >= 4"), UserGroups(0.5)),
    ]:
        assert build_sequences(events, split, high, groups).fingerprint != sequences.fingerprint
    assert (
        build_sequences(events, LeaveLast(1, 2), None, UserGroups()).catalogue != sequences.catalogue
    )  # item 104 is not trained on


@pytest.mark.parametrize(
    ("counts", "split", "said"),
    [
        ([2, 2], LeaveLast(2, 2), "leaves none of 4 events for validation, test"),
        ([5, 5], LeaveLast(1, 0), "leaves none of 10 events for validation"),
        ([3, 3], LeaveLast(1, 1), "no user has two events in the training split"),
    ],
)
def test_empty_splits_are_refused(counts, split, said):
    users = [u for u, n in enumerate(counts) for _ in range(n)]
    items = [i for n in counts for i in range(n)]
    with pytest.raises(InputError, match=f"(?s)data.split: .*{said}"):
        build_sequences(table(users, items, items), split, None, UserGroups())


def test_min_events_removes_rare_items_from_training_and_counts_them():
    """Items 3 and 0 have two training events, item 4 one: its event goes; a test on it would be a miss."""
    events = table(USERS, ITEMS, TIMES, REWARDS)
    events = replace(events, report=Report({"a.csv": 9}, [], 9, []))
    sequences = build_sequences(events, LeaveLast(1, 1), None, UserGroups(), 2)
    assert sequences.items.to_list() == [100, 103]
    assert sequences.frame["row"].to_list() == [1, 2, 4, 5, 6, 7, 8, 9]
    assert sequences.frame["item_id"].to_list() == [2, 1, 0, 0, 1, 2, 1, 0]
    assert sequences.train_count.tolist() == [2, 2]
    assert sequences.report.used == len(sequences.frame)
    assert [note.count for note in sequences.report.notes] == [1]
    assert sequences.fingerprint != build_sequences(events, LeaveLast(1, 1), None, UserGroups()).fingerprint


def test_tied_events_in_several_splits_keep_the_file_order(log_root):
    data = small.data_of(EventDataModule, log_root, "tastes", split=Where("rating > 4", 0.2))
    flat = replace(data.sequences, time=np.zeros_like(data.sequences.time))
    flat.time[-1] = -1  # so that there is something to put in order
    row = flat.frame["row"].to_numpy()[by_time(flat).event]
    for start, stop in itertools.pairwise(flat.offset[:-1]):
        assert (np.diff(row[start:stop]) > 0).all()
