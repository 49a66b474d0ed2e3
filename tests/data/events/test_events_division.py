"""The split and the high rewards of a log of which nobody said them."""

from __future__ import annotations

import polars as pl
import pytest

from recalign.data.events.division import collapse_and_divide, divide


def users(*counts: int) -> pl.Series:
    """The user of each event, from the events of each user."""
    return pl.Series([user for user, count in enumerate(counts) for _ in range(count)])


def divided(*counts: int):
    user = users(*counts)
    return divide(user, pl.Series(range(len(user)), dtype=pl.Float64))


@pytest.mark.parametrize(
    ("events", "test", "validation"),
    [(3, 1, 1), (4, 1, 1), (9, 1, 1), (10, 1, 2), (15, 1, 3), (20, 2, 3), (40, 4, 3), (80, 8, 4), (500, 10, 5)],
)
def test_split_sizes_follow_the_median_user(events: int, test: int, validation: int):
    found = divided(*[events] * 40)
    assert (found.test, found.validation, found.tested) == (test, validation, 40)
    assert found.left == events - test - validation


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ([1] * 900 + [2] * 900 + [20] * 100, (2, 3, 1900, 100, 15)),  # users too short for any test do not count
        ([6] * 40 + [20] * 60, (1, 2, 100, 100, 17)),  # (2, 3) would leave 60 users three training events
        ([2] * 10 + [3] * 20 + [6] * 30, (1, 1, 60, 50, 4)),
    ],
)
def test_divide_counts_users_and_tested_users(counts: list[int], found: tuple[int, ...]):
    division = divided(*counts)
    assert (division.test, division.validation, division.users, division.tested, division.left) == found
    assert f"{found[3]} of {found[2]:,} users have test events" in str(division)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([5] * 20, None),
        ([5] * 19, "cannot be measured: 19 users"),
        ([2] * 500, "cannot be measured: 0 users"),
        ([3] * 500, "nothing can be learned"),
    ],
)
def test_divide_says_why_a_log_cannot_be_measured(counts: list[int], said: str | None):
    cannot = divided(*counts).cannot
    assert cannot is None if said is None else said in str(cannot)


def test_suggestion_settings_are_yaml_values():
    assert divided(*[20] * 40).settings == {
        "high": {"expression": None, "quantile": 0.75},
        "split": {"class_path": "recalign.data.sequences.LeaveLast", "init_args": {"test": 2, "validation": 3}},
    }
    grades = divide(users(3, 3), pl.Series([1.0, 2, 3, 1, 2, None]))
    assert grades.settings["high"] == {"expression": "reward >= 3", "quantile": None}
    assert divide(users(3), pl.Series([None] * 3, dtype=pl.Float64)).high is None


@pytest.mark.parametrize(
    ("reward", "given", "collapse"),
    [
        ("CASE event WHEN 'view' THEN 0 END", None, True),
        (" case\nwhen event = 'view' then 0 end", None, True),
        ("casement", None, False),
        ("case", None, False),
        ("CASE event WHEN 'view' THEN 0 END", False, False),
        ("rating", True, True),
        (None, True, True),
    ],
)
def test_collapse_and_divide_splits_the_remaining_events(reward: str | None, given: bool | None, collapse: bool):
    """Twenty users of five items, and of a second event on each."""
    user, worth = users(*[10] * 20), pl.Series([0.0, 1.0] * 100) if reward else pl.repeat(None, 200, eager=True)
    events = pl.DataFrame({"user": user, "item": pl.Series([0, 0, 1, 1, 2, 2, 3, 3, 4, 4] * 20), "reward": worth})
    found, division = collapse_and_divide(events, reward, given)
    assert (found, division.left) == (collapse, 3 if collapse else 7)
