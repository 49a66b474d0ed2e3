"""The reader of decisions: whole records are read, once; closed segments become Parquet; a user can be forgotten."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock

from recalign.errors import InputError
from recalign.serve.feedback.segments import DAMAGED, FORGOTTEN, HALF, forget, read, reading
from recalign.serve.server.decision_files import SEGMENT, Segment, compacted, line, lock_of, name_of, purge
from recalign.serve.server.decisions import pseudonym

KEY = "a-key-of-this-test-0123456789"


def record(decision: str, user: str = "anna", time: int = 1_000_000, **more: Any) -> dict[str, Any]:
    own = {"time": time, "decision": decision, "user": user, "version": "v", "items": [3, 5], "arm": None}
    return own | {"log_probs": None} | more


@pytest.fixture
def segment(tmp_path) -> Any:
    (tmp_path / "log").mkdir(mode=0o700)
    found = Segment(tmp_path / "log", KEY)
    yield found
    found.close()


def ids(folder: Path) -> list[str]:
    return read(folder, KEY)[0]["decision"].to_list()


def test_an_open_segment_is_read_and_left_to_its_server(segment):
    segment.append(line(record("b", time=2)) + line(record("a", time=1)))
    assert ids(segment.path.parent) == ["a", "b"]  # in the order of time
    assert segment.path.is_file()
    segment.append(line(record("c", time=3)))
    assert ids(segment.path.parent) == ["a", "b", "c"]


def test_a_closed_one_becomes_parquet_and_reads_the_same(segment):
    folder = segment.path.parent
    segment.append(line(record("a", arm="explored", log_probs=[-0.5, -1.0], seed=2**53 - 1, temperature=2)))
    before, none = read(folder, KEY)
    segment.close()
    os.utime(segment.path, (1000, 1000))
    after, dropped = read(folder, KEY)
    assert not segment.path.exists()
    assert not lock_of(segment.path).exists()
    assert before.equals(after)
    assert dropped == none
    [path] = compacted(folder)
    assert path.stat().st_mtime == 1000  # so that retention counts from its newest decision
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    purge(folder, 30)
    assert compacted(folder) == []


def test_a_half_written_record_is_dropped_and_counted(segment):
    segment.append(line(record("a")) + line(record("b"))[:-30])
    segment.close()
    for _ in range(2):  # from the segment, and from Parquet
        frame, dropped = read(segment.path.parent, KEY)
        assert frame["decision"].to_list() == ["a"]
        assert (dropped[HALF], dropped[DAMAGED]) == (1, 0)


def test_damaged_records_are_dropped_and_counted(segment):
    wrong = line(record("b")).replace(b'"b"', b'"c"')
    fewer = line(record("d", log_probs=[-1.0]))  # two items, one chance
    segment.append(line(record("a")) + wrong + b"\n" + fewer + line({"decision": "e"}) + line(record("f")))
    frame, dropped = read(segment.path.parent, KEY)
    assert frame["decision"].to_list() == ["a", "f"]
    assert (dropped[HALF], dropped[DAMAGED]) == (0, 4)


@pytest.mark.parametrize("size", [0, 5])
def test_a_server_that_was_killed_before_its_first_record(segment, size):
    segment.append(line(record("a")))
    other = segment.path.with_name(f"0{SEGMENT}")
    other.write_bytes(line({"format": 1, "key": name_of(KEY)})[:size])
    frame, dropped = read(segment.path.parent, KEY)
    assert frame["decision"].to_list() == ["a"]
    assert dropped[HALF] == (size > 0)


def test_a_log_that_cannot_be_read(segment, tmp_path):
    folder = segment.path.parent
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no decisions in this folder"):
        read(tmp_path / "empty")
    segment.append(line(record("a")))
    with pytest.raises(InputError, match="another key") as refused:
        read(folder, KEY + "x")
    assert KEY not in str(refused.value)
    assert segment.path.name in str(refused.value)
    assert read(folder)[0].height == 1  # who joins by decision needs no key
    with reading(folder), pytest.raises(InputError, match="another process is reading decisions"):
        read(folder, KEY)
    (folder / f"newer{SEGMENT}").write_bytes(line({"format": 2, "key": ""}))
    with pytest.raises(InputError, match="of format 2"):
        read(folder, KEY)


def test_ids_that_are_texts_in_one_segment_are_texts_in_all(segment):
    segment.append(line(record("a", time=1)))
    segment.close()
    other = Segment(segment.path.parent, KEY)
    other.append(line(record("b", time=2, items=["x", "3"])) + line(record("c", time=3, items=[])))
    assert read(segment.path.parent, KEY)[0]["items"].to_list() == [["3", "5"], ["x", "3"], []]
    other.close()


def test_a_user_is_forgotten_in_what_is_closed_and_in_what_is_open(segment, tmp_path):
    folder, now, anna = segment.path.parent, 10_000_000, pseudonym(KEY, "anna")
    segment.append(line(record("a", user=anna)) + line(record("b", user="bob")))
    segment.close()
    ids(folder)
    other = Segment(folder, KEY)
    other.append(
        line(record("c", user=anna)) + line(record("d", user="bob")) + line(record("later", user=anna, time=now + 1))
    )
    table = folder / "feedback.parquet"
    pl.DataFrame({"user": [anna, "bob", anna], "item": [1, 2, 3]}).write_parquet(table)
    assert forget(folder, "anna", KEY, now, table, folder / "none.parquet") == (3, 2)
    assert ids(folder) == ["b", "d", "later"]
    assert pl.read_parquet(table)["user"].to_list() == ["bob"]
    assert b'"c"' in other.path.read_bytes()  # its server goes on
    other.close()
    assert ids(folder) == ["b", "d", "later"]
    assert not (folder / FORGOTTEN).exists()
    assert not any(b'"c"' in path.read_bytes() for path in folder.iterdir())
    assert [pl.read_parquet(path)["decision"].to_list() for path in compacted(folder)] == [["b"], ["d", "later"]]


def test_on_a_server_that_never_stops_nobody_stays_noted_as_forgotten(segment, monkeypatch):
    """Its open segment is always another one: whoever was forgotten before it was begun is not in it."""
    folder, began = segment.path.parent, int(segment.path.name.partition("-")[0])
    segment.append(line(record("a", user=pseudonym(KEY, "anna"), time=began + 1)))
    assert forget(folder, "anna", KEY, began + 2) == (0, 1)
    assert ids(folder) == []
    assert (folder / FORGOTTEN).exists()
    segment.close()
    monkeypatch.setattr(time, "time_ns", lambda: (began + 3_600_000_000) * 1000)
    other = Segment(folder, KEY)  # an hour later, before anybody reads
    other.append(line(record("b", user="bob", time=began + 10**9)))
    assert ids(folder) == ["b"]
    assert not (folder / FORGOTTEN).exists()
    later = int(other.path.name.partition("-")[0]) + 10
    forget(folder, "anna", KEY, later)
    assert (folder / FORGOTTEN).exists()  # what the server has begun to write may be hers
    other.close()


@pytest.mark.parametrize("compact", [False, True])
def test_a_segment_that_a_server_deletes_while_it_is_read_is_not_missed(segment, compact, monkeypatch):
    folder = segment.path.parent
    segment.append(line(record("a")))
    segment.close()
    if compact:
        ids(folder)
    other = Segment(folder, KEY)
    other.append(line(record("b", time=2_000_000)))
    own = Path.glob

    def purged(path: Path, pattern: str) -> Any:
        found = sorted(own(path, pattern))  # what was there a moment ago
        for one in found:
            if not one.name.startswith(other.path.name):
                one.unlink()
        return found

    monkeypatch.setattr(Path, "glob", purged)
    assert ids(folder) == ["b"]
    monkeypatch.undo()
    assert forget(folder, "bob", KEY, 10) == (0, 0)
    other.close()


def test_under_another_key_nobody_is_forgotten_in_silence(segment):
    folder, now = segment.path.parent, 10_000_000
    segment.append(line(record("a", user=pseudonym(KEY, "anna"))))
    for _ in range(2):  # a segment, and Parquet
        with pytest.raises(InputError, match="another key"):
            forget(folder, "anna", KEY + "x", now)
        assert not (folder / FORGOTTEN).exists()
        segment.close()
        assert ids(folder) == ["a"]
    assert forget(folder, "anna", KEY, now) == (1, 0)


def test_a_reader_that_was_killed_between_writing_and_deleting_counts_nothing_twice(segment):
    folder = segment.path.parent
    segment.append(line(record("a")))
    segment.close()
    kept = segment.path.read_bytes()
    ids(folder)
    segment.path.write_bytes(kept)
    assert ids(folder) == ["a"]
    assert not segment.path.exists()


def test_what_a_killed_reader_had_half_written_is_removed_by_the_next(segment):
    """`forget` would leave it, and so would the retention."""
    segment.append(line(record("a")))
    segment.close()
    left = segment.path.with_name(f".{segment.path.name}.parquet.4711")
    left.write_bytes(b"anna")
    ids(segment.path.parent)
    assert not left.exists()
    left.write_bytes(b"anna")
    purge(segment.path.parent, -1)
    assert list(segment.path.parent.glob("*")) == []


def test_a_damaged_segment_is_named(segment):
    segment.append(line(record("a")))
    segment.close()
    ids(segment.path.parent)
    [table] = compacted(segment.path.parent)
    table.write_bytes(table.read_bytes()[:40])
    with pytest.raises(InputError, match="damaged") as refused:
        ids(segment.path.parent)
    assert table.name in str(refused.value)


def test_the_lock_says_who_writes(segment):
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        FileLock(lock_of(segment.path)).acquire(timeout=0)
    segment.close()
    FileLock(lock_of(segment.path)).acquire(timeout=0).lock.release()
    assert time.monotonic() - began < 5
    assert json.loads(segment.path.read_bytes()[9:])["format"] == 1


def test_ids_beyond_signed_integers_stay_numbers(segment):
    segment.append(line(record("a", items=[2**63 + 1, 7])))
    segment.close()
    other = Segment(segment.path.parent, KEY)
    other.append(line(record("b", time=2_000_000, items=[7])))
    items = read(segment.path.parent, KEY)[0]["items"]
    other.close()
    assert items.dtype == pl.List(pl.UInt64)
    assert items.to_list() == [[2**63 + 1, 7], [7]]
