from __future__ import annotations

import dataclasses
import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import EventDataModule, High, LeaveLast, RelativeTo, TimeSplit, UserGroups, Where
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION, stable_hash
from recalign.errors import InputError

from .tables import table


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 3))
def test_leave_last_takes_the_last_events_of_each_user(counts, test, validation):
    users = [u for u, n in enumerate(counts) for _ in range(n)]
    times = [t for n in counts for t in range(n)]
    split = LeaveLast(test, validation).assign(table(users, times, times)).to_list()
    first = 0
    for n in counts:
        parts = split[first : first + n]
        if n <= test + validation:
            assert parts == [TRAIN] * n
        else:
            assert parts == [TRAIN] * (n - test - validation) + [VALIDATION] * validation + [TEST] * test
        first += n


@given(st.lists(st.integers(0, 50), min_size=5, max_size=60))
def test_time_split_keeps_simultaneous_events_together(times):
    times = sorted(times)
    events = table([0] * len(times), list(range(len(times))), times)
    split = TimeSplit((0.5, 0.8)).assign(events).to_list()
    assert split == sorted(split)
    assert all(len({s for s, u in zip(split, times, strict=True) if u == t}) == 1 for t in times)


def test_time_split_at_moments():
    events = table([0, 0, 0], [0, 1, 2], [86_399, 86_400, 200_000])
    split = TimeSplit(("1970-01-02T00:00:00+00:00", "1970-01-03T02:00:00+02:00")).assign(events)
    assert split.to_list() == [TRAIN, VALIDATION, TEST]


@pytest.mark.parametrize("cuts", [("1970-01-02T00:00:00", 0.9), (0.9, 0.1), ("soon", 0.9), (0, 0.9), (0.1, 1.0)])
def test_bad_cuts_are_named(cuts):
    with pytest.raises(InputError, match=r"data\.split\.cuts"):
        TimeSplit(cuts).assign(table([0, 0, 0], [0, 1, 2], [1, 2, 3]))


def test_leave_last_needs_times():
    events = table([0, 0], [0, 1], [1, 2], has_time=False)
    for split in (LeaveLast(), TimeSplit()):
        with pytest.raises(InputError, match="no timestamp"):
            split.assign(events)


def test_where_tests_on_events_that_meet_the_condition():
    events = table([0] * 200, list(range(200)), list(range(200)), is_random=[i % 2 == 0 for i in range(200)])
    split = Where("is_random", 0.2).assign(events).to_list()
    assert all((s == TEST) == (i % 2 == 0) for i, s in enumerate(split))
    assert 5 < split.count(VALIDATION) < 40
    for reads in ("item < 3", "timestamp > 5", '"user" = 1'):  # numbers of recalign's, not the file's
        with pytest.raises(InputError, match="which recalign reserves for its own columns"):
            Where(reads).assign(events)
        with pytest.raises(InputError, match="which recalign reserves for its own columns"):
            High(reads).mark(events.frame)


def test_user_groups_depend_on_the_id_alone():
    ids = pl.Series([f"user {i}" for i in range(5000)])
    groups = UserGroups(0.7).assign(ids)
    assert groups.to_list()[::-1] == UserGroups(0.7).assign(ids.reverse()).to_list()
    shares = dict(groups.value_counts(normalize=True).iter_rows())
    assert shares["A"] == pytest.approx(0.7, abs=0.03)
    assert shares["B1"] == pytest.approx(0.15, abs=0.02)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.text(max_size=200)))
def test_stable_hash_equals_hashlib(raw):
    """Groups must not change with a version."""
    ids = pl.Series(raw, dtype=pl.Int64 if raw and isinstance(raw[0], int) else pl.String)
    one_by_one = [int.from_bytes(hashlib.blake2b(str(x).encode(), digest_size=6).digest(), "big") / 2**48 for x in raw]
    assert stable_hash(ids).tolist() == one_by_one
    assert stable_hash(pl.Series(["1"])).tolist() == [0.9208408396080188]


def test_high_by_quantile_within_bins_uses_training_rows_only():
    frame = pl.DataFrame(
        {
            "reward": [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0, 1000.0, 3.5],
            "duration": [1, 1, 1, 1, 9, 9, 9, 9, 9, 1],
            "split": [TRAIN] * 8 + [TEST, TEST],
        }
    )
    high = High(quantile=0.75, within="duration", bins=2).mark(frame).to_list()
    assert high == [False, False, False, True, False, False, False, True, True, True]


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_events_without_a_bin_are_not_high_and_change_no_limit(nothing):
    duration = [1.0, 1.0, 9.0, 9.0, nothing, nothing]
    frame = pl.DataFrame({"reward": [1.0, 2.0, 30.0, 40.0, 99.0, 35.0], "duration": duration, "split": [TRAIN] * 6})
    high = High(quantile=0.75, within="duration", bins=2).mark(frame).to_list()
    assert high == [False, True, False, True, False, False]


@pytest.mark.parametrize("reward", [[5.0, 1.0], ["yes", "no"], [2, 0]])
def test_high_expression_marks_events_that_meet_it(reward):
    frame = pl.DataFrame({"reward": reward, "split": [TRAIN] * 2})
    with pytest.raises(InputError, match=r"data\.high\.expression: 'reward' is of type .* not a condition"):
        High("reward").mark(frame)
    assert High("reward").mark(pl.DataFrame({"reward": [1, 0, None]})).to_list() == [True, False, False]


@pytest.mark.parametrize(
    ("kind", "setting", "key"),
    [
        (EventDataModule, {"share_a": 1.5}, "data.share_a"),
        (EventDataModule, {"seed": -1}, "data.seed"),
        (Where, {"validation": 5.0}, "data.split.validation"),
        (LeaveLast, {"test": -1}, "data.split.test"),
        (High, {"quantile": 1.0}, "data.high.quantile"),
        (High, {"quantile": 0.5, "bins": 0}, "data.high.bins"),
        (RelativeTo, {"column": "length", "bins": 0}, "data.relative_to.bins"),
    ],
)
def test_split_settings_out_of_range_are_refused(kind, setting, key):
    with pytest.raises(InputError) as caught:
        kind(**setting)
    assert caught.value.where == key


def test_high_with_expression_and_quantile_is_refused():
    for rules in ({"expression": "reward >= 4", "quantile": 0.5}, {}):
        with pytest.raises(InputError, match=r"data\.high: "):
            High(**rules)


def test_high_cannot_read_a_column_named_split():
    frame = pl.DataFrame({"reward": [1.0, 2.0], "split": [0, 1]})
    with pytest.raises(InputError, match="'split = 1' reads split, which recalign reserves for its own columns"):
        High("split = 1").mark(frame)
    with pytest.raises(InputError, match=r"data\.high\.within: 'split' reads split"):
        High(quantile=0.5, within="split").mark(frame)
    with pytest.raises(InputError, match=r"data\.relative_to\.column: 'split' reads split"):
        RelativeTo("split").ranks(frame)


def test_time_cuts_are_floored_to_the_resolution():
    events = table([0, 0, 0], [0, 1, 2], [0, 86_400, 172_800])  # days; the real times may lie after 16:00
    events = dataclasses.replace(events, resolution=86_400)
    cuts = "1970-01-02T00:00:00+08:00", "1970-01-03T16:00:00+00:00"
    assert TimeSplit(cuts).assign(events).to_list() == [VALIDATION, VALIDATION, TEST]
    cuts = "1970-01-02T16:00:00+00:00", "1970-01-03T16:00:00+00:00"
    assert TimeSplit(cuts).assign(events).to_list() == [TRAIN, VALIDATION, TEST]
