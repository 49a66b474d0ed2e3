"""Logs in, one checked table out; and one clear message for each log that cannot be one."""

from __future__ import annotations

from datetime import UTC, datetime, time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recalign.data.events import LogMapping, fingerprint, load_events
from recalign.data.events.rows import TIED, Report
from recalign.errors import InputError

RATINGS = {"user": [2, 1, 2, 1], "item": [7, 7, 9, 8], "timestamp": [50, 10, 40, 10], "stars": [1, 2, None, 5]}
FILES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(root: Path, frame: pl.DataFrame | dict | str, reward: str | None = "stars", kind: str = "parquet", **log):
    """Write a log and read it back."""
    path = root / f"log.{kind}"
    if isinstance(frame, str):
        path.write_text(frame, encoding="utf-8")
    else:
        frame = pl.DataFrame(frame)
        frame.write_parquet(path) if kind == "parquet" else frame.write_csv(path)
    return load_events(LogMapping("test", [path.name], **log), root, reward)


def refused(root: Path, *args, **kwargs) -> str:
    """The message of the error that loading ends with."""
    with pytest.raises(InputError) as caught:
        load(root, *args, **kwargs)
    assert caught.value.where
    assert caught.value.remedy
    return str(caught.value)


def test_load_events_returns_the_checked_table(tmp_path):
    table = load(tmp_path, RATINGS)
    assert table.frame.schema == {
        "user": pl.UInt32,
        "item": pl.UInt32,
        "timestamp": pl.Int64,
        "row": pl.UInt32,
        "reward": pl.Float64,
        "stars": pl.Int64,
        TIED: pl.Boolean,
    }
    assert table.frame.drop(TIED).rows() == [
        (0, 0, 10, 2, 2.0, 2),
        (0, 1, 10, 4, 5.0, 5),
        (1, 2, 40, 3, None, None),
        (1, 0, 50, 1, 1.0, 1),
    ]
    assert table.users.to_list() == [1, 2]
    assert table.items.to_list() == [7, 8, 9]
    assert table.has_time


@FILES
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.integers(0, 5)), min_size=1, max_size=60))
def test_events_are_ordered_before_times_are_floored(tmp_path, events):
    """By (user, moment as the file has it, row), whatever the resolution."""
    frame = pl.DataFrame(events, schema={"user": pl.Int64, "timestamp": pl.Int64, "item": pl.Int64}, orient="row")
    table = load(tmp_path, frame, None, time_unit="us", time_resolution=600)
    expected = sorted(range(len(events)), key=lambda row: (events[row][0], events[row][1], row))
    assert table.frame["row"].to_list() == [row + 1 for row in expected]
    assert table.frame["timestamp"].to_list() == [events[row][1] // 10**6 // 600 * 600 for row in expected]


def test_events_with_times_far_apart_are_ordered(tmp_path):
    """The key user * span + moment is above 2^63 here."""
    users = 100
    frame = pl.DataFrame({"user": range(users), "item": 1, "timestamp": [0, *range(2 * 10**17, 1, -(10**15))][:users]})
    table = load(tmp_path, pl.concat([frame, frame]), None, time_unit="us")
    assert table.frame["row"].to_list() == [row for user in range(users) for row in (user + 1, user + 1 + users)]


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        (["007", "7"], ["007", "7"]),
        (["1.0", "12.0"], [1, 12]),
        (["1", "abc"], ["1", "abc"]),
        (["99999999999999999999", "1"], ["1", "99999999999999999999"]),
        (["-5", "0"], [-5, 0]),
        (["1e3", "5"], ["1e3", "5"]),
    ],
)
def test_text_ids_become_integers_only_if_all_are(tmp_path, ids, read):
    table = load(tmp_path, {"user": ids, "item": [1, 2], "timestamp": [1, 2]}, None, "csv")
    assert table.users.to_list() == read


def test_log_without_times_keeps_the_row_order(tmp_path):
    table = load(tmp_path, RATINGS, timestamp=None)
    assert not table.has_time
    assert table.frame["row"].to_list() == [2, 4, 1, 3]
    assert table.frame["timestamp"].to_list() == [2, 4, 1, 3]


def test_report_counts_many_files_instead_of_listing_them():
    few, many = ({f"day-{n}.parquet": 1_000 for n in range(count)} for count in (2, 30))
    assert str(Report(few, [], 2_000, [])).startswith("1,000 rows read from day-0.parquet\n1,000 rows read from day-1")
    said = str(Report(many, [], 30_000, []))
    assert said == "30,000 rows read from 30 files, the first of them day-0.parquet\n30,000 events used"


def test_report_counts_rows_left_out_by_where(tmp_path):
    frame = pl.DataFrame(
        {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "timestamp": [1, 2, 3, 4], "s": [9, 60, None, 30]}
    )
    table = load(tmp_path, frame, "minutes", columns={"minutes": "s / 60"}, where="s > 10 or s is null")
    assert table.frame["row"].to_list() == [2, 3, 4]
    assert table.frame["minutes"].to_list() == [1.0, None, 0.5]
    assert table.frame["reward"].to_list() == [1.0, None, 0.5]
    (left_out, without), counts = zip(*table.report.left_out().items(), strict=True)
    assert counts == (1, 1)
    assert "row 1 of" in left_out
    assert "row 3 of" in without
    assert "1 rows do not meet" in str(table.report)
    assert table.report.used == 3


def test_report_counts_empty_lines_and_multi_line_fields(tmp_path):
    table = load(tmp_path, 'user,item,timestamp,stars,note\n1,1,1,5,"a\nb"\n\n1,2,2,4,c\n\n', kind="csv")
    assert table.frame["row"].to_list() == [1, 3]
    assert [(note.count, note.first) for note in table.report.notes if note.count] == [(2, [2, 4]), (1, [1])]


def test_several_files_become_one_log(tmp_path):
    (tmp_path / "part-1.csv").write_text("user,item,timestamp,stars\n1,1,5,5\n")
    (tmp_path / "part-2.csv").write_text("user,item,timestamp,stars\nbob,1,4,3\n1,2,1,\n")
    table = load_events(LogMapping("test", ["part-*.csv"]), tmp_path, "stars")
    assert table.users.to_list() == ["1", "bob"]
    assert table.frame["row"].to_list() == [3, 1, 2]
    (left_out,) = table.report.left_out()
    assert f"row 2 of {tmp_path}/part-2.csv" in left_out


def test_reserved_column_names_are_readable_but_not_kept(tmp_path):
    frame = pl.DataFrame({"who": [1, 2], "item": [1, 1], "timestamp": [1, 2], "reward": [2, 4], "row": [8, 9]})
    table = load(tmp_path, frame, "reward * row", user="who")
    assert table.frame["reward"].to_list() == [16.0, 36.0]
    assert table.frame["row"].to_list() == [1, 2]
    assert table.frame.columns == ["user", "item", "timestamp", "row", "reward", TIED]


def test_fingerprint_follows_bytes_mapping_and_reward(tmp_path):
    first = load(tmp_path, RATINGS).fingerprint
    assert load(tmp_path, RATINGS).fingerprint == first
    assert fingerprint(LogMapping("test", ["log.parquet"]), tmp_path, "stars") == first
    assert load(tmp_path, RATINGS, "stars * 2").fingerprint != first
    assert load(tmp_path, RATINGS, time_resolution=60).fingerprint != first
    assert load(tmp_path, RATINGS | {"stars": [1, 2, None, 4]}).fingerprint != first


def test_data_root_follows_option_variable_and_default(monkeypatch, tmp_path):
    load(tmp_path, RATINGS)
    log = LogMapping("test", ["log.parquet"])
    with pytest.raises(InputError, match="no file"):
        load_events(log, None, "stars")
    monkeypatch.setenv("RECALIGN_DATA", str(tmp_path))
    assert load_events(log, None, "stars").frame.height == 4
    assert load_events(log, tmp_path / "where it was", "stars").frame.height == 4  # it was moved
    monkeypatch.setenv("RECALIGN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="where it was"):
        load_events(log, tmp_path / "where it was", "stars")


@pytest.mark.parametrize("key", ["item", "timestamp"])
def test_missing_column_names_the_nearest(tmp_path, key):
    message = refused(tmp_path, RATINGS, **{key: "starz"})
    assert f"data.log.{key}: there is no column 'starz' in {tmp_path}/log.parquet" in message
    assert "did you mean 'stars'?" in message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("user,item,timestamp,stars\n", "the log is empty"),
        ("user,item,timestamp,stars\n1,2,3,4\n1,NaN,3,5\n", "item is empty, null or NaN in row 2 of"),
        ("user,item,timestamp,stars\n1,2,3,4\n1,2,3,4\n", "is 4 for every event of"),
        ("user,item,timestamp,stars\n1,2,3,4\n1,2,3,n/a\n", "gives text, such as 'n/a' in row 2 of"),
    ],
)
def test_bad_text_files_are_refused(tmp_path, text, found):
    message = refused(tmp_path, text, kind="csv")
    assert found in message
    assert "log.csv" in message


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"item": [1.5, 1.0, 2.0, 2.0]}, "data.log.item: the column item holds 1.5 in row 1 of"),
        ({"item": [1.0, 2.0**53, 2.0, 2.0]}, "which Float64 cannot hold exactly"),
        ({"item": pl.Series([1, 2**24, 2, 2], dtype=pl.Float32)}, "which Float32 cannot hold exactly"),
        ({"item": [True, False, True, False]}, "holds Boolean"),
        ({"stars": [1.0, float("nan"), 3.0, float("nan")]}, "the column stars, which is NaN in rows 2, 4 of"),
        ({"stars": [1.0, 2.0, float("inf"), 4.0]}, "'stars' gives inf in row 3 of"),
    ],
)
def test_bad_values_are_refused(tmp_path, change, found):
    assert found in refused(tmp_path, RATINGS | change)


def test_many_bad_rows_are_counted(tmp_path):
    frame = {"user": [1] * 20, "item": [None] * 19 + [1], "timestamp": range(20)}
    assert "rows 1, 2, 3, 4, 5 of" in (message := refused(tmp_path, frame, None))
    assert "and 14 more" in message


@pytest.mark.parametrize("kept", [0, 6, 0.5, -1])
def test_truncated_parquet_is_refused(tmp_path, kept):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": range(5000), "item": range(5000), "timestamp": range(5000)}).write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match="cannot be read as Parquet") as caught:
        load_events(LogMapping("test", ["log.parquet"]), tmp_path, None)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "mapping", [{"files": []}, {"time_resolution": 0}, {"columns": {"row": "a"}}, {"item": "user"}]
)
def test_bad_mappings_are_refused(mapping):
    with pytest.raises(InputError, match=r"data\.log"):
        LogMapping(**({"name": "test", "files": ["log.csv"]} | mapping))


@pytest.mark.parametrize(
    ("ids", "named", "left"),
    [
        ([1.0, float("nan"), 2.0], "row 2 of", [1, 2]),
        ([1, None, 2], "row 2 of", [1, 2]),
        (["1", "nan", ""], "rows 2, 3 of", ["1"]),
    ],
)
def test_the_remedy_for_missing_ids_works(tmp_path, ids, named, left):
    frame = {"user": ids, "item": [5, 5, 6], "timestamp": [1, 2, 3]}
    message = refused(tmp_path, frame, None)
    assert f"user is empty, null or NaN in {named}" in message
    where = message.split("data.log.where: '")[1].removesuffix("'")
    assert load(tmp_path, frame, None, where=where).users.to_list() == left


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"timestamp": [1]}, {"timestamp": [datetime(2026, 1, 1)]}, "timestamp holds"),
        ({"x": [1.5]}, {"x": [datetime(2026, 1, 1)]}, "x holds"),
        ({"user": [7.0]}, {"user": ["7"]}, "user holds"),
        ({"x": ["a"]}, {"x": [[1]]}, "x holds"),
        ({"timestamp": [datetime(2026, 1, 1)]}, {"timestamp": [datetime(2026, 1, 1, tzinfo=UTC)]}, "timestamp holds"),
        ({"x": [datetime(2026, 1, 1)]}, {"x": [time(1)]}, "x holds"),
        ({"x": pl.Series(["a"], dtype=pl.Enum("a"))}, {"x": pl.Series(["b"], dtype=pl.Enum("b"))}, "x holds"),
    ],
)
def test_columns_of_incompatible_types_are_refused(tmp_path, first, second, message):
    for name, changed in (("a", first), ("b", second)):
        pl.DataFrame({"user": [1], "item": [1], "timestamp": [1]} | changed).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=f"do not fit together: the column {message}") as caught:
        load_events(LogMapping("test", ["a.parquet", "b.parquet"]), tmp_path, None)
    assert "a.parquet" in str(caught.value)
    assert "b.parquet" in str(caught.value)


def test_ids_are_equal_across_files(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,timestamp\n7.0,1,1\n")
    (tmp_path / "b.csv").write_text("user,item,timestamp\n7,2,2\n")
    assert load_events(LogMapping("test", ["a.csv", "b.csv"]), tmp_path, None).users.to_list() == [7]
    (tmp_path / "c.csv").write_text("user,item,timestamp\n007,2,2\n")
    assert load_events(LogMapping("test", ["b.csv", "c.csv"]), tmp_path, None).users.to_list() == ["007", "7"]


def test_times_of_two_units_keep_the_finer(tmp_path):
    log = pl.DataFrame({"user": [1, 1], "item": [1, 2], "timestamp": [2_007, 2_009], "void": [None, None]})
    for name, unit, rows in (("a", "us", log), ("b", "ms", log.with_columns(item=pl.col("item") + 2, timestamp=2))):
        rows.cast({"timestamp": pl.Datetime(unit)}).write_parquet(tmp_path / f"{name}.parquet")
    table = load_events(LogMapping("test", ["a.parquet", "b.parquet"]), tmp_path, None)
    assert table.items.gather(table.frame["item"]).to_list() == [3, 4, 1, 2]


def test_categories_are_equal_across_files(tmp_path):
    """One file alone would make numbers of its codes."""
    for name, code in (("a", "007"), ("b", "B7")):
        (tmp_path / f"{name}.csv").write_text(f"user,item,timestamp,shop,x\n7,2,2,{code},1\n7,3,3,007,2\n")
    table = load_events(LogMapping("test", ["a.csv", "b.csv"], where="shop = '007'"), tmp_path, "x")
    assert table.frame["row"].to_list() == [1, 2, 4]


SHOP = """user,item,timestamp,event
anna,lamp,10,view
anna,lamp,20,cart
anna,lamp,30,purchase
anna,chair,15,view
anna,lamp,40,view
bob,lamp,5,view
bob,lamp,6,view
bob,sofa,7,other
"""
WORTH = "case event when 'view' then 0 when 'cart' then 0.5 when 'purchase' then 1 end"


def test_collapse_keeps_the_event_with_the_highest_reward(tmp_path):
    table = load(tmp_path, SHOP, WORTH, kind="csv", collapse=True)
    users, items = table.users.gather(table.frame["user"]), table.items.gather(table.frame["item"])
    found = list(zip(users, items, table.frame["timestamp"], table.frame["reward"], strict=True))
    assert found == [("anna", "chair", 15, 0), ("anna", "lamp", 30, 1), ("bob", "lamp", 5, 0), ("bob", "sofa", 7, None)]
    assert "4 rows are weaker events of the same user and item and are left out: rows 1, 2, 5, 7 of" in str(
        table.report
    )
    assert "1 rows have no reward: only histories and cloning use them: row 8 of" in str(table.report)
    valueless = load(
        tmp_path, SHOP, "case event when 'purchase' then 1 when 'other' then 0 end", kind="csv", collapse=True
    )
    assert "2 rows have no reward" in str(valueless.report)  # of the four that are left
    assert load(tmp_path, SHOP, WORTH, kind="csv").frame.height == 8


@pytest.mark.parametrize("more", [{}, {"time_resolution": 3600}])
def test_repeats_are_counted_by_the_columns_and_times_of_the_file(tmp_path, more):
    twice = SHOP + "bob,lamp,6,view\nbob,lamp,6,cart\n"
    assert load(tmp_path, twice, WORTH, kind="csv", **more).report.repeats == 1
    dropped = load(tmp_path, twice, WORTH, kind="csv", drop_repeats=True, **more)
    assert (dropped.frame.height, dropped.report.repeats) == (9, 0)  # the cart differs in a column
    assert "left out: row 9 of" in str(dropped.report)
    assert load(tmp_path, twice, WORTH, kind="csv", where="event <> 'view'", **more).report.repeats == 0
    later = SHOP + "bob,lamp,1700000000001,view\nbob,lamp,1700000000201,view\n"
    later = later.replace(",5,", ",1700000000500,").replace(",6,", ",1700000000600,")
    found = load(tmp_path, later, WORTH, kind="csv", time_unit="ms", **more).report
    assert found.repeats == 0  # in one second, and yet apart
    own = SHOP.replace("event", "reward").replace("bob,lamp,6,view", "bob,lamp,5,cart")
    assert load(tmp_path, own, WORTH.replace("event", "reward"), kind="csv").report.repeats == 0  # differ in it alone


@pytest.mark.parametrize(
    ("times", "how", "first"),
    [
        (["2026-02-19 06:01:33 UTC"], {"time_unit": "datetime"}, 1771480893),
        (["15/10/2020", "1/2/2021"], {"time_format": "%d/%m/%Y"}, 1602720000),
        (["10/15/2020 06:00"], {"time_format": "%m/%d/%Y %H:%M"}, 1602741600),
        (["15.10.2020 06:00:00 +0200"], {"time_format": "%d.%m.%Y %H:%M:%S %z"}, 1602734400),
        (["20201015"], {"time_format": "%Y%m%d"}, 1602720000),
    ],
)
def test_time_formats_and_iso_8601_are_read(tmp_path, times, how, first):
    rows = [f"{number},7,{time},{number}" for number, time in enumerate([*times, *times])]
    table = load(tmp_path, "\n".join(["user,item,timestamp,stars", *rows]), kind="csv", **how)
    assert table.frame["timestamp"][0] == first


def test_times_in_another_format_are_refused(tmp_path):
    text = "user,item,timestamp,stars\n1,7,03/04/2020,1\n2,7,05/16/2020,2\n"
    assert refused(tmp_path, text, kind="csv", time_format="%Y").startswith("data.log.time_format: ")
    assert "in row 2" in refused(tmp_path, text, kind="csv", time_format="%d/%m/%Y")
    assert "%y" in refused(tmp_path, text.replace("/2020", "/20"), kind="csv", time_unit="datetime")


def test_names_of_time_zones_in_a_time_format_are_refused():
    """They would be parsed and ignored: 10:00 EST is 15:00 UTC."""
    with pytest.raises(InputError, match=r"data\.log\.time_format: .*%Z.*\n.*%z"):
        LogMapping("t", ["log.csv"], time_format="%d/%m/%Y %H:%M %Z")


@pytest.mark.parametrize("where", ["stars >= 2", "stars is not null"])
def test_nan_meets_no_condition(tmp_path, where):
    rows = RATINGS | {"stars": [1.0, float("nan"), 4.0, 5.0]}
    kept = load(tmp_path, rows, where=where).frame["stars"].to_list()
    assert kept == ([5.0, 4.0] if ">" in where else [5.0, 4.0, 1.0])
    assert "data.log.where: '\"stars\" is not null'" in refused(tmp_path, rows)


@pytest.mark.parametrize("gap", ["", "NaN", r"\N"])
def test_missing_ids_do_not_turn_integers_into_text(tmp_path, gap):
    text = f"user,item,timestamp\n7.0,1,1\n{gap},1,2\n9.0,2,3\n"
    table = load(tmp_path, text, None, "csv", where='"user" is not null')
    assert table.users.to_list() == [7, 9]
