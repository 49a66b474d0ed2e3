"""Update, retrain or leave: the rule, on figures whose answer is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from benchmarks.update.figures import DECISIVE, as_saved, difference, differences, figures, verdict
from benchmarks.update.run import Windows, used


def events(**mean: float) -> pl.DataFrame:
    """Test events of 300 users under rows whose NDCG differs by about as much as said."""
    random, parts = np.random.default_rng(0), []
    shared = random.random(900)
    for row, value in mean.items():
        ndcg = shared + value + random.normal(0, 0.05, 900)
        parts.append(pl.DataFrame({"user": np.arange(900) // 3, "event": np.arange(900), "ndcg": ndcg, "row": row}))
    return pl.concat(parts).with_columns(seed=0, window=1)


@pytest.mark.parametrize(
    ("mean", "said"),
    [
        ({"stale": 0.0, "update": 0.0, "retrain": 0.0}, "leave"),
        ({"stale": 0.1, "update": 0.0, "retrain": 0.0}, "leave"),
        ({"stale": 0.0, "update": 0.1, "retrain": 0.1}, "update"),
        ({"stale": 0.0, "update": 0.1, "retrain": 0.0}, "update"),
        ({"stale": 0.0, "update": 0.1, "retrain": 0.2}, "retrain"),
        ({"stale": 0.0, "update": -0.1, "retrain": 0.1}, "retrain"),
    ],
)
def test_the_verdict_follows_the_differences(mean: dict[str, float], said: str):
    ends = differences(events(**mean), DECISIVE)
    assert verdict(ends) == said
    saved = as_saved("world", "start/difference", ends, [0])
    assert saved["row"].to_list() == ["update - stale", "retrain - stale", "retrain - update"]
    assert saved["mean"].to_list() == [one.value for one in ends.values()]


def test_a_difference_pairs_events_and_its_interval_holds_it():
    found = difference(events(update=0.1, stale=0.0), "update", "stale")
    assert found.value == pytest.approx(0.1, abs=0.01)
    low, high = found.interval()
    assert low < found.value < high < low + 0.03


def test_figures_are_means_over_windows_by_kind_of_event():
    rows = [  # window, new user, new item, ndcg
        (1, False, False, 0.2),
        (1, True, False, 0.4),
        (2, False, False, 0.6),
        (2, False, True, 1.0),
    ]
    frame = pl.DataFrame(rows, schema=["window", "new user", "new item", "ndcg"], orient="row")
    frame = frame.with_columns(
        pl.lit("start").alias("stage"), pl.lit(3.5).alias("true@10"), pl.lit(2.0).alias("seconds")
    )
    found = figures(frame, "start")
    assert found == pytest.approx(
        {"all": (0.3 + 0.8) / 2, "known": 0.4, "new users": 0.4, "new items": 1.0, "true@10": 3.5, "seconds": 2.0}
    )


def test_windows_cut_by_time_and_ties_come_later():
    days = Windows(pl.DataFrame({"timestamp": [1, 2, 3, 3, 5, 6]}))
    assert days.until(0.5)["timestamp"].to_list() == [1, 2]
    assert days.until(1.0)["timestamp"].to_list() == [1, 2, 3, 3, 5, 6]


def test_a_log_begins_with_its_first_reward_and_has_the_share_of_users_that_is_asked_for():
    rows = [(user, 10 * day + user % 3, None if day < 4 else 1.0) for user in range(20) for day in range(9)]
    log = pl.DataFrame(rows, schema=["user", "timestamp", "reward"], orient="row")
    kept = used(log, 0.25, 0)
    assert kept["user"].n_unique() == 5
    assert kept.height == 5 * 5
    assert kept["timestamp"].is_sorted()
    assert kept["reward"].null_count() == 0
    assert set(kept["user"]) != set(used(log, 0.25, 1)["user"])
    assert used(log.with_columns(reward=pl.lit(1.0)), 1.0, 0).height == log.height
