"""`recalign feedback`, from a server's log to a table that `recalign check` reads."""

from __future__ import annotations

import json
import math
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tiny
import yaml

from recalign.data.events import LogMapping, load_events
from recalign.data.sequences import EventDataModule, High, TimeSplit
from recalign.data.sequences.earlier import remember
from recalign.errors import InputError
from recalign.serve.feedback.feedback_command import COUNTS, LOG, SHOWN_LOG, TABLE, feedback, write
from recalign.serve.feedback.joining import Joined, Rule
from recalign.serve.loop.served import read_rows
from recalign.serve.server.decisions import DecisionLog, pseudonym

KEY = "a-key-of-this-test-0123456789"
S = 1_000_000


def record(n: int) -> dict[str, Any]:
    """Users 0 to 9 in turn, a decision a minute, of two of ten items; every third list is ranked."""
    drawn = {"arm": "explored" if n % 3 else "ranked", "chance": 2 / 3 if n % 3 else 1 / 3, "temperature": 1.0}
    drawn |= {"fixed": 0, "seed": n, "ranked": 0, "log_probs": [math.log(0.1), math.log(1 / 9)]}
    own = {"time": (1_000_000 + 60 * n) * S, "decision": f"d{n}", "user": pseudonym(KEY, str(n % 10)), "version": "v1"}
    return own | {"k": 2, "seen": "exclude", "hidden": 0, "blocked": 0, "allowed": None, "boosts": 0} | drawn | {
        "items": [n * 7 % 10 + 1, (n * 7 + 3) % 10 + 1]
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a log and outcomes: half of the decisions' first items were chosen, ten seconds after."""
    monkeypatch.setenv("RECALIGN_DECISIONS_KEY", KEY)
    with closing(DecisionLog(tmp_path / "log", KEY)) as log:
        log.append([record(n) for n in range(300)])
    rows = [f"{n % 10},{record(n)['items'][0]},{1_000_010 + 60 * n},{n % 5 + 1}" for n in range(0, 300, 2)]
    (tmp_path / "bought.csv").write_text("\n".join(["who,what,when,stars", *rows, "nobody,1,1100000,3"]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ["log", "--outcomes", "bought.csv", "--user", "who", "--item", "what", "--time", "when", "--window", "300"]


def test_from_a_log_to_a_table_that_check_reads(folder, capsys):
    feedback([*WORDS, "--reward", "stars", "--ignored", "-1", "--out", "table"])
    said = capsys.readouterr().out
    assert f"table/{TABLE} is written: recalign check table/{LOG}, and table/{SHOWN_LOG}" in said
    assert "150  joined" in said
    table = pl.read_parquet(folder / "table" / TABLE)
    assert table.height == 600
    assert table["chosen"].sum() == 150
    assert set(table.filter(~pl.col("chosen"))["reward"]) == {-1.0}
    counts = json.loads((folder / "table" / COUNTS).read_text())
    assert counts["arms"] == {"explored": 200, "ranked": 100}
    assert counts["outcomes"]["of users without a decision"] == 1
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (folder / "table").iterdir())
    settings = yaml.safe_load((folder / "table" / LOG).read_text())["data"]
    assert settings["root"] == "."
    events = load_events(LogMapping(**settings["log"]), folder / "table", settings["reward"])
    assert events.frame.height == 600
    assert events.frame["is_random"].sum() == 200
    assert events.frame["propensity"].drop_nulls().len() == 400
    checked = tiny.recalign(folder, "check", f"table/{LOG}")
    assert checked.code == 0, checked.err
    assert "600" in checked.out


def in_parts(folder: Path, log: Path) -> EventDataModule:
    """The data of a chain on the log that is to be trained on; later ones go on from the first."""
    given = yaml.safe_load(log.read_text())["data"]
    earlier = str(folder / "ids") if (folder / "ids").exists() else None
    return EventDataModule(
        LogMapping(**given["log"]), given["reward"], High(**given["high"]), TimeSplit((0.6, 0.8)), str(log.parent),
        cache=False, grows_from=earlier,
    )  # fmt: skip


def choose(numbers: range) -> list[list[int]]:
    """Of three lists in a row the second item, the first and none; the rows of outcomes, without the last one."""
    rows = [[n % 10, record(n)["items"][1 - n % 3], 1_000_010 + 60 * n] for n in numbers if n % 3 < 2]
    last = [10, 1, 1_100_000]  # of a user without a list, so that every window has passed
    pl.DataFrame([*rows, last], schema=["who", "what", "when"], orient="row").write_csv("bought.csv")
    return rows


def test_places_above_the_last_choice_were_skipped_and_what_stands_below_is_unknown(folder):
    bought = choose(range(300))
    feedback(WORDS)
    made = in_parts(folder, folder / "log" / SHOWN_LOG).sequences
    assert (len(made.frame), len(made.skipped)) == (200, 100)
    assert made.frame["high"].all()  # rewards of 1 are above that of skipped rows
    assert sum(count for why, count in made.report.left_out().items() if "neither chosen nor passed" in why) == 300
    skipped = made.skipped.sort("timestamp")
    first = [record(n)["items"][0] for n in range(0, 300, 3)]
    assert made.items.gather(skipped["item_id"].cast(pl.Int64) - 1).to_list() == first
    assert set(skipped["reward"]) == {0.0}
    before = [sum(who == n % 10 and when < 1_000_000 + 60 * n for who, _, when in bought) for n in range(0, 300, 3)]
    assert skipped["known_before"].to_list() == before
    chosen = skipped.select("request").join(made.frame, on="request", maintain_order="left")
    assert chosen["known_before"].to_list() == before


def test_a_log_of_what_was_shown_goes_on_the_next_day(folder):
    choose(range(240))
    feedback(WORDS)
    log = folder / "log" / SHOWN_LOG
    remember(day := in_parts(folder, log), folder / "ids")
    choose(range(300))
    feedback(WORDS)
    first, grown = day.sequences, in_parts(folder, log).sequences
    assert grown.users.equals(first.users)
    assert [len(one.frame) for one in (first, grown)] == [160, 200]
    assert [len(one.skipped) for one in (first, grown)] == [80, 100]


def test_a_younger_lists_choice_before_an_older_ones_waits_with_it_for_the_next_day(folder):
    """Every other list of a user is chosen from after the next one, whose window has not passed on the first day."""

    def bought(until: int) -> None:
        when = [(n, 1_000_000 + 60 * n + (20 if n // 10 % 2 else 800)) for n in range(300)]
        rows = [(n % 10, lists[n]["items"][n % 3 % 2], at) for n, at in when if at <= until]
        rows.append((10, 1, until))
        pl.DataFrame(rows, schema=["who", "what", "when"], orient="row").write_csv("bought.csv")

    items = [[(3 * (n // 10) + n + more) % 40 + 1 for more in (0, 17)] for n in range(300)]
    lists = [record(n) | {"items": own} for n, own in enumerate(items)]
    with closing(DecisionLog(folder / "lists", KEY)) as log:
        log.append(lists)
    words = ["lists", *WORDS[1:-1], "1000"]
    bought(1_012_000)  # lists up to 1,011,000 are ripe
    feedback(words)
    table, log = pl.read_parquet(folder / "lists" / TABLE), folder / "lists" / SHOWN_LOG
    assert table.filter("chosen", ~pl.col("settled")).height == 4
    remember(day := in_parts(folder, log), folder / "ids")
    bought(1_030_000)
    feedback(words)
    assert [len(one.frame) for one in (day.sequences, in_parts(folder, log).sequences)] == [180, 300]


def test_a_flipped_bit_of_the_table_is_refused_whenever_it_is_read(folder, capsys):
    feedback([*WORDS, "--out", "table"])
    path, log = folder / "table" / TABLE, folder / "table" / LOG
    assert tiny.recalign(folder, "check", str(log)).code == 0
    feedback(["log", "--forget", "7", "--out", "table"])  # which writes it again
    assert len(read_rows(log)) == 540
    whole = bytearray(path.read_bytes())
    whole[99] ^= 4
    path.write_bytes(whole)
    assert f"{TABLE}: its SHA-256 has changed" in tiny.recalign(folder, "check", str(log)).err
    with pytest.raises(InputError, match="its SHA-256 has changed"):
        feedback(["log", "--forget", "8", "--out", "table"])


def test_a_yaml_that_is_there_is_kept(folder):
    feedback(WORDS)
    path = folder / "log" / LOG
    text = path.read_text().replace("where: null", "where: chosen")
    path.write_text(text)
    feedback([*WORDS, "--window", "200"])
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "words", "said"),
    [
        ("root: .", "root: ../elsewhere", [], "it reads the table in ../elsewhere"),
        ("", "", ["--ignored", "-2"], "it was written for --ignored 0, not -2"),
    ],
)
def test_kept_yaml_that_does_not_fit_the_table_is_refused(folder, old, new, words, said):
    feedback(WORDS)
    log, before = folder / "log" / SHOWN_LOG, (folder / "log" / TABLE).read_bytes()
    log.write_text(log.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        feedback([*WORDS, *words])
    assert (folder / "log" / TABLE).read_bytes() == before


def test_outcomes_of_one_source_with_another_clock_are_warned_of(folder, capsys):
    """Two of five came 100 s before their list: a few per cent would do."""
    told = pl.read_csv("bought.csv", schema_overrides={"who": pl.String})
    early = pl.when(pl.int_range(pl.len()) % 5 < 2).then(110).otherwise(0)
    told.with_columns(pl.col("when") - early).write_csv("bought.csv")
    feedback(WORDS)
    assert "with care: 60 outcomes before their decision" in capsys.readouterr().out
    told.write_csv("bought.csv")
    feedback(WORDS)
    assert "with care" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["shop\U0001f3ac", "a\nb", "\x1b[31m", "it's: {odd}"])
def test_a_folder_may_have_any_name(name, folder, capsys, monkeypatch):
    (folder / "log").rename(folder / name)
    monkeypatch.chdir(folder / name)
    feedback([".", "--outcomes", "../bought.csv", *WORDS[3:]])
    settings = yaml.safe_load(Path(LOG).read_text())["data"]
    assert load_events(LogMapping(**settings["log"]), Path(settings["root"]), settings["reward"]).frame.height == 600
    assert (folder / f".{name}.lock").is_file()  # the same one under any name of the folder


def test_files_of_a_pattern_may_have_their_columns_in_another_order_and_further_ones(folder):
    feedback(WORDS)
    first = pl.read_parquet(folder / "log" / TABLE)
    told = pl.read_csv(folder / "bought.csv", infer_schema=False)
    told.head(60).write_csv(folder / "of-1.csv")
    told.slice(60).select("when", "what", "who", "stars", shop=pl.lit("a")).write_csv(folder / "of-2.csv")
    feedback(["log", "--outcomes", "of-*.csv", *WORDS[3:]])
    assert pl.read_parquet(folder / "log" / TABLE).equals(first)


def test_forget_is_refused_while_the_table_is_made(folder, monkeypatch):
    """Who was erased from log and table would come back with the table that is being written."""
    module = "recalign.serve.feedback.feedback_command"
    refused = []

    def meanwhile(found: Joined, out: Path, rule: Rule) -> None:
        with pytest.raises(InputError, match="another process is reading decisions") as error:
            feedback(["log", "--forget", "7"])
        refused.append(error.value.remedy)
        write(found, out, rule)

    monkeypatch.setattr(f"{module}.write", meanwhile)
    feedback(WORDS)
    assert refused == ["wait until it has finished"]
    feedback(["log", "--forget", "7"])
    assert pseudonym(KEY, "7") not in pl.read_parquet(folder / "log" / TABLE)["user"].to_list()


def test_outcomes_may_name_decisions_and_then_no_key_is_needed(folder, monkeypatch, capsys):
    monkeypatch.delenv("RECALIGN_DECISIONS_KEY")
    pl.DataFrame({"d": ["d0", "d299"], "item": [1, 4], "timestamp": [1_000_005, 1_018_400]}).write_parquet(
        "named.parquet"
    )
    feedback(["log", "--outcomes", "named.parquet", "--decision", "d", "--window", "300"])
    assert pl.read_parquet(folder / "log" / TABLE)["chosen"].sum() == 1
    assert "too young" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["log"], "needs --outcomes or --forget"),
        ([*WORDS, "--forget", "7"], "takes --outcomes or --forget, not both"),
        (["gone", *WORDS[1:]], "no decisions in this folder"),
        (["log", "--outcomes", "gone.csv"], "no file 'gone.csv'"),
        (["log", "--outcomes", "bought.csv"], "there is no column 'user'"),
        (["log", "--outcomes", "bought.csv", "--decision", "code"], "there is no column 'code'"),
        ([*WORDS, "--reward", "star"], "--reward: .*star"),
        ([*WORDS, "--reward", "text"], "not a number"),
        ([*WORDS, "--time_unit", "datetime"], "--time_unit: the column when holds Int64, not datetimes"),
        ([*WORDS, "--window", "0"], "window"),
        ([*WORDS, "--delay", "-1"], "delay"),
        ([*WORDS, "--decision", "code"], "users are not read"),
        ([*WORDS, "--window", "1e9"], "no decision can be joined yet"),
        ([*WORDS, "--key_file", "other"], "another key"),
        ([*WORDS, "--key_file", "gone"], "cannot be read"),
        ([*WORDS, "--out", "bought.csv"], "cannot be written"),
    ],
)
def test_feedback_refuses_invalid_options_and_tables(words, what, folder):
    (folder / "other").write_text(KEY + "x")
    text = (
        (folder / "bought.csv")
        .read_text()
        .replace("stars", "stars,text")
        .replace("\n", ",good\n")
        .replace("text,good", "text")
    )
    (folder / "bought.csv").write_text(text)
    with pytest.raises(InputError, match=what) as refused:
        feedback(words)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("table", "remedy"),
    [
        ("who,what,when\n", "name other files in --outcomes"),
        ("who,what,when\n1,,10\n", "fill in the values, or leave the rows out"),
        ("who,what,when\n1,2,-1\n", "correct the timestamps, or set --time_unit "),
    ],
)
def test_a_remedy_names_what_the_command_has(table, remedy, folder):
    (folder / "bought.csv").write_text(table)
    with pytest.raises(InputError) as refused:
        feedback(["log", "--outcomes", "bought.csv", "--user", "who", "--item", "what", "--time", "when"])
    assert refused.value.remedy.startswith(remedy)
    assert "data.log" not in refused.value.remedy


def test_two_kinds_of_tables_are_not_one(folder):
    pl.DataFrame({"who": [[1]], "what": [1], "when": [1_000_000]}).write_parquet("odd.parquet")
    with pytest.raises(InputError, match="mixes text files with others, such as Parquet"):
        feedback(["log", "--outcomes", "bought.csv", "odd.parquet", *WORDS[3:]])


def test_outcomes_that_name_nobody_are_left_out_and_counted(folder, capsys):
    """Guests' orders, in a table whose ids pandas wrote as floats."""
    rows = (folder / "bought.csv").read_text().splitlines()[:-1]
    who, *rest = zip(*(row.split(",") for row in rows[1:]), strict=True)
    floats = [f"{user}.0,{item}.0,{when},{stars}" for user, item, when, stars in zip(who, *rest, strict=True)]
    (folder / "bought.csv").write_text(
        "\n".join([rows[0], *floats, "77.0,1.0,1100000,3", ",1.0,1000011,3", ",2.0,1000012,3"]) + "\n"
    )
    feedback(WORDS)
    counts = json.loads((folder / "log" / COUNTS).read_text())["outcomes"]
    assert (counts["joined"], counts["of users without a decision"]) == (150, 1)
    assert counts["left out, as they name no user"] == 2
    capsys.readouterr()
    (folder / "bought.csv").write_text(f"{rows[0]}\n1,,1000011,3\n")
    with pytest.raises(InputError, match=r"--item: the column what is empty, null or NaN in row 1 of .*bought\.csv"):
        feedback(WORDS)
