"""Rows that were shown and not chosen: what is kept of them, where they stand, and that histories have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recalign.data.events import LogMapping
from recalign.data.sequences import EventDataModule, LeaveLast, TimeSplit
from recalign.data.sequences.audit import audit_log, verdict
from recalign.data.sequences.batch import collate
from recalign.data.sequences.windows import shown_training_windows
from recalign.errors import InputError

ROWS = pl.DataFrame(
    {
        # user 1's requests: a, not b; c, not a; neither b nor c; b, not c; a, not b
        "user": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2],
        "item": ["a", "b", "c", "a", "b", "c", "b", "c", "a", "b", "a", "c", "c"],
        "timestamp": [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1, 2, 2],
        "click": [1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1, None],
        "stars": [5, None, 3, 1, None, None, 4, None, 2, 1, 3, 4, 5],
    }
)
SETTINGS: dict[str, Any] = {"reward": "stars", "high": None, "share_a": 1.0, "cache": False}


def data_of(folder: Path, rows: pl.DataFrame = ROWS, split: Any = None, chosen: str | None = "click = 1", **log: Any):
    rows.write_parquet(folder / "log.parquet")
    mapping = LogMapping("test", ["log.parquet"], chosen=chosen, **log)
    return EventDataModule(mapping, root=str(folder), split=split or LeaveLast(1, 1), **SETTINGS)


def skipped_of(data: EventDataModule) -> list[tuple[Any, ...]]:
    made = data.sequences
    rows = made.skipped.with_columns(item=data.table.items.gather(made.skipped["item"]))
    return rows.select("item", "timestamp", "split", "known_before", "event").rows()


def test_histories_and_targets_use_chosen_rows_only(tmp_path):
    shown = data_of(tmp_path).sequences
    alone = data_of(tmp_path, ROWS.filter(pl.col("click") == 1), chosen=None).sequences
    for name in ("item", "time", "reward", "event", "offset", "train_count"):
        assert np.array_equal(getattr(shown, name), getattr(alone, name), equal_nan=name == "reward")
    assert shown.frame.drop("request", "row").equals(alone.frame.drop("row"))
    assert shown.catalogue == alone.catalogue
    unknown = [count for reason, count in shown.report.left_out().items() if "click = 1" in reason]
    assert unknown == [1]


def test_skipped_row_has_split_and_history_of_its_request(tmp_path):
    # of user 1's four choices the first two train, the third validates, the fourth tests; nobody chose b in training
    assert skipped_of(data_of(tmp_path)) == [("a", 2, 0, 1, 6), ("c", 3, 0, 2, 7), ("c", 4, 1, 2, 8), ("b", 5, 2, 2, 9)]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ({}, []),
        ({"passed_reward": 9.0}, ["rows shown but not chosen have a mean reward of 6.33, chosen rows of 3.5"]),
        (
            {"request": "item || cast(click as varchar)"},
            ["no request has both a chosen row and one shown but not chosen"],
        ),
    ],
)
def test_check_warns_of_odd_rewards_and_requests_of_shown_rows(tmp_path, log, said):
    concerns = str(verdict(audit_log(data_of(tmp_path, **log)), "s")).split("\n")
    odd = [one for one in concerns if "shown but not chosen" in one]
    assert [what in one for what, one in zip(said, odd, strict=True)] == [True] * len(said)


def test_skipped_rows_in_a_log_without_times_are_refused(tmp_path):
    with pytest.raises(InputError, match="no timestamp"):
        data_of(tmp_path, timestamp=None).sequences  # noqa: B018


def test_time_split_cuts_skipped_rows_at_the_same_times(tmp_path):
    rows = skipped_of(data_of(tmp_path, split=TimeSplit(("1970-01-01T00:00:03+00:00", 0.9))))  # 5 is the second cut
    assert [row[:4] for row in rows] == [("a", 2, 0, 1), ("b", 3, 1, 2), ("c", 3, 1, 2), ("c", 4, 1, 2), ("b", 5, 2, 2)]


def test_request_ids_may_be_text(tmp_path):
    page = pl.Series(["x", "x", "y", "y", "y", "y", "z", "z", None, None])
    rows = ROWS.head(10).with_columns(pl.Series("item", list("abcabaabab")), page=page)
    made = data_of(tmp_path, rows, request="page").sequences
    assert made.skipped.filter(timestamp=3)["known_before"].to_list() == [1]  # of a; its page began at 2
    assert made.impressions.filter(pl.col("timestamp") >= 4).group_by("request").len()["len"].to_list() == [2, 2]


def test_impressions_beside_a_click_on_the_item_are_not_skipped(tmp_path):
    """As in logs of event types; the columns have the names that such logs have."""
    shown = ROWS.head(10).with_columns(clicked=pl.lit("impression"), page=pl.col("timestamp"))
    clicks = shown.filter(click=1).with_columns(clicked=pl.lit("click"))
    both = pl.concat([shown, clicks])
    made = data_of(tmp_path, both, chosen="clicked = 'click'", request="page").sequences
    alone = data_of(tmp_path, ROWS.head(10)).sequences
    kept = ["user", "item", "timestamp", "split", "known_before"]
    assert made.skipped.select(kept).equals(alone.skipped.select(kept))
    assert [count for why, count in made.report.left_out().items() if "same request" in why] == [4]


def test_passed_reward_fills_only_null_rewards_of_skipped_rows(tmp_path):
    made = data_of(tmp_path, passed_reward=-1.0).sequences
    assert made.skipped["reward"].to_list() == [1, -1, -1, 1]
    assert data_of(tmp_path).sequences.skipped["reward"].to_list() == [1, None, None, 1]


def test_skipped_targets_adds_skipped_rows_as_targets(tmp_path):
    data = data_of(tmp_path)
    assert data.training().in_memory().event.tolist() == [1, 5]  # the second choice of either user
    data.skipped_targets = ("train", "test")
    windows, test = data.training(), data.windows("test")
    assert (windows.event.tolist(), windows.state.tolist()) == ([1, 6, 7, 5], [0, 0, 1, 3])
    assert (windows.start.tolist(), windows.stop.tolist()) == ([0, 3], [2, 5])
    assert test.event.tolist() == [3, 9]
    assert data.windows("validation").event.tolist() == [2]
    for read in (windows, test):
        own = data.sequences.impressions[read.event]
        assert (data.sequences.time[read.state] < own["timestamp"].to_numpy()).all()
        assert np.array_equal(read.target, own["item_id"].to_numpy())
    data.max_length = 1
    assert (data.training().event.tolist(), data.training().start.tolist()) == ([7], [1])  # the newest state alone


def test_chosen_target_has_its_own_request_time_beside_skipped_ones(tmp_path):
    later = {"user": [1, 1], "item": ["c", "b"], "timestamp": [6, 7], "click": [1, 1], "stars": [1, 2]}
    rows = pl.concat(
        [ROWS.filter(pl.struct("item", "timestamp") != {"item": "c", "timestamp": 4}), pl.DataFrame(later)]
    )
    data = data_of(tmp_path, rows)
    windows = shown_training_windows(data.sequences, data.sequences.users_in("all"), 8)
    batch = collate(data.sequences, windows, np.arange(len(windows)), 8, know_request=True, seen=False)
    asked = batch.request_time_BL[batch.row_T, batch.column_T]
    of_user = {int(event): int(time) for event, time in zip(batch.event_T, asked, strict=True)}
    assert [of_user[event] for event in (1, 2)] == [2, 4]


def test_cache_keeps_skipped_rows(tmp_path):
    first, second = data_of(tmp_path), data_of(tmp_path)
    first.cache = second.cache = str(tmp_path / "cache")
    assert second.sequences.skipped.equals(first.sequences.skipped)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("chosen", "place"), [("click >= 0", "every row"), ("click = 7", "no row"), ("click + 1", "not a condition")]
)
def test_chosen_that_is_true_for_no_or_every_row_is_refused(tmp_path, chosen, place):
    with pytest.raises(InputError, match=place) as caught:
        data_of(tmp_path, chosen=chosen).sequences  # noqa: B018
    assert caught.value.where == "data.log.chosen"
    assert caught.value.remedy


def test_request_without_chosen_is_refused(tmp_path):
    with pytest.raises(InputError, match="request is set, but chosen is not"):
        data_of(tmp_path, chosen=None, request="page")


def test_ties_together_make_a_request_one_tie_group(tmp_path):
    both = ROWS.head(10).with_columns(click=pl.Series([1, 1, 1, 0, 0, 0, 1, 1, 1, 0]))
    data = data_of(tmp_path, both)
    data.ties = "together"
    made = data.sequences
    assert made.frame["known_before"].to_list() == [0, 0, 2, 3, 3, 5]  # b and c of one request, a and b of the first
    assert made.skipped.select("timestamp", "known_before").rows() == [(2, 2), (3, 3), (3, 3), (5, 5)]
