from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import LeaveLast, TimeSplit, UserGroups, build_sequences
from recalign.data.sequences.batch import collate
from recalign.data.sequences.serving import serving_windows
from recalign.data.sequences.store import Sequences
from recalign.data.sequences.user_sample import sample_users, with_events
from recalign.data.sequences.windows import evaluation_windows, training_windows

from .tables import table


def everybody(sequences: Sequences) -> np.ndarray:
    return np.full(sequences.num_users, True)


def simple(counts, split, items=None) -> Sequences:
    users = [u for u, n in enumerate(counts) for _ in range(n)]
    times = [10 * t for n in counts for t in range(n)]
    items = items or [t for n in counts for t in range(n)]
    return build_sequences(table(users, items, times), split, None, UserGroups())


def pairs(sequences, windows, *, bucket=None, known=False):
    """Each target with the history it is predicted from, as raw (user, history, target, event)."""
    bucket = bucket or int(windows.length.max())
    batch = collate(sequences, windows, np.arange(len(windows)), bucket, know_request=known, seen=True)
    out = []
    for t in range(len(batch.target_T)):
        row, column = int(batch.row_T[t]), int(batch.column_T[t])
        history = batch.item_BL[row, : column + 1].tolist()
        out.append((int(batch.user_B[row]), history, int(batch.target_T[t]), int(batch.event_T[t])))
    return out


def test_training_windows_keep_the_newest_events():
    sequences = simple([8], LeaveLast(1, 1))
    found = pairs(sequences, training_windows(sequences, everybody(sequences), 3))
    assert [target for *_, target, _ in found] == [4, 5, 6]
    assert found[-1][1] == [3, 4, 5]


counts = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@given(counts, st.integers(2, 12), st.data())
def test_training_windows_take_equals_in_memory(counts, max_length, data):
    sequences = simple([n + 3 for n in counts], LeaveLast(1, 1))
    read = training_windows(sequences, everybody(sequences), max_length)
    held, order = read.in_memory(), np.array(data.draw(st.permutations(range(len(read)))), np.int64)
    for chosen in (order, order[:2], order[:0]):
        of_log, of_memory = vars(read.take(chosen)), vars(held.take(chosen))
        for name, x in of_memory.items():
            np.testing.assert_array_equal(of_log[name], x)
            assert x is None or of_log[name].dtype == x.dtype


@given(counts, st.integers(2, 12), st.integers(1, 12), st.integers(0, 4))
def test_every_target_is_predicted_once_from_its_own_history(counts, max_length, test, validation):
    items = [t % 7 for n in counts for t in range(n)]
    if max(counts) < test + validation + 2 or validation == 0:
        return
    sequences = simple(counts, LeaveLast(test, validation), items)
    for part in ("validation", "test"):
        windows = evaluation_windows(sequences, everybody(sequences), part, max_length)
        assert (windows.length <= max_length).all()
        found = pairs(sequences, windows)
        expected = sum(min(validation if part == "validation" else test, n) for n in counts if n > test + validation)
        assert len(found) == len({event for *_, event in found}) == expected
        frame = sequences.frame
        for user, history, target, event in found:
            past = frame["item_id"][:event].to_numpy()[frame["user"][:event].to_numpy() == user]
            past = past[past > 0]
            assert target == frame["item_id"][event]
            assert history == past[-len(history) :].tolist()
            assert len(history) >= min(len(past), max(max_length // 2, 1))


@given(st.data())
def test_seen_items_are_those_before_each_target(data: st.DataObject):
    counts = [6, *data.draw(st.lists(st.integers(4, 12), max_size=4))]
    drawn = data.draw(st.lists(st.integers(0, 3), min_size=sum(counts) - 6, max_size=sum(counts) - 6))
    sequences = simple(counts, LeaveLast(2, 1), [0, 1, 2, 3, 0, 1, *drawn])
    windows = evaluation_windows(sequences, everybody(sequences), "test", 4)
    order = np.random.default_rng(0).permutation(len(windows))
    batch = collate(sequences, windows, order, 4, know_request=False, seen=True)
    frame = sequences.frame
    user, item = (frame[name].to_numpy() for name in ("user", "item_id"))
    expected = set()
    for target, event in enumerate(batch.event_T.tolist()):
        before = item[:event][user[:event] == user[event]]
        expected |= {(target, one) for one in before[before > 0].tolist()}
    found = [(int(t), int(i)) for t, i in batch.seen_N.T]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_users_without_history_are_left_out_and_counted():
    users = [0] * 6 + [1] * 3 + [2] * 2
    times = [0, 10, 20, 30, 85, 95, 91, 92, 93, 5, 94]
    items = [0, 1, 2, 3, 1, 2, 1, 2, 3, 1, 2]
    sequences = build_sequences(table(users, items, times), TimeSplit((0.45, 0.56)), None, UserGroups())
    windows = evaluation_windows(sequences, everybody(sequences), "test", 10)
    assert set(windows.user) == {0, 2}
    assert with_events(sequences).tolist() == [True, False, True]
    assert with_events(sequences, "validation").tolist() == [True, False, False]


@pytest.mark.parametrize(("known", "asked"), [(False, [0, 10, 20, 30]), (True, [10, 20, 30, 50])])
def test_request_time_is_that_of_the_target_only_if_known(known, asked):
    sequences = build_sequences(
        table([0] * 6, [0, 1, 2, 3, 0, 1], [0, 10, 20, 30, 50, 90]), LeaveLast(1, 1), None, UserGroups()
    )
    windows = evaluation_windows(sequences, everybody(sequences), "validation", 10)
    batch = collate(sequences, windows, np.arange(1), 4, know_request=known, seen=False)
    assert batch.request_time_BL.tolist() == [asked]


def test_serving_windows_use_the_whole_log():
    sequences = simple([6, 4], LeaveLast(1, 1))
    found = pairs(sequences, serving_windows(sequences, everybody(sequences), 10))
    assert [(u, len(h), t) for u, h, t, _ in found] == [(0, 4, 0), (1, 4, 0)]


@given(counts, st.integers(2, 12), st.data())
def test_windows_keep_preserves_histories_of_remaining_targets(counts, max_length, data):
    sequences = simple([n + 3 for n in counts], LeaveLast(1, 1))
    windows = training_windows(sequences, everybody(sequences), max_length).in_memory()
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(windows.target), max_size=len(windows.target))))
    if not kept.any():
        return
    rejected = np.arange(2 * len(kept)).reshape(-1, 2)
    fewer = dataclasses.replace(windows, rejected=rejected).keep(kept)
    assert pairs(sequences, fewer) == [p for p, k in zip(pairs(sequences, windows), kept, strict=True) if k]
    assert (np.diff(fewer.offset) > 0).all()
    batch = collate(sequences, fewer, np.arange(len(fewer)), max_length, know_request=False, seen=False)
    np.testing.assert_array_equal(batch.rejected_TN, rejected[kept])
    assert windows.rejected is None


PART = st.sampled_from(["validation", "test"])


@given(st.lists(st.integers(1, 8), min_size=2, max_size=30), st.integers(1, 40), st.integers(0, 10), PART)
def test_sample_users_draws_nested_samples_of_users_with_events(counts, number, more, part):
    sequences = simple([6, *counts], LeaveLast(1, 1))
    users = everybody(sequences)
    drawn = sample_users(sequences, users, number, part)
    assert drawn.sum() == min(number, with_events(sequences, part).sum())
    assert (drawn <= (sample_users(sequences, users, number + more, part) & with_events(sequences, part))).all()
    windows = evaluation_windows(sequences, drawn, part, 10)
    assert set(windows.user) == set(np.flatnonzero(drawn))


def test_serving_windows_leave_out_users_without_known_events():
    """User 1 has one event, of a test item that training never saw."""
    users, times = [0] * 6 + [1], [0, 10, 20, 30, 85, 95, 96]
    sequences = build_sequences(table(users, [0, 1, 2, 3, 1, 2, 9], times), TimeSplit((0.45, 0.6)), None, UserGroups())
    assert serving_windows(sequences, everybody(sequences), 10).user.tolist() == [0]


def test_windows_hold_time_and_reward_of_each_target():
    sequences = simple([6], LeaveLast(1, 1))  # rewards 1, 2, 3, 4, 5, 1
    trained = training_windows(sequences, everybody(sequences), 10).in_memory()
    assert (trained.time.tolist(), trained.reward.tolist()) == ([10, 20, 30], [2, 3, 4])
    tested = evaluation_windows(sequences, everybody(sequences), "test", 10)
    assert (tested.time.tolist(), tested.reward.tolist()) == ([50], [1])
