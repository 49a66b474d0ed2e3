from __future__ import annotations

import dataclasses

import pytest
import small

from recalign.sequences import EventDataModule, High, LeaveLast, TimeSplit, UserGroups, build
from recalign.sequences.audit import audit_log, leaks, split_figures

from .tables import table

DAY = 86_400
USERS, ITEMS = [0] * 6 + [1] * 6, [0, 1, 2, 3, 4, 9, 5, 0, 1, 2, 3, 4]
TIMES = [DAY * t for t in [*range(6), *range(6)]]


@pytest.fixture
def sequences():
    return build(table(USERS, ITEMS, TIMES), LeaveLast(1, 1), High("reward >= 4"), UserGroups())


def test_a_sound_division_has_no_leaks(sequences):
    assert set(leaks(sequences, 50).values()) == {"0"}


def test_future_events_in_a_history_are_found(sequences):
    late = dataclasses.replace(sequences, time=sequences.time[::-1].copy())
    assert leaks(late, 50)["future events in a history"] != "0"


def test_a_target_in_its_own_history_is_found(sequences):
    shifted = dataclasses.replace(sequences, event=sequences.event + 1)
    assert leaks(shifted, 50)["targets in their own history"] != "0"


def test_a_test_before_the_end_of_training_is_found(sequences):
    frame = sequences.frame
    backwards = dataclasses.replace(sequences, frame=frame.with_columns(frame["split"].reverse()))
    assert int(leaks(backwards, 50)["test events before the end of training"]) == 2


def test_figures_by_hand(sequences):
    figures = split_figures(sequences, 4)
    assert figures["train"] == "8 events of 2 users, 1970-01-01 .. 1970-01-04"
    assert figures["test"] == "2 events of 2 users, 1970-01-06 .. 1970-01-06"
    assert figures["catalogue"] == "5 items in training"
    assert figures["cold items, validation"].startswith("1 items unseen in training, 50.00% of the targets")
    assert figures["cold items, test"].startswith("2 items unseen in training, 100.00% of the targets")
    assert figures["high rewards"] == f"{5 / 12:.1%} of the events"
    assert figures["users left out"].startswith("0 ")
    assert figures["long histories"].startswith("up to 5 events; a model sees the newest 4")
    assert "long histories" not in split_figures(sequences, 5)


def test_users_without_a_past_are_counted():
    users, times = [0] * 8 + [1] * 2, [*range(8), 8, 9]
    sequences = build(table(users, [0, 1, 0, 1, 0, 1, 0, 1, 0, 1], times), TimeSplit((0.5, 0.7)), None, UserGroups())
    assert split_figures(sequences, 50)["users left out"].startswith("1 ")


def test_all_sections_are_there(log_root):
    data = small.data_of(EventDataModule, log_root)
    sections = audit_log(data.table, data.sequences, data.max_length)
    assert list(sections)[-2:] == ["split", "leaks (all must be 0)"]
    assert len(sections) > 2
    assert set(sections["leaks (all must be 0)"].values()) == {"0"}
