"""The figures of `recalign check`."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recalign.data.events import LogMapping, audit, load_events, render
from recalign.data.events.audit import TIES, auc, gap_auc, histogram


def table(tmp_path, frame, reward="stars", **log):
    pl.DataFrame(frame).write_parquet(tmp_path / "log.parquet")
    return load_events(LogMapping("test", ["log.parquet"], **log), tmp_path, reward)


@pytest.fixture
def small(tmp_path):
    return table(
        tmp_path,
        {
            "user": [1, 1, 1, 1, 2],
            "item": [1, 1, 1, 2, 1],
            "timestamp": [86400, 86400, 90000, 90000, 5],
            "stars": [1, 2, None, 2, 5],
        },
    )


def test_audit_counts_rows_users_items_and_repeats(small):
    found = audit(small)
    assert found["log"] == {
        "rows read": 5,
        "events": 5,
        "users": 2,
        "items": 2,
        "share of all (user, item) pairs seen": 0.75,
        "first event": "1970-01-01 00:00:05 UTC",
        "last event": "1970-01-02 01:00:00 UTC",
    }
    assert list(found["rows left out, or without a reward"].values()) == [1]
    assert found["nulls by column"] == {"reward": 1, "stars": 1}
    assert list(found["repeated items and times"].values()) == [2, 1, 0, 0.8]
    assert (found["events per user"]["min"], found["events per user"]["max"]) == (1, 4)
    assert (found["events per item"]["min"], found["events per item"]["max"]) == (1, 4)
    assert found["reward"]["events with a reward"] == 4
    assert found["reward"]["mean"] == 2.5
    assert found["reward histogram"] == {"1": 1, "2": 2, "5": 1}


def test_audit_omits_figures_of_missing_times_and_rewards(tmp_path):
    found = audit(table(tmp_path, {"user": [1, 1], "item": [1, 2]}, None, timestamp=None))
    assert "reward" not in found
    assert "first event" not in found["log"]
    assert len(found["repeated items and times"]) == 1
    assert "reward" in render(found)  # its column is null


def test_render_formats_sections_as_text(small):
    found = audit(small) | {"more": {"leaks": 1234567, "cold": 0.25}, "none": {}}
    text = render(found)
    assert "1,234,567  leaks" in text
    assert "0.25  cold" in text
    assert "none" not in text
    assert "row 3 of" in text
    assert all(len(line) < 250 for line in text.splitlines())


def test_histogram_of_many_values():
    values = pl.Series("reward", np.linspace(0, 1, 101))
    found = histogram(values)
    assert len(found) == 10
    assert sum(found.values()) == 101
    assert found["0 to 0.1"] == 10
    assert found["0.9 to 1"] == 11


def test_auc_against_its_definition():
    random = np.random.default_rng(0)
    score, positive = random.integers(0, 5, 60), random.random(60) < 0.4
    wins = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert auc(pl.DataFrame({"score": score, "positive": positive})) == pytest.approx(np.mean(wins))
    assert auc(pl.DataFrame({"score": [1.0], "positive": [True]})) is None


def clocked(leak: str) -> pl.DataFrame:
    """A log of 300 users in which the time to the event before, the one after, or neither, tells the reward."""
    random = np.random.default_rng(1)
    parts = []
    for user in range(300):
        stars = random.integers(1, 5, 60).astype(float)
        gap = random.exponential(1000, 60).round() + 1
        if leak == "before":
            gap[stars >= 3] /= 10
        if leak == "after":
            gap[1:][stars[:-1] >= 3] *= 10
        time = np.cumsum(gap)
        if leak == "filled in":
            low = np.flatnonzero(stars[1:-1] <= 2) + 1
            time[low] = (time[low - 1] + time[low + 1]) / 2
        parts.append(pl.DataFrame({"user": user, "timestamp": time.round().astype(int), "reward": stars}))
    return pl.concat(parts)


@pytest.mark.parametrize(("leak", "least"), [("before", 0.8), ("after", 0.8), ("filled in", 0.65), ("nothing", 0.5)])
def test_gap_auc_detects_rewards_leaked_by_times(leak, least):
    frame = clocked(leak)
    assert gap_auc(frame) > least
    assert leak != "nothing" or gap_auc(frame) == pytest.approx(0.5, abs=0.02)
    assert gap_auc(frame.with_columns(pl.col("reward").shuffle(seed=0))) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_binary_rewards_have_two_halves_whatever_their_share(share):
    frame = clocked("nothing").with_columns(
        reward=(pl.int_range(pl.len()) % 10 < share * 10).cast(pl.Float64), timestamp=pl.int_range(pl.len()) ** 2
    )
    assert gap_auc(frame) is not None


@pytest.mark.parametrize(("unit", "share"), [("s", 0.5), ("ms", 0.0)])
def test_ties_are_counted_at_the_resolution_of_the_file(tmp_path, unit, share):
    """Four events, the first two within a second; in seconds they are a tie."""
    moments = [1_600_000_000_100, 1_600_000_000_900, 1_600_000_060_000, 1_600_000_120_000]
    times = [moment // (1000 if unit == "s" else 1) for moment in moments]
    frame = pl.DataFrame({"user": [1] * 4, "item": [1, 2, 3, 4], "rating": [1, 2, 3, 4], "timestamp": times})
    frame.write_csv(tmp_path / "log.csv")
    log = LogMapping(name="ties", files=["log.csv"], time_unit=unit, time_resolution=600)
    assert audit(load_events(log, tmp_path, "rating"))["repeated items and times"][TIES] == share


@pytest.mark.parametrize("values", [[1_000_001.0, 1_000_002.0, 1_000_002.0], [100_000.0 + n for n in range(20)]])
def test_histogram_counts_every_event_of_close_values(values):
    assert sum(histogram(pl.Series(values)).values()) == len(values)


def test_audit_counts_requests_chosen_and_skipped_rows(tmp_path):
    rows = {"user": [1, 1, 1, 1, 2], "item": [1, 2, 3, 1, 1], "timestamp": [5, 5, 6, 7, 5], "stars": [1, 4, None, 3, 5]}
    found = audit(table(tmp_path, rows | {"click": [1, 0, 0, 0, 1]}, chosen="click = 1"))
    assert list(found["shown"].values()) == [2, 3, 4, 2, 1, 2, 3.0, 3.5]
    assert found["log"]["events"] == 2
    assert "shown" not in audit(table(tmp_path, rows))
