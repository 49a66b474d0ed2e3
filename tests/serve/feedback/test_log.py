"""The log of decisions as a table; a user can be forgotten."""

from __future__ import annotations

import math
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recalign.errors import InputError
from recalign.serve.feedback.log import COLUMNS, forget, read, reading, table
from recalign.serve.server.decisions import FILE, DecisionLog, pseudonym

KEY = "a-key-of-this-test-0123456789"


def decision(name: str, user: str = "anna", time: int = 1_000_000, **more: Any) -> dict[str, Any]:
    own = {"time": time, "decision": name, "user": pseudonym(KEY, user), "items": [3, 5], "allowed": None}
    return (
        dict.fromkeys(COLUMNS)
        | {"k": 2, "seen": "exclude", "hidden": 0, "blocked": 0, "boosts": 0, "version": "v"}
        | own
        | more
    )


@pytest.fixture
def log(tmp_path) -> Any:
    with closing(DecisionLog(tmp_path / "log", KEY)) as found:
        yield found


def ids(folder: Path) -> list[str]:
    with reading(folder, KEY) as log:
        return read(log)[0]["decision"].to_list()


def test_decisions_are_read_in_the_order_of_time_while_their_server_goes_on(log):
    log.append([decision("b", time=2), decision("a", time=1)])
    assert ids(log.file.parent) == ["a", "b"]
    log.append([decision("c", time=3, arm="explored", log_probs=[-0.5, -1.0], seed=2**53 - 1, temperature=2.0)])
    with reading(log.file.parent, None) as own:  # who joins by decision needs no key
        frame, damaged, missing = read(own)
    assert (frame["decision"].to_list(), damaged, missing) == (["a", "b", "c"], 0, 0)
    assert frame.schema == pl.Schema(COLUMNS | {"items": pl.List(pl.Int64)})
    assert frame.row(2, named=True)["log_probs"] == [-0.5, -1.0]


def test_damaged_records_are_counted_and_named(log, capsys):
    log.append([decision("a"), decision("b"), decision("c")])
    with log.connection:
        log.connection.execute("UPDATE decisions SET crc = 0 WHERE number = 2")
    assert ids(log.file.parent) == ["a", "c"]
    assert "1 damaged records are left out: numbers 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        *({"items": None}, {"time": "now"}, {"k": 1.5}, {"log_probs": [None]}, {"hidden": 2**63}),
        *({"log_probs": [-1.0]}, {"log_probs": []}, {"log_probs": [0.1, -1.0]}, {"log_probs": [math.nan, -1.0]}),
        {"decision": "a"},  # copied
    ],
)
def test_records_of_wrong_types_are_damaged_whatever_their_checksum_says(log, wrong, capsys):
    log.append([decision("a"), decision("b") | wrong])
    assert ids(log.file.parent) == ["a"]
    assert "1 damaged records are left out: numbers 2" in capsys.readouterr().err


def test_records_that_nobody_deleted_are_missed_by_number(log, capsys):
    log.append([decision(str(n), user=str(n % 5), time=n) for n in range(1, 21)])
    assert log.delete(pseudonym(KEY, "3")) == 4
    log.append([decision("21", user="3", time=21)])
    assert log.delete(pseudonym(KEY, "3")) == 1  # the newest: its number is not given again
    assert len(ids(log.file.parent)) == 16
    assert capsys.readouterr().err == ""
    log.append([decision(str(n), time=n) for n in range(22, 25)])
    with log.connection:
        log.connection.execute("DELETE FROM decisions WHERE number IN (1, 5, 6, 7, 9, 24)")
    assert len(ids(log.file.parent)) == 13
    with log.connection:  # of wrong types
        log.connection.executescript("UPDATE sqlite_sequence SET seq = NULL; INSERT INTO deleted VALUES (10, 'x')")
    assert len(ids(log.file.parent)) == 13
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("6 records are missing, but were not deleted: numbers 1, 5-7, 9, 24")
    assert said[1].endswith("5 records are missing, but were not deleted: numbers 1, 5-7, 9")


def test_numbers_of_old_records_are_kept_as_one_span(log):
    for n in range(5):
        log.append([decision(str(n), time=n)])
    log.days = 1e-12
    assert (log.purge(), log.read()) == (5, ([], [], []))
    assert log.connection.execute("SELECT * FROM deleted").fetchall() == [(1, 5)]


def test_a_log_that_cannot_be_read(log, tmp_path):
    folder = log.file.parent
    with pytest.raises(InputError, match="no decisions in this folder"), reading(tmp_path / "gone", None):
        pass
    log.append([decision(str(n)) for n in range(100)])
    with pytest.raises(InputError, match="another key"), reading(folder, KEY + "x"):
        pass
    said: list[Exception] = []

    def read_too() -> None:
        try:
            ids(folder)
        except InputError as error:
            said.append(error)

    with reading(folder, KEY):
        other = threading.Thread(target=read_too)
        other.start()
        other.join()
    assert "another process is reading decisions" in str(said[0])
    log.close()
    whole = log.file.read_bytes()
    log.file.write_bytes(whole[:8192] + b"?" * (len(whole) - 8192))
    with pytest.raises(InputError, match="damaged") as refused:
        ids(folder)
    assert refused.value.where == str(folder / FILE)


@pytest.mark.parametrize(
    ("items", "kind", "found"),
    [
        ([[3], ["x", "3"], []], pl.String, [["3"], ["x", "3"], []]),
        ([[2**63 + 1, 7], [7]], pl.UInt64, [[2**63 + 1, 7], [7]]),
        ([[-1], [7]], pl.Int64, [[-1], [7]]),
    ],
)
def test_ids_are_of_one_type(items, kind, found):
    column = table([decision("a", items=some) for some in items])["items"]
    assert (column.dtype, column.to_list()) == (pl.List(kind), found)


def test_a_user_is_forgotten_in_the_log_and_in_the_table(log):
    folder, anna = log.file.parent, pseudonym(KEY, "anna")
    log.append([decision("a"), decision("b", "bob"), decision("c")])
    feedback = folder / "feedback.parquet"
    pl.DataFrame({"user": [anna, "bob", anna], "item": [1, 2, 3]}).write_parquet(feedback)
    with pytest.raises(InputError, match="another key"):  # under which nobody would be found
        forget(folder, "anna", KEY + "x", feedback)
    assert forget(folder, "anna", KEY, feedback, folder / "none.parquet") == 4
    assert ids(folder) == ["b"]
    assert pl.read_parquet(feedback)["user"].to_list() == ["bob"]
    assert not any(anna.encode() in path.read_bytes() for path in folder.iterdir())  # its server is still there
    log.append([decision("d")])
    assert ids(folder) == ["b", "d"]
