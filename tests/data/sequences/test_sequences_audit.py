from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import High, LeaveLast, UserGroups, audit, build_sequences
from recalign.data.sequences.audit import (
    LONGER,
    SEEN,
    detectable_gain,
    leaks,
    span_figures,
    split_figures,
    users_needed,
)

from .tables import table

DAY = 86_400
USERS, ITEMS = [0] * 6 + [1] * 6, [0, 1, 2, 3, 4, 9, 5, 0, 1, 2, 3, 4]
TIMES = [DAY * t for t in [*range(6), *range(6)]]


@pytest.fixture
def sequences():
    return build_sequences(table(USERS, ITEMS, TIMES), LeaveLast(1, 1), High("reward >= 4"), UserGroups())


def test_leaks_are_0_for_a_sound_split(sequences):
    assert set(leaks(sequences, 50).values()) == {0}


def test_leaks_count_future_events_in_a_history(sequences):
    late = dataclasses.replace(sequences, time=sequences.time[::-1].copy())
    assert leaks(late, 50)["future events in a history"] != 0


def test_leaks_count_targets_in_their_own_history(sequences):
    shifted = dataclasses.replace(sequences, event=sequences.event + 1)
    assert leaks(shifted, 50)["targets in their own history"] != 0


def test_leaks_count_users_tested_before_their_training_ends(sequences):
    frame = sequences.frame
    backwards = dataclasses.replace(sequences, frame=frame.with_columns(frame["split"].reverse()))
    assert leaks(backwards, 50)["users whose test begins before their training ends"] == 2


def test_span_figures_have_worked_out_values(sequences):
    train, validation, test = (span_figures(sequences, part) for part in ("train", "validation", "test"))
    assert train == {"events": 8, "users": 2, "first day": "1970-01-01", "last day": "1970-01-04"}
    assert (test["events"], test["users"], test["first day"], test["last day"]) == (2, 2, "1970-01-06", "1970-01-06")
    assert (validation["items unseen in training"], validation["share of targets on them (misses)"]) == (1, 0.5)
    assert (test["items unseen in training"], test["share of targets on them (misses)"]) == (2, 1.0)
    figures = split_figures(sequences, 4)
    assert figures["items in training (the catalogue)"] == 5
    assert figures["share of events with a high reward"] == pytest.approx(5 / 12)
    assert figures["users left out of the test: no history before it"] == 0
    assert figures["events of the longest history"] == 5
    assert sum(figures[key] for key in figures if "group" in key) == 2


def test_split_figures_count_users_that_can_be_measured():
    users = [user for user, events in enumerate([3, 4, 5, 6]) for _ in range(events)]
    events = table(users, [0] * len(users), range(len(users)))
    figures = split_figures(build_sequences(events, LeaveLast(1, 2), None, UserGroups(1.0)), 50)
    assert (figures[LONGER], figures["users of A with test events"]) == (2, 3)


def test_smallest_gain_is_bounded_for_any_number_of_users(sequences, monkeypatch):
    users = split_figures(sequences, 4)["users of A with test events"]
    monkeypatch.setattr(audit, "GAIN_ERROR", 0.001 * users**0.5)
    figures = split_figures(sequences, 4)
    assert figures[audit.GAIN_TOLD] == pytest.approx(0.015 + 0.842 * 0.001)
    assert figures[audit.USERS_FOR_HALF] == "none: least is 0.015"


def test_smallest_loss_halves_with_four_times_the_test_events(sequences):
    figures = split_figures(sequences, 4)
    assert figures[audit.LOSS_TOLD] == pytest.approx(2 * 0.842 * 0.33 / 0.2**0.5)  # 2 events, a tenth of them hits
    assert figures[audit.EVENTS_FOR_HALF] == 8


@given(users=st.integers(1, 10**9))
def test_users_needed_is_the_inverse_of_the_gain_they_detect(users):
    needed = users_needed(detectable_gain(users))
    assert needed is not None
    assert needed == pytest.approx(users, rel=1e-6, abs=1)
    assert users_needed(0.015) is None


def test_users_needed_for_half_of_a_gain_detect_it(sequences):
    figures = split_figures(sequences, 4)
    needed = figures[audit.USERS_FOR_HALF]
    assert isinstance(needed, int)
    assert detectable_gain(needed) <= figures[audit.GAIN_TOLD] / 2 < detectable_gain(needed - 1)


def test_span_figures_count_targets_seen_before():
    again = [0, 1, 2, 3, 1, 0, 0, 1, 2, 3, 4, 4]  # user 0 ends on what it had; user 1's last item is new to training
    sequences = build_sequences(table(USERS, again, TIMES), LeaveLast(1, 1), None, UserGroups())
    assert [span_figures(sequences, part)[SEEN] for part in ("validation", "test")] == [0.5, 0.5]


def test_leaks_count_test_events_seen_in_training():
    again = [0, 1, 2, 3, 1, 0, 0, 1, 2, 3, 4, 4]
    sequences = build_sequences(table(USERS, again, TIMES), LeaveLast(1, 1), None, UserGroups())
    longer = dataclasses.replace(sequences, train_count=np.diff(sequences.offset))
    assert leaks(longer, 50)["test events seen in training"] == 1
