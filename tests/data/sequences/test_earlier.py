"""A log that has grown: ids never move, old events stay what they were, and anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.data.events import LogMapping
from recalign.data.sequences import EventDataModule, High, LeaveLast, TimeSplit, Where
from recalign.data.sequences.earlier import EarlierLog, remember
from recalign.data.sequences.preparation import with_reward_settings
from recalign.errors import InputError

FIRST = [(u, (3 * u + 5 * t) % 11, t % 5 + 1.0, 100 * t + u) for u in range(8) for t in range(3 + u)]
COLUMNS = ["user", "item", "rating", "timestamp"]
Rows = list[tuple[int, int, float, int]]


def data(root: Path, rows: Rows, earlier: Path | None = None, **given) -> EventDataModule:
    """A DataModule over these rows, users 10 apart so that new ones come between."""
    root.mkdir(exist_ok=True)
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row").with_columns(pl.col("user") * 10, pl.col("item") * 10)
    frame.write_csv(root / "log.csv")
    asked = {"split": LeaveLast(1, 1), "share_a": 0.5, "high": High("reward >= 4"), "cache": False} | given
    mapping = {"name": "log", "files": ["log.csv"]} | asked.pop("log", {})
    return EventDataModule(
        LogMapping(**mapping), **{"reward": "rating"} | asked, root=str(root), grows_from=earlier and str(earlier)
    )


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    remember(data(tmp_path / "first", FIRST), tmp_path / "ids")
    return tmp_path / "ids"


def test_judges_may_have_another_reward_than_the_earlier_log(tmp_path: Path, ids: Path):
    own = data(tmp_path / "as", FIRST, ids)
    other = data(tmp_path / "later", FIRST, ids, reward="rating * 2", users="B1")
    assert other.sequences.reward.tolist() == [2 * one for one in own.sequences.reward]
    assert with_reward_settings(own, "rating * 2", None).sequences.reward.tolist() == other.sequences.reward.tolist()
    with pytest.raises(InputError, match=r"data\.reward: is 'rating \* 2', but the earlier log was read with another"):
        EarlierLog(str(ids)).require_same(other.log_, other.reward_settings)


event = st.tuples(st.integers(0, 12), st.integers(0, 15), st.integers(1, 5).map(float), st.integers(0, 50))


@settings(max_examples=30)
@given(
    added=st.lists(event, max_size=40),
    between=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 99)), max_size=10),
    split=st.sampled_from([LeaveLast(1, 1), LeaveLast(3, 2), TimeSplit((0.5, 0.7))]),
)
def test_grown_log_keeps_the_numbers_of_users_and_items(
    tmp_path_factory: pytest.TempPathFactory, added: Rows, between, split
):
    """Whatever comes: users between those known (5 is half of 10), items, events in any order of the file."""
    root = tmp_path_factory.mktemp("grown")
    before = data(root, FIRST, split=split)
    remember(before, root / "ids")
    later = [(u, i, r, 10_000 + t) for u, i, r, t in added]
    later += [(u + 0.5, i + 0.5, 3.0, t) for u, i in between for t in (0, 20_000)]
    frame = pl.DataFrame([*later, *FIRST], schema=COLUMNS, orient="row", infer_schema_length=None)
    root_b = root / "b"
    after = data(root_b, FIRST, root / "ids", split=split)
    whole = frame.with_columns((pl.col("user", "item") * 10).cast(pl.Int64)).sample(fraction=1, shuffle=True, seed=1)
    whole.write_csv(root_b / "log.csv")

    old, new = before.sequences, after.sequences
    assert new.users[: old.num_users].equals(old.users)
    assert new.items[: old.num_items].equals(old.items)
    assert new.group[: old.num_users].tolist() == old.group.tolist()
    assert sorted(new.users) == sorted(whole["user"].unique())
    assert new.frame["user"].is_sorted()
    for user in range(old.num_users):
        first = slice(new.offset[user], new.offset[user + 1])
        kept = new.item[first][new.item[first] <= old.num_items][: old.offset[user + 1] - old.offset[user]]
        assert sorted(kept) == sorted(old.item[old.offset[user] : old.offset[user + 1]])
        trained = new.frame.filter((pl.col("user") == user) & (pl.col("split") == 0))
        were = old.frame.filter((pl.col("user") == user) & (pl.col("split") == 0))
        key = pl.concat_str("item_id", "timestamp", "reward", separator=" ")
        assert set(were.select(key).to_series()) <= set(trained.select(key).to_series())


def test_grown_log_keeps_training_events_in_training(tmp_path: Path):
    """A user with as many events as are left out has them all in training; one more would take them back."""
    split = LeaveLast(2, 2)
    rows = [*FIRST, *((9, i, 3.0, 50 + i) for i in range(4))]
    before = data(tmp_path / "a", rows, split=split)
    remember(before, tmp_path / "ids")
    more = [*rows, (9, 9, 3.0, 9000)]
    user = pl.col("user") == 8
    assert data(tmp_path / "b", more, split=split).sequences.frame.filter(user)["split"].to_list() == [0, 1, 1, 2, 2]
    after = data(tmp_path / "b", more, tmp_path / "ids", split=split)
    assert after.sequences.frame.filter(user)["split"].to_list() == [0, 0, 0, 0, 2]


def test_tied_rows_in_another_order_stay_in_training(tmp_path: Path):
    rows = [*FIRST, *((9, i, 3.0, 50) for i in range(4))]
    before = data(tmp_path / "a", rows)
    remember(before, tmp_path / "ids")
    after = data(tmp_path / "b", [*rows[::-1], (9, 9, 3.0, 9000)], tmp_path / "ids")
    trained = [made.sequences.frame.filter((pl.col("split") == 0) & (pl.col("user") == 8)) for made in (before, after)]
    assert [len(frame) for frame in trained] == [2, 4]
    assert set(trained[0]["item"]) <= set(trained[1]["item"])


def test_new_events_of_the_same_floored_time_are_not_kept_in_training(tmp_path: Path):
    """Ties count at the file's resolution: else a log floored to days would lose the test events of its last day."""
    floored = {"log": {"time_resolution": 86_400}}
    remember(data(tmp_path / "a", FIRST, **floored), tmp_path / "ids")
    grown = [*FIRST, *((user, 3, 4.0, 5_000 + user) for user in range(8))]
    after = data(tmp_path / "b", grown, tmp_path / "ids", **floored).sequences.frame
    assert after.group_by("user").agg(pl.col("split").max())["split"].to_list() == [2] * 8


def test_rare_items_of_the_earlier_log_are_not_late(tmp_path: Path):
    rows = [*FIRST, (7, 99, 2.0, 3), (6, 98, 2.0, 3)]
    remember(data(tmp_path / "a", rows, min_events=2), tmp_path / "ids")
    grown = data(tmp_path / "b", [*rows, (7, 99, 3.0, 9000)], tmp_path / "ids", min_events=2)
    assert 990 not in grown.sequences.items
    more = data(tmp_path / "b", [*rows, (5, 99, 3.0, 3)], tmp_path / "ids", min_events=2)
    with pytest.raises(InputError, match="2 events are late: of new items, such as 990"):
        more.sequences  # noqa: B018


def test_grown_log_keeps_tie_groups_whole_in_training(tmp_path: Path):
    split, user = LeaveLast(2, 2), pl.col("user") == 8
    rows = [*FIRST, *((9, i, 3.0, 50 + i) for i in range(4))]
    before = data(tmp_path / "a", rows, split=split, ties="together")
    remember(before, tmp_path / "ids")
    more = [*rows, *((9, i, 3.0, 53 + 1000 * (i > 5)) for i in range(5, 9))]
    after = data(tmp_path / "b", more, tmp_path / "ids", split=split, ties="together")
    assert after.sequences.frame.filter(user)["split"].to_list() == [0] * 5 + [2] * 3


def test_grown_log_keeps_items_that_have_become_rare(tmp_path: Path):
    """`min_events` counts again, and an item may have fewer than it needs now."""
    before = data(tmp_path / "a", FIRST)
    remember(before, tmp_path / "ids")
    after = data(tmp_path / "b", FIRST, tmp_path / "ids", min_events=4)
    assert after.sequences.items.equals(before.sequences.items)
    assert data(tmp_path / "b", FIRST, min_events=4).sequences.num_items < before.sequences.num_items


def test_untouched_is_the_trained_share_of_users_without_new_events(tmp_path: Path, ids: Path):
    more = [*FIRST, *((u, 1, 3.0, 9000 + t) for u in (2, 3) for t in range(3))]
    all_of_them, none = (data(tmp_path / "n", more, ids, untouched=share).training() for share in (1.0, 0.0))
    assert set(none.user) == {2, 3} < set(all_of_them.user)
    some = data(tmp_path / "n", more, ids, untouched=0.5, seed=1).training()
    assert {2, 3} < set(some.user) < set(all_of_them.user)
    with pytest.raises(InputError, match=r"1\.5 is not from 0 to 1"):
        data(tmp_path / "n", more, ids, untouched=1.5)


def without(*lost: Callable[[tuple], bool]) -> Rows:
    return [row for row in FIRST if not any(one(row) for one in lost)]


@pytest.mark.parametrize(
    ("rows", "given", "said"),
    [
        (without(lambda row: row[0] == 3), {}, "lacks 1 of the earlier log's 8 users, such as 30"),
        (without(lambda row: row[1] == 5), {}, "lacks 1 of the earlier log's .* items, such as 50"),
        (without(lambda row: row == FIRST[4]), {}, "the first events of some users differ"),
        ([*FIRST, (4, 5, 2.0, 3)], {}, "the first events of some users differ"),
        ([*FIRST, (7, 99, 2.0, 3)], {}, "1 events are late: of new items, such as 990, but before events that were"),
        ([(*FIRST[0][:2], 5.0, FIRST[0][3]), *FIRST[1:]], {}, "earlier events have other rewards here"),
        (FIRST, {"reward": "rating * 2"}, "data.reward: is 'rating . 2', but the earlier log was"),
        (FIRST, {"share_a": 0.6}, "data.share_a: is 0.6, but the earlier log was"),
        (FIRST, {"ties": "together"}, "data.ties: is 'together', but the earlier log was"),
        (FIRST, {"log": {"time_resolution": 60}}, "data.log.time_resolution: is 60, but the earlier log was"),
        (FIRST, {"log": {"user": "item", "item": "user"}}, "data.log.user: is 'item', but the earlier log was"),
    ],
    ids=["user", "item", "event", "late", "late-new", "rewards", "expression", "groups", "ties", "time", "columns"],
)
def test_grown_log_with_changed_events_or_settings_is_refused(tmp_path: Path, ids: Path, rows: Rows, given, said: str):
    grown = data(tmp_path / "next", rows, ids, **given)
    with pytest.raises(InputError, match=said):
        grown.sequences  # noqa: B018


def test_grown_log_with_ids_of_another_type_is_refused(tmp_path: Path, ids: Path):
    grown = data(tmp_path / "next", FIRST, ids)
    pl.read_csv(tmp_path / "next/log.csv").with_columns(pl.format("u{}", "user").alias("user")).write_csv(
        tmp_path / "next/log.csv"
    )
    with pytest.raises(InputError, match="ids of users are String in this log, but Int64 in the earlier log"):
        grown.sequences  # noqa: B018


def test_logs_whose_split_does_not_follow_time_cannot_be_continued(tmp_path: Path):
    remember(data(tmp_path / "a", FIRST, split=Where("rating >= 5", 0.2)), tmp_path / "ids")
    with pytest.raises(InputError, match="its split does not follow time, so no log can continue this one"):
        data(tmp_path / "b", FIRST, tmp_path / "ids").sequences  # noqa: B018


def test_remember_keeps_a_fresh_folder_and_altered_ones_are_refused(tmp_path: Path, ids: Path):
    made = (ids / "users.arrow").stat().st_mtime_ns
    remember(data(tmp_path / "first", FIRST), ids)
    assert (ids / "users.arrow").stat().st_mtime_ns == made
    (ids / "users.arrow").write_bytes(b"")
    with pytest.raises(InputError, match=r"users\.arrow: missing, or its SHA-256 has changed"):
        data(tmp_path / "next", FIRST, ids).sequences  # noqa: B018
    with pytest.raises(InputError, match=r"it has no digests\.json"):
        data(tmp_path / "next", FIRST, tmp_path / "nowhere").sequences  # noqa: B018


def test_fingerprint_includes_the_earlier_log(tmp_path: Path, ids: Path):
    plain, grown = data(tmp_path / "first", FIRST), data(tmp_path / "first", FIRST, ids, cache=str(tmp_path / "cache"))
    assert plain.fingerprint != grown.fingerprint
    made = grown.sequences
    again = data(tmp_path / "first", FIRST, ids, cache=str(tmp_path / "cache")).sequences
    assert isinstance(again.item.base, np.memmap) or isinstance(again.item, np.memmap)
    assert again.users.equals(made.users)
    assert again.fingerprint == grown.fingerprint == replace(made).fingerprint
