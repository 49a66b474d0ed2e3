"""`recalign init`: from a table of one's own to a YAML that `recalign check` reads, for many layouts."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import tiny
import yaml

from recalign.data.events import LogMapping, evaluate, guess, load_events
from recalign.data.events.audit import bound, how_to_bound

START = 1_700_000_000


def events() -> list[dict[str, object]]:
    """240 events of 30 users, a few of them without feedback."""
    draw = random.Random(0)
    rows = []
    for user in range(30):
        for step, item in enumerate(draw.sample(range(25), 8)):
            good = (user + item) % 2 == 0
            time = START + 3600 * step + user
            rows.append(
                {
                    "user": user,
                    "item": item,
                    "s": time,
                    "iso": (datetime(2026, 3, 1) + timedelta(hours=step, minutes=user)).isoformat() + "+01:00",
                    "stars": draw.choice([4, 5]) if good else draw.choice([1, 2, 3]),
                    "event": draw.choice(
                        ["view", "cart", "purchase"] if good else ["view", "view", "remove_from_cart"]
                    ),
                }
            )
    return rows


def write(path: Path, header: str | None, row: str, encoding: str = "utf-8") -> None:
    """Write the events as text, each as a row with {fields}."""
    lines = [] if header is None else [header]
    path.write_text("\n".join([*lines, *(row.format(**event) for event in events())]) + "\n", encoding=encoding)


def init(folder: Path, *words: str) -> tiny.Said:
    return tiny.recalign(folder, "init", *words)


RATINGS = ("userId,movieId,rating,timestamp", "{user},{item},{stars},{s}")
LAYOUTS = {
    "ratings": ("log.csv", *RATINGS, "userId movieId timestamp s", "rating"),
    "shop events with kinds": (
        "log.csv",
        "event_time|event_type|product_id|price|userid|user_session",
        "{iso}|{event}|p{item}|9.50|u-{user}|{user}-{s}",
        "userid product_id event_time datetime",
        "CASE event_type WHEN 'cart' ",
    ),
    "no header": ("log.tsv", None, "{user}\t{item}\t{stars}\t{s}", "user item timestamp s", "column_3"),
    "quoted ids": (
        "log.csv",
        "Customer;Product;Time;Stars",
        '"kunde; {user}";"{item:03d}";{iso};{stars}',
        "Customer Product Time datetime",
        "Stars",
    ),
}


@pytest.mark.parametrize(("file", "header", "row", "columns", "reward"), LAYOUTS.values(), ids=LAYOUTS)
def test_init_writes_a_yaml_that_check_accepts(
    tmp_path: Path, file: str, header: str | None, row: str, columns: str, reward: str
):
    write(tmp_path / file, header, row)
    said = init(tmp_path, file)
    assert said.code == 0, said.err
    assert "240 events of 30 users and 25 items" in said.out
    data = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]
    assert [data["log"][key] for key in ("user", "item", "timestamp", "time_unit")] == columns.split()
    assert data["reward"].startswith(reward)
    (command,) = [line.split()[1:] for line in said.out.splitlines() if line.startswith("  recalign check")]
    said = tiny.recalign(tmp_path, *command)
    assert said.code == 0, said.err
    assert f"240 rows read from {file}" in said.out


def test_init_prints_the_first_events_as_they_were_read(tmp_path: Path):
    (tmp_path / "log.csv").write_text(
        "who,what,time,stars\nanna,lamp,2026-03-01T10:15:00+01:00,5\nb,lamp,2026-03-02,1\nb,chair,2026-03-03,\n"
    )
    said = init(tmp_path, "log.csv", "--user=who", "--item=what")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.out.splitlines() if line[:1] == "|"]
    assert rows[2:] == [
        ["anna", "lamp", "2026-03-01 09:15:00", "5.0", "true"],
        ["b", "lamp", "2026-03-02 00:00:00", "1.0", "false"],
        ["b", "chair", "2026-03-03 00:00:00", "null", "false"],
    ]
    assert "1 rows have no reward" in said.out


def test_newlines_in_names_add_no_line_to_the_yaml(tmp_path: Path):
    write(tmp_path / "a\nevil: 1.csv", *RATINGS)
    assert init(tmp_path, "a\nevil: 1.csv", "--out=a\nevil: 2.yaml").code == 0
    assert [*yaml.safe_load((tmp_path / "a\nevil: 2.yaml").read_text())] == ["data"]


def test_init_collapses_event_types_on_one_item(tmp_path: Path):
    rows = ["anna,lamp,2026-03-01,view", "anna,lamp,2026-03-02,purchase", "b,lamp,2026-03-02,view"]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,event", *rows]))
    said = init(tmp_path, "log.csv")
    assert said.code == 0, said.err
    assert "2 events of 2 users and 1 items" in said.out
    text = (tmp_path / "log.yaml").read_text()
    assert yaml.safe_load(text)["data"]["log"]["collapse"] is True
    rows[1] = "anna,lamp,2026-03-02,view"  # one kind of event, twice
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,event", *rows, "b,chair,2026-03-03,purchase"]))
    assert init(tmp_path, "log.csv", "--force").code == 0
    assert "collapse" not in yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]["log"]


def test_init_reads_a_byte_order_mark_and_words_for_missing_values(tmp_path: Path):
    write(tmp_path / "log.csv", "user,item,rating,time", "{user},{item},{stars},{s}", encoding="utf-8-sig")
    with (tmp_path / "log.csv").open("a") as file:
        file.write(f"1,24,NULL,{START + 10**6}\n2,3,4,NULL\n,3,4,{START}\n")
    said = init(tmp_path, "log.csv")
    assert said.code == 0, said.err
    data = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]
    assert data["log"]["where"] == '"user" is not null and time is not null'
    assert data["reward"] == "rating"
    assert "2 rows do not meet" in said.out
    assert "241 events" in said.out
    assert tiny.recalign(tmp_path, "check", "log.yaml").code == 0


ODD = "a,b,c,d\nx,y,1,2026-01-01\nz,y,2,2026-01-02\n"


@pytest.mark.parametrize(
    ("table", "words", "expected"),
    [
        (
            ODD,
            [],
            ["cannot guess the column of the user's id from the columns: a, b, c, d", "give --user, --item, --reward"],
        ),
        (ODD, ["--user=a", "--item=b"], ["reward: cannot guess how good", "give --reward"]),
        (ODD, ["--user=a", "--item=b", "--reward=c +"], ["data.reward: 'c +' is not a Polars SQL"]),
        ("user,item\n1,2\n", [], ["log.csv: it has 1 rows of 2 columns", "comma, tab"]),
    ],
)
def test_init_refuses_tables_that_it_cannot_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, words: list[str], expected: list[str]
):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (tmp_path / "log.csv").write_text(table)
    said = init(tmp_path, "log.csv", *words)
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 2
    for word in expected:
        assert word in said.err
    assert not (tmp_path / "log.yaml").exists()


def test_init_asks_on_a_terminal_for_what_it_cannot_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("a\nb\nc\n"))
    (tmp_path / "log.csv").write_text(ODD)
    said = init(tmp_path, "log.csv")
    assert said.code == 0, said.err
    data = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]
    assert (data["log"]["user"], data["log"]["item"], data["reward"]) == ("a", "b", "c")


def test_high_condition_selects_about_the_best_third():
    def high(*counts: int) -> str | None:
        return guess.high_condition(
            pl.Series([float(value) for value, count in enumerate(counts, 1) for _ in range(count)])
        )

    assert high(6, 11, 27, 34, 22) == "reward >= 5"  # the ratings of ML-100K, in per cent
    assert high(50, 20, 15, 15) == "reward >= 3"
    assert high(10, 90) == "reward >= 2"
    thirds = pl.Series([0.0, 1 / 3, 2 / 3] * 30)  # rounded, no event would have the best grade
    assert evaluate(thirds.alias("reward").to_frame(), str(guess.high_condition(thirds)), "high").sum() == 30
    assert guess.high_condition(pl.Series([n / 100 for n in range(100)])) is None
    assert guess.high_condition(pl.Series([n / 100 for n in range(100)] + [1.0] * 100)) == "reward >= 1"


def test_init_warns_of_too_few_users_but_not_of_short_histories(tmp_path: Path):
    rows = [f"{user},{item},{START + item},{item % 5}" for user in range(15) for item in range(4 + user % 2)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,stars", *rows]))
    said = init(tmp_path, "log.csv")
    assert "split: 15 of 15 users have test events: the last 1 of each" in said.out
    assert "this log cannot be measured" in said.out
    assert "recalign check log.yaml" in said.out
    assert "recalign chain" not in said.out
    assert tiny.recalign(tmp_path, "check", "log.yaml").out.startswith("verdict: do not train")


def test_init_reads_several_files_as_one_table(tmp_path: Path):
    """A kind of event, a missing time and a text id that only the second file has are seen."""
    (tmp_path / "shop").mkdir()
    write(tmp_path / "shop/t-1.csv", "user,item,event,time", "{user},{item},view,{s}")
    (tmp_path / "shop/t-2.csv").write_text(f"user,item,event,time\n1,x,purchase,{START}\n2,3,purchase,\n")
    said = init(tmp_path, "shop/t-*.csv")
    assert said.code == 0, said.err
    data = yaml.safe_load((tmp_path / "t.yaml").read_text())["data"]
    assert (data["log"]["name"], data["log"]["files"], data["root"]) == ("t", ["t-*.csv"], "shop")
    assert data["log"]["where"] == "time is not null"
    assert "WHEN 'purchase' THEN 1" in data["reward"]
    assert "240 rows read from shop/t-1.csv\n2 rows" in tiny.recalign(tmp_path, "check", "t.yaml").out


def test_init_keeps_leading_zeros_of_ids(tmp_path: Path):
    write(tmp_path / "log.tsv", None, "{user:03d}\t0104{item:03d}\t{stars}\t{s}")
    assert init(tmp_path, "log.tsv").code == 0
    data = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]
    log = load_events(LogMapping(**data["log"]), tmp_path, data["reward"])
    assert (log.users[1], log.items[1]) == ("001", "0104001")


ISO = ["2026-03-01T10:00:01", "2026-03-01T11:00:02", "2026-03-02T09:30:00"]
DAYS = ["2020-01-01", "2021-05-01", "2022-01-01"]
SECONDS = [START, START + 9, START + 20]


@pytest.mark.parametrize(
    ("columns", "meant"),
    [
        ({"created_at": ISO, "release_date": DAYS}, "created_at"),
        ({"date": DAYS, "event_timestamp": ISO}, "event_timestamp"),
        ({"order_id": SECONDS, "order_date": ["15.10.2020"] * 3}, "order_date"),
        ({"timestamp": [0, *SECONDS[1:]] * 50, "made": DAYS * 50}, "timestamp"),
        ({"x": SECONDS}, "x"),
        ({"epoch": SECONDS, "time_on_page": [1, 2, 3]}, "epoch"),
        ({"epoch": SECONDS, "updated_at": [None, "", ""]}, "epoch"),
        ({"timestamp": DAYS, "signup_at": ISO}, "timestamp"),
    ],
)
def test_guessed_time_prefers_matching_names_and_times_of_day(columns: dict[str, list], meant: str):
    ids = range(len(next(iter(columns.values()))))
    frame = pl.DataFrame({"user_id": ids, "item_id": ids, "rating": [n % 3 for n in ids], **columns})
    assert guess.guess(frame, {}, True)["timestamp"] == meant


@pytest.mark.parametrize(
    ("names", "user", "item"),
    [
        (["uid", "iid"], "uid", "iid"),
        (["session_id", "user_name", "item_id"], "user_name", "item_id"),
        (["user_agent_decrypted", "username", "track"], "username", "track"),
        (["session_id", "user_agent", "item_id"], "session_id", "item_id"),
        (["user_profile", "user_id", "post_content", "post_id"], "user_id", "post_id"),
        (["user", "content_type", "isbn"], "user", "isbn"),
        (["user", "ad_group", "ad_id"], "user", "ad_id"),
    ],
)
def test_guessed_user_and_item_follow_column_names(names: list[str], user: str, item: str):
    found = guess.guess(pl.DataFrame({name: [f"a{n}" for n in range(3)] for name in names}), {}, True)
    assert (found["user"], found["item"]) == (user, item)


def test_event_type_gets_the_worth_of_its_first_matching_word():
    kinds = ["view", "add_to_cart", "remove_from_cart", "purchase", "zoom"]
    frame = pl.DataFrame({"user": range(5), "item": range(5), "time": [START + n for n in range(5)], "event": kinds})
    reward = guess.guess(frame, {}, True)["reward"]
    assert frame.select(pl.sql_expr(reward)).to_series().to_list() == [0, 0.5, -1, 1, 0]


def test_init_does_without_torch(tmp_path: Path):
    write(tmp_path / "log.csv", *RATINGS)
    code = "import sys; from recalign.cli import main; main(['init', 'log.csv']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize(("pause", "stated"), [(86_400, "together"), (30, None)])
def test_init_writes_ties_together_for_baskets(tmp_path, pause, stated):
    """Three items at a time, visits days apart; in a burst of ratings the next time is seconds later."""
    rows = [
        (user, (5 * step + user) % 23, step % 5, START + pause * (step // 3))
        for user in range(30)
        for step in range(15)
    ]
    pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row").write_csv(tmp_path / "shop.csv")
    said = init(tmp_path, "shop.csv")
    data = yaml.safe_load((tmp_path / "shop.yaml").read_text())["data"]
    assert data.get("ties") == stated
    assert ("100% of the events came with another item" in said.out) == bool(stated)
    assert data["split"]["init_args"]["test"] == 1
    assert "a basket goes on" not in tiny.recalign(tmp_path, "check", "shop.yaml").out or not stated


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("is_click", [1, 0, None], "is_click = 1"),
        ("clicked", [True, False], "clicked"),
        ("clicks", [3, 0], None),
        ("liked", [1, 0], None),
        ("event", ["impression", "click", "buy"], "event <> 'impression'"),
        ("event", ["shown 'above'", "click"], "event <> 'shown ''above'''"),
        ("event", ["view", "buy"], None),
    ],
)
def test_choice_is_guessed_from_click_columns_and_impression_events(column: str, values: list, found: str | None):
    assert guess.choice(pl.DataFrame({"user": 1, "item": 2, column: pl.Series(values)})) == found


def test_choice_ignores_nested_columns():
    nested = {
        "clicked": [[0], [1]],
        "seen": [{"shown": 1}, None],
        "of": pl.Series([[0], [1]], dtype=pl.Array(pl.Int8, 1)),
    }
    assert guess.choice(pl.DataFrame(nested | {"kept": [[{"a": 1}], []]})) is None


@pytest.mark.parametrize("rating", ["{step}", "{click}"])  # of all rows, or the click itself
def test_chosen_is_only_proposed_if_other_rows_have_rewards(tmp_path: Path, rating: str):
    rows = [
        f"{user},{step},{step},{step % 2},{rating.format(step=step, click=step % 2)}"
        for user in range(40)
        for step in range(1, 9)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,is_click,rating", *rows]))
    said = init(tmp_path, "log.csv")
    assert said.code == 0
    assert "chosen: if is_click = 1 tells choices" in said.out
    text = (tmp_path / "log.yaml").read_text()
    assert "chosen" not in yaml.safe_load(text)["data"]["log"]
    assert yaml.safe_load(text.replace("# chosen:", "chosen:"))["data"]["log"]["chosen"] == "is_click = 1"


@pytest.mark.parametrize("measured", ["", "0"])
def test_chosen_is_set_if_only_choices_have_rewards(tmp_path: Path, measured: str):
    """Three shown, one clicked, and only that one has seconds: the click says what was chosen, the seconds how good."""
    rows = [
        f"{user},{(user + step + slot) % 20},{START + 60 * step},{user}-{step},{slot},{slot == 1},"
        f"{step % 5 + user if slot == 1 else measured}"
        for user in range(40)
        for step in range(12)
        for slot in range(3)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,request_id,slot,clicked,seconds", *rows]))
    said = init(tmp_path, "log.csv")
    data = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]
    assert (data["reward"], data["log"]["chosen"], data["log"]["request"]) == ("seconds", "clicked", "request_id")
    assert "chosen: clicked; 960 other rows were shown and not chosen" in said.out
    assert tiny.recalign(tmp_path, "check", "log.yaml").code == 0


def impressions_then_clicks() -> list[str]:
    """Rows ``user,item,time,event,request``: of two items shown one is clicked 9 s later, and every other bought."""
    return [
        f"{user},{(3 * step + slot) % 23},{START + 900 * step + 9 * later},{kind},{user}-{step}"
        for user in range(40)
        for step in range(9)
        for slot, kind, later in [(0, "impression", 0), (1, "impression", 0), (1, "click", 1), (1, "buy", 1 + step % 2)]
        if kind != "buy" or step % 2
    ]


@pytest.mark.parametrize(("column", "found"), [("", None), ("request", "request_id")])
def test_impressions_and_clicks_at_other_times_need_a_column_that_joins_them(
    tmp_path: Path, column: str, found: str | None
):
    rows = impressions_then_clicks()
    (tmp_path / "log.csv").write_text("\n".join([f"user,item,time,event,{column}_id", *rows]))
    assert init(tmp_path, "log.csv").code == 0
    log = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]["log"]
    assert log.get("request") == found
    assert log.get("chosen") == (found and "event <> 'impression'")


def test_init_reads_impressions_only_if_most_choices_share_a_request(tmp_path: Path):
    """Clicks come 9 s after their impressions, but one impression has the time of a click."""
    rows = impressions_then_clicks()
    rows.append(f"0,22,{START + 9},impression,")
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,event,_id", *rows]))
    assert init(tmp_path, "log.csv").code == 0
    assert "chosen" not in yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]["log"]


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("impression", [1, 2, 3, 4], None),  # an id of each row
        ("query", ["a", "b", "a", "b"], None),  # of several users
        ("search_price", [5, 5, 6, 6], None),
        ("search_user_id", [5, 5, 6, 6], None),
        ("requestId", [5, 5, 6, 6], "requestId"),
        ("request_id", [None, None, 5, 5], "request_id"),
    ],
)
def test_guessed_request_joins_rows_of_one_user(column: str, values: list, found: str | None):
    frame = pl.DataFrame({"^us.*$": [1, 1, 2, 2], column: values})
    assert guess.request(frame, "^us.*$") == found


def test_init_takes_a_user_column_that_is_named_like_a_request(tmp_path: Path):
    rows = [f"{user},{item},{START + item},{item % 2},{item % 2 * item}" for user in range(40) for item in range(1, 9)]
    (tmp_path / "log.csv").write_text("\n".join(["search_user_id,item,time,clicked,seconds", *rows]))
    assert init(tmp_path, "log.csv").code == 0


@pytest.mark.parametrize("more", ["click_time", "click_id"])
def test_guessed_reward_is_no_time_and_no_id(more: str):
    clicked = [0, 1] * 4
    value = [START + n if click else 0 for n, click in enumerate(clicked)]
    frame = pl.DataFrame({"user": 1, "item": [*range(8)], "time": START, "clicked": clicked, more: value})
    assert guess.guess(frame, {}, True)["reward"] == "clicked"
    dwell = pl.Series("dwell", [n * click for n, click in enumerate(clicked)])
    assert guess.guess(frame.with_columns(dwell), {}, True)["reward"] == "dwell"


def test_guessed_reward_weighs_kinds_before_a_column_that_some_of_them_fill():
    kinds = ["impression", "click", "purchase", "purchase"]
    frame = pl.DataFrame({"user": 1, "item": [1, 2, 3, 4], "time": START, "event": kinds, "price": [None, None, 5, 9]})
    assert guess.guess(frame, {}, True)["reward"].startswith("CASE event")


def test_init_guesses_titles_and_features_of_an_item_table(tmp_path: Path):
    write(tmp_path / "log.csv", "userId,movieId,rating,timestamp", "{user},{item:03d},{stars},{s}")
    rows = [
        f"{item:03d},{900 + item},Film {item},drama|{'war' if item % 2 else 'love'},{1980 + item},{item % 3 == 0}"
        for item in range(30)
    ]
    (tmp_path / "films").mkdir()
    (tmp_path / "films/films.csv").write_text("\n".join(["film,imdbId,movie_title,genres,year,colour", *rows]))
    said = init(tmp_path, "log.csv", "--items", "films/films.csv")
    assert said.code == 0, said.err
    assert "items: film of films/films.csv; title: movie_title; features: genres, year, colour" in said.out
    log = yaml.safe_load((tmp_path / "log.yaml").read_text())["data"]["log"]
    genres = {"value": "genres", "separator": "|"}
    features = {"genres": genres, "year": "year", "colour": "colour"}
    assert log["items"] == {"file": "films/films.csv", "id": "film", "title": "movie_title", "features": features}
    checked = tiny.recalign(tmp_path, "check", "log.yaml")
    assert checked.code in (0, 1), checked.err
    assert "genres" in checked.out


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt8, pl.Float64, pl.Categorical])
def test_item_table_ids_are_cast_to_the_type_of_the_log(dtype: type[pl.DataType]):
    ids = pl.Series("id", ["1", "2", "5"]).cast(dtype if dtype == pl.Categorical else pl.Int64).cast(dtype)
    table = pl.DataFrame([ids, pl.Series("title", ["a", "b", "c"])])
    for known in (pl.Series([1, 2, 3]), pl.Series(["1", "2", "3"])):
        assert (found := guess.item_table("items.parquet", table, table, known)).title == "title"
        assert found.id == "id"


def test_item_table_without_header_is_refused(tmp_path: Path):
    write(tmp_path / "log.csv", *RATINGS)
    (tmp_path / "items.csv").write_text("1,One\n2,Two\n3,Three\n")
    said = init(tmp_path, "log.csv", "--items", "items.csv")
    assert (said.code, "its first row is an item, 1" in said.err) == (2, True)
    assert init(tmp_path, "log.csv", "--items", "").code == 2


def test_item_table_without_ids_of_the_log_is_refused(tmp_path: Path):
    write(tmp_path / "log.csv", *RATINGS)
    (tmp_path / "items.csv").write_text("sku,title\nx1,One\nx2,Two\n")
    said = init(tmp_path, "log.csv", "--items", "items.csv")
    assert said.code == 2
    assert "items.csv" in said.err
    assert not (tmp_path / "log.yaml").exists()


@pytest.mark.parametrize(
    ("rewards", "remedy"),
    [
        ([*range(1000), 1e6], "least(COLUMN, 990)"),
        ([0.0] * 2000 + [*range(1, 101), 1e6], "least(COLUMN, 100)"),  # a quantile of all would be 0
        ([*range(-1000, 0), -1e6], "greatest(COLUMN, -990)"),
    ],
)
def test_remedy_for_outliers_bounds_their_side(rewards: list[float], remedy: str):
    assert how_to_bound(bound(pl.Series(rewards, dtype=pl.Float64))).endswith(remedy)


def test_init_prints_the_early_concerns_of_check(tmp_path: Path):
    """One reward of -74,215 among 1,200, and a user's second half of events is on the items of the first."""
    rows = [(user, item % 10, START + 3600 * item, 1 + item % 5) for user in range(60) for item in range(20)]
    lines = [",".join(map(str, row)) for row in rows]
    lines[7] = lines[7].rpartition(",")[0] + ",-74215"
    (tmp_path / "log.csv").write_text("user,item,time,rating\n" + "\n".join(lines) + "\n")
    said = init(tmp_path, "log.csv")
    assert said.code == 0
    care = [line for line in said.out.splitlines() if line.startswith("with care: ")]
    assert len(care) == 2
    assert "from -74,215 to 5" in care[0]
    assert "50% of the events" in care[1]
    (tmp_path / "log.csv").write_text("user,item,time,rating\n" + "\n".join(lines[:6] + lines[8:10]) + "\n")
    assert "with care" not in init(tmp_path, "log.csv", "--force").out


def test_init_and_check_warn_of_ids_that_look_alike(tmp_path: Path):
    spelt = ["cafe\u0301", "caf\xe9", "caf\xe9"]
    lines = [
        f"u{user}{' ' * (item % 2)},{spelt[user % 3]}{item},{START + 3600 * item},{1 + item % 5}"
        for user in range(60)
        for item in range(20)
    ]
    (tmp_path / "log.csv").write_text("user,item,time,rating\n" + "\n".join(lines) + "\n", encoding="utf-8")
    told = re.findall("^with care: (.* ids of .*)", init(tmp_path, "log.csv").out, re.MULTILINE)
    assert told == re.findall("^- (.* ids of .*)", tiny.recalign(tmp_path, "check", "log.yaml").out, re.MULTILINE)
    assert [text.split(", differ")[0] for text in told] == [
        "120 ids of data.log.user, such as 'u0' and 'u0 '",
        "40 ids of data.log.item, such as 'cafe\\u03010' and 'caf\\xe90'",
    ]
