"""The log of decisions: what was acknowledged is on disk; without a disk the server goes on, and does not explore."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import threading
import time
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, TOKEN, call, running, started

from recalign.errors import InputError
from recalign.serve.feedback.segments import read
from recalign.serve.server import Answer, LeftOut, Request, Shown
from recalign.serve.server.decision_files import SEGMENT, Segment, line, name_of, private, purge
from recalign.serve.server.decisions import AGAIN, Decisions, pseudonym
from recalign.serve.server.service import Full
from recalign.serve.server.store import DAY

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'recalign[serve]'")
KEY = "a-key-of-this-test-0123456789"
EXPLORE = {**ASKED, "user": "anna-the-special", "explore": {"temperature": 5.0, "fixed": 1, "seed": 3}}


def lines(folder: Path) -> list[dict[str, Any]]:
    """Records of all segments of a folder, without their first lines."""
    found = []
    for path in sorted(folder.glob(f"*{SEGMENT}")):
        head, *records = path.read_text().splitlines()
        assert json.loads(head[9:]) == {"format": 1, "key": name_of(KEY)}
        found += [json.loads(one[9:]) for one in records]
    return found


@pytest.fixture
def decisions(tmp_path) -> Any:
    found = Decisions(tmp_path / "log", KEY)
    yield found
    found.close()


@pytest.fixture
def app(bundled, decisions) -> Any:
    from recalign.serve.server.app import make_app

    return make_app(bundled, decisions=decisions)


def post(app: Any, body: Any, path: str = "/recommend") -> Any:
    return call(app, path, json.dumps(body).encode())


def test_another_key_is_refused_before_anything_is_shown(tmp_path):
    """Its decisions would stand beside others that it cannot be read with."""
    with closing(Decisions(tmp_path / "log", KEY)):
        Segment(tmp_path / "log", KEY).close()
    written = sorted(path.name for path in (tmp_path / "log").iterdir())
    with pytest.raises(InputError, match=r"another key: .*\n.*a folder of its own"):
        Decisions(tmp_path / "log", KEY[::-1])
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == written
    Decisions(tmp_path / "log", KEY).close()


def test_a_record_says_all_that_an_estimate_needs_and_nobodys_name(app, decisions, bundled):
    before = time.time_ns() // 1000
    [(status, _, text)] = running(app, post(app, {**EXPLORE, "block": [7, 9], "allow": list(range(1, 30))}))
    answer, [record] = json.loads(text), lines(decisions.folder)
    assert status == 200
    assert before <= record.pop("time") <= time.time_ns() // 1000
    assert record == {
        "decision": answer["decision"],
        "user": pseudonym(KEY, "anna-the-special"),
        "version": answer["version"],
        "k": 4,
        "seen": "exclude",
        "hidden": 4,
        "blocked": 2,
        "allowed": 29,
        "boosts": 0,
        "items": [one["item"] for one in answer["items"]],
        "arm": "explored",
        "chance": 1.0,
        "temperature": 5.0,
        "fixed": 1,
        "seed": 3,
        "ranked": answer["explored"]["ranked"],
        "log_probs": answer["explored"]["log_probs"],
    }
    assert record["log_probs"][0] == 0 > record["log_probs"][1]
    assert not any(b"anna" in path.read_bytes() for path in decisions.folder.iterdir())


def test_an_answer_is_the_one_without_a_log(app, bundled, decisions):
    from recalign.serve.server.app import make_app

    plain = make_app(bundled)
    bare = {name: value for name, value in EXPLORE.items() if name != "user"}
    [own] = running(plain, post(plain, bare))
    [logged, nobody] = running(app, post(app, EXPLORE), post(app, bare))
    first, second, third = (json.loads(one[2]) for one in (own, logged, nobody))
    assert first["items"] == second["items"] == third["items"]
    assert first["explored"] == second["explored"]
    assert first["decision"] is third["decision"] is None
    assert [one["decision"] for one in lines(decisions.folder)] == [second["decision"]]  # nobody is not logged


def test_a_user_without_a_history_is_unknown_where_no_store_keeps_any(app):
    """Who forgets --store would serve the most common items to everybody, and log that, without a sign."""
    answers = running(app, post(app, {"user": "anna", "k": 2}), post(app, EXPLORE))
    assert [json.loads(one[2])["left_out"]["unknown_user"] for one in answers] == [True, False]


def test_a_ranked_list_is_logged_without_chances(app, decisions):
    asked = {**ASKED, "user": 22}
    running(app, post(app, asked), post(app, {"request": asked, "items": [7]}, "/score"))
    [record] = lines(decisions.folder)
    assert record["user"] == pseudonym(KEY, "22")
    assert {record[name] for name in ("arm", "chance", "temperature", "fixed", "seed", "ranked", "log_probs")} == {None}


def test_without_a_log_a_user_is_refused(bundled):
    from recalign.serve.server.app import make_app

    plain = make_app(bundled)
    assert running(plain, post(plain, {**ASKED, "user": "anna"}))[0][0] == 422


def test_many_at_once_are_few_syncs(app, decisions, monkeypatch):
    syncs, sync = [], os.fsync

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        time.sleep(0.05)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    found = running(app, *(post(app, {**EXPLORE, "explore": {"seed": n}}) for n in range(40)))
    said = {json.loads(text)["decision"] for _, _, text in found}
    assert said == {one["decision"] for one in lines(decisions.folder)}
    assert len(said) == 40
    assert len(syncs) < 20


def test_on_a_full_disk_it_goes_on_without_exploration_and_says_so_once(app, decisions, monkeypatch, capsys):
    write, half = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        if not half:
            half.append(write(descriptor, data[: len(data) // 2]))
            return half[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    async def asked(body: Any) -> dict[str, Any]:
        return json.loads((await post(app, body))[2])

    async def day() -> list[Any]:
        before = [await asked({**EXPLORE, "explore": None}), await asked(EXPLORE)]
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            during = await asyncio.gather(*(asked(EXPLORE) for _ in range(5)))
        said = capsys.readouterr().err
        decisions._again -= AGAIN
        await asked(EXPLORE)  # by which it finds that there is room
        return [*before, during, said, await asked(EXPLORE)]

    [[ranked, first, during, said, again]] = running(app, day())
    assert {one["decision"] for one in during} == {None}
    assert all(one["items"] == ranked["items"] and one["explored"] is None for one in during)
    assert said == (
        "the log of decisions cannot be written (No space left on device): answers go on without exploration\n"
    )
    assert capsys.readouterr().err == "the log of decisions is written again\n"
    assert again["explored"] == first["explored"]
    assert [one["arm"] for one in lines(decisions.folder)] == [None, "explored", None, "explored"]


def test_a_disk_that_hangs_is_a_503(app, decisions, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.decisions.SECONDS", 0.05)
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.4))
    assert running(app, post(app, EXPLORE))[0][0] == 503


def some_decision() -> tuple[Any, Answer]:
    encoded = type("Encoded", (), {"request": Request(), "hidden_S": [], "allow_N": None})()
    return encoded, Answer([Shown(3, "three", 0.0)], LeftOut(), "v")


def test_what_was_given_up_before_it_was_written_is_no_decision(decisions, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.decisions.SECONDS", 0.1)
    hangs, goes_on, sync = threading.Event(), threading.Event(), os.fsync

    def hanging(descriptor: int) -> None:
        hangs.set()
        goes_on.wait(20)
        sync(descriptor)

    async def two() -> list[Any]:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", hanging)
            first = asyncio.create_task(decisions.keep("first", *some_decision()))
            await asyncio.to_thread(hangs.wait, 20)  # it is being written
            found = await asyncio.gather(first, decisions.keep("second", *some_decision()), return_exceptions=True)
            await asyncio.sleep(0.05)
            goes_on.set()
            decisions.close()
            return found

    assert [type(one) for one in asyncio.run(two())] == [Full, Full]
    assert [one["user"] for one in lines(decisions.folder)] == ["first"]


def test_a_server_that_begins_deletes_old_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)  # so has the machine
    (tmp_path / "log").mkdir(mode=0o700)
    old = tmp_path / "log" / f"old{SEGMENT}"
    old.touch()
    os.utime(old, (1000, 1000))
    Decisions(tmp_path / "log", KEY, days=1).close()
    assert not old.exists()


@pytest.mark.parametrize(("limit", "value"), [("LARGEST", 10), ("HOUR", -1.0)])
def test_a_segment_is_closed_when_it_is_large_or_old(decisions, monkeypatch, limit, value):
    monkeypatch.setattr(f"recalign.serve.server.decisions.{limit}", value)

    async def keep_three() -> None:
        for _ in range(3):
            await decisions.keep("u", *some_decision())

    asyncio.run(keep_three())
    assert len(list(decisions.folder.glob(f"*{SEGMENT}"))) == 3
    assert len(lines(decisions.folder)) == 3


def test_a_disk_that_hangs_holds_no_more_than_may_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.decisions.SECONDS", 0.01)
    monkeypatch.setattr("recalign.serve.server.decisions.WAITING", 3)
    hangs = threading.Event()
    monkeypatch.setattr(Segment, "append", lambda *_: hangs.wait())
    decisions = Decisions(tmp_path / "log", KEY)

    async def keep_some() -> None:
        for _ in range(9):
            with pytest.raises(Full):
                await decisions.keep("u", *some_decision())

    asyncio.run(keep_some())
    assert decisions._queue.qsize() < 3
    hangs.set()
    decisions.close()
    assert decisions._room._value == 3  # nobody waits any more


def test_only_its_owner_may_read_it(app, decisions, tmp_path):
    running(app, post(app, EXPLORE))
    assert stat.S_IMODE(decisions.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in decisions.folder.glob(f"*{SEGMENT}")} == {0o600}
    (tmp_path / "loose").mkdir(mode=0o755)
    with pytest.raises(InputError, match="others than its owner") as refused:
        private(tmp_path / "loose")
    assert "chmod 700" in str(refused.value)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no decisions can be kept here"):
        private(tmp_path / "file" / "below")


def test_old_segments_are_deleted_compacted_ones_too(tmp_path):
    now = time.time()
    for name, days in (("a.decisions", 3), ("b.decisions.parquet", 3), ("c.decisions", 1), ("other.txt", 3)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - days * DAY, now - days * DAY))
    purge(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.decisions", "other.txt"]


def test_a_segment_that_is_written_is_not_deleted_however_old_it_looks(tmp_path):
    """A clock that jumps, or a retention of minutes: what is acknowledged afterwards would be nowhere."""
    segment = Segment(tmp_path, KEY)
    os.utime(segment.path, (1000, 1000))
    purge(tmp_path, 2)
    segment.append(line({"decision": "d"}))
    segment.close()
    assert [one["decision"] for one in lines(tmp_path)] == ["d"]
    os.utime(segment.path, (1000, 1000))
    purge(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_pseudonym_needs_the_key():
    assert pseudonym(KEY, 22) == pseudonym(KEY, "22") != pseudonym(KEY + "x", 22)
    assert len(pseudonym(KEY, "ä")) == 32
    assert line({"a": "ä"}) == b'%s {"a":"\\u00e4"}\n' % line({"a": "ä"})[:8]


def test_what_a_log_needs(bundled, tmp_path, monkeypatch):
    from recalign.serve.server.command import serve

    for name in ("RECALIGN_TOKEN", "RECALIGN_DECISIONS_KEY"):
        monkeypatch.delenv(name, raising=False)
    words = [str(bundled), "--port", "0"]
    with pytest.raises(InputError, match="pseudonyms, which a key makes") as refused:
        serve([*words, "--decisions", str(tmp_path / "log")])
    assert "RECALIGN_DECISIONS_KEY" in str(refused.value)
    with pytest.raises(InputError, match="decisions_key_file: there is no log of decisions"):
        serve([*words, "--decisions_key_file", str(tmp_path / "key")])
    (tmp_path / "key").write_text("short")
    with pytest.raises(InputError, match="this key is too short"):
        serve([*words, "--decisions", str(tmp_path / "log"), "--decisions_key_file", str(tmp_path / "key")])
    assert not (tmp_path / "log").exists()


def test_what_was_acknowledged_survives_a_process_that_is_killed(bundled, tmp_path):
    folder = tmp_path / "log"
    server = started(bundled, "--decisions", str(folder), RECALIGN_DECISIONS_KEY=KEY, RECALIGN_TOKEN=TOKEN)
    acknowledged: dict[str, list[int]] = {}
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    def ask(user: int) -> None:
        for _ in range(10_000):
            try:
                status, _, said = server.ask("/recommend", {**ASKED, "user": user, "explore": {}}, **bearer)
            except (OSError, HTTPException):  # it was killed before, or within, its answer
                return
            assert status == 200
            acknowledged[said["decision"]] = [one["item"] for one in said["items"]]

    askers = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for asker in askers:
        asker.start()
    end = time.monotonic() + 60
    while len(acknowledged) < 40 and time.monotonic() < end:
        time.sleep(0.01)
    server.process.kill()
    for asker in askers:
        asker.join()
    _, logged = server.process.communicate()
    assert logged == ""
    assert len(acknowledged) >= 40
    decisions, _ = read(folder, KEY)  # it turns what a dead server has left into Parquet
    assert [path.suffix for path in folder.glob("*.decisions*")] == [".parquet"]
    found = dict(decisions.select("decision", "items").iter_rows())
    assert acknowledged.items() <= found.items()
