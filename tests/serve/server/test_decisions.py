"""The log of decisions: what was acknowledged is on disk; without a disk the server goes on, and does not explore."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from contextlib import closing
from typing import Any

import pytest
from served import ASKED, TOKEN, asked_until_killed, call, running, started

from recalign.errors import InputError
from recalign.serve.server import Answer, LeftOut, Request, Shown
from recalign.serve.server.database import DAY
from recalign.serve.server.decisions import FILE, PAUSE, DecisionLog, Decisions, pseudonym
from recalign.serve.server.service import Asked, Full

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'recalign[serve]'")
KEY = "a-key-of-this-test-0123456789"
EXPLORE = {**ASKED, "user": "anna-the-special", "explore": {"temperature": 5.0, "fixed": 1, "seed": 3}}


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


def records(decisions: Decisions) -> list[dict[str, Any]]:
    found, damaged, gaps = decisions.log.read()
    assert (damaged, gaps) == ([], [])
    return found


def test_another_key_is_refused_before_anything_is_shown(tmp_path):
    """Its decisions would be mixed with others that it cannot be read with."""
    with closing(Decisions(tmp_path / "log", KEY)), pytest.raises(InputError, match="another key") as refused:
        Decisions(tmp_path / "log", KEY[::-1])
    assert KEY not in str(refused.value)
    assert refused.value.where == str(tmp_path / "log" / FILE)
    Decisions(tmp_path / "log", KEY).close()


def test_a_record_has_all_that_an_estimate_needs_and_nobodys_name(app, decisions):
    before = time.time_ns() // 1000
    [(status, _, text)] = running(app, post(app, {**EXPLORE, "block": [7, 9], "allow": list(range(1, 30))}))
    answer, [record] = json.loads(text), records(decisions)
    assert status == 200
    assert before <= record["time"] <= time.time_ns() // 1000
    assert record | {"time": 0} == {
        "time": 0,
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
        **answer["explored"],
    }
    assert record["log_probs"][0] == 0 > record["log_probs"][1]
    assert not any(b"anna" in path.read_bytes() for path in decisions.log.file.parent.iterdir())


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
    assert [one["decision"] for one in records(decisions)] == [second["decision"]]  # nobody is not logged


def test_a_user_without_a_history_is_unknown_where_no_store_keeps_any(app):
    """Who forgets --store would serve the most common items to everybody, and log that, without a sign."""
    answers = running(app, post(app, {"user": "anna", "k": 2}), post(app, EXPLORE))
    assert [json.loads(one[2])["left_out"]["unknown_user"] for one in answers] == [True, False]


def test_a_ranked_list_is_logged_without_chances(app, decisions):
    asked = {**ASKED, "user": 22}
    running(app, post(app, asked), post(app, {"request": asked, "items": [7]}, "/score"))
    [record] = records(decisions)
    assert record["user"] == pseudonym(KEY, "22")
    assert {record[name] for name in ("arm", "chance", "seed", "log_probs")} == {None}


def test_many_at_once_are_few_commits(app, decisions, monkeypatch):
    append, groups = decisions.log.append, []

    def slow(group: Any) -> None:
        groups.append(len(group))
        time.sleep(0.05)
        append(group)

    monkeypatch.setattr(decisions.log, "append", slow)
    found = running(app, *(post(app, {**EXPLORE, "explore": {"seed": n}}) for n in range(40)))
    assert sorted(json.loads(text)["decision"] for _, _, text in found) == sorted(
        one["decision"] for one in records(decisions)
    )
    assert sum(groups) == 40
    assert len(groups) < 20


def test_on_a_full_disk_it_goes_on_without_exploration_and_says_so_once(app, decisions, capsys):
    async def asked(body: Any) -> dict[str, Any]:
        return json.loads((await post(app, body))[2])

    def room(pages: int) -> None:
        with decisions.log.lock:
            decisions.log.connection.execute(f"PRAGMA max_page_count = {pages}")

    async def day() -> list[Any]:
        before = [await asked({**EXPLORE, "explore": None}), await asked(EXPLORE)]
        room(1)
        await asyncio.gather(*(asked(EXPLORE) for _ in range(40)))  # what pages there are fill up
        during = await asyncio.gather(*(asked(EXPLORE) for _ in range(5)))
        said = capsys.readouterr().err
        room(10_000)
        decisions._resume -= PAUSE
        await asked(EXPLORE)  # by which it finds that there is room
        return [*before, during, said, await asked(EXPLORE)]

    [[ranked, first, during, said, again]] = running(app, day())
    assert {one["decision"] for one in during} == {None}
    assert all(one["items"] == ranked["items"] and one["explored"] is None for one in during)
    assert said == (
        "the log of decisions cannot be written (database or disk is full): answers go on without exploration\n"
    )
    assert capsys.readouterr().err == "the log of decisions is written again\n"
    assert again["explored"] == first["explored"]
    assert [one["arm"] for one in records(decisions)][-2:] == [None, "explored"]


def asked(user: str, **given: Any) -> Asked:
    encoded: Any = type("Encoded", (), {"request": Request(), "hidden_S": [], "allow_N": None})()
    nothing: Any = None
    return Asked(nothing, encoded, user=user, **given)


ANSWER = Answer([Shown(3, "three", 0.0)], LeftOut(), "v")


def kept(decisions: Decisions, *users: str) -> None:
    for user in users:
        [answer] = decisions.keep([asked(user)], [ANSWER])
        assert answer.decision


def test_requests_that_timed_out_before_writing_are_not_logged(app, decisions, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.service.TIMEOUT", 0.2)
    hangs, goes_on, append = threading.Event(), threading.Event(), decisions.log.append

    def hanging(group: Any) -> None:
        hangs.set()
        goes_on.wait(20)
        append(group)

    async def some() -> list[Any]:
        ask, bundle = app.state.service.batcher.ask, app.state.service.bundle
        monkeypatch.setattr(decisions.log, "append", hanging)
        encoded = bundle.encode(Request(**ASKED))
        first = asyncio.create_task(ask(Asked(bundle, encoded, user="first")))
        await asyncio.to_thread(hangs.wait, 20)  # it is being written
        others = [ask(Asked(bundle, encoded, user=f"later {n}")) for n in range(5)]  # more than there are threads
        found = await asyncio.gather(first, *others, return_exceptions=True)
        goes_on.set()
        await asyncio.to_thread(app.state.service.close)
        return found

    assert [type(one) for one in asyncio.run(some())] == [Full] * 6
    assert [one["user"] for one in records(decisions)] == [pseudonym(KEY, "first")]


def test_the_event_loop_does_not_wait_for_the_disk(app, decisions, monkeypatch):
    threads = list[str]()
    monkeypatch.setattr(decisions.log, "append", lambda _: threads.append(threading.current_thread().name))
    running(app, post(app, {**ASKED, "user": "anna"}))
    assert [name.split("_")[0] for name in threads] == ["answers"]


def test_old_decisions_are_deleted_as_the_server_begins(tmp_path, monkeypatch):
    began = time.time()
    with closing(Decisions(tmp_path / "log", KEY, days=2)) as decisions:
        kept(decisions, "anna")
        monkeypatch.setattr(time, "time", lambda: began + 3 * DAY)
        kept(decisions, "bob")

        async def a_moment() -> None:
            purging = asyncio.create_task(decisions.run())
            while len(records(decisions)) > 1:
                await asyncio.sleep(0.01)
            purging.cancel()

        asyncio.run(asyncio.wait_for(a_moment(), 20))
        assert [one["user"] for one in records(decisions)] == [pseudonym(KEY, "bob")]


@pytest.mark.parametrize(
    "change",
    [
        "record = replace(record, '\"k\":10', '\"k\":11')",
        "record = CAST(substr(CAST(record AS BLOB), 1, 30) || x'ff' AS TEXT)",
        "user = 'another'",
        "received = received + 1",
        "crc = crc + 1",
    ],
)
def test_a_damaged_record_is_left_out_by_number(decisions, change):
    kept(decisions, "anna", "bob", "carl")
    with closing(sqlite3.connect(decisions.log.file)) as other, other:
        other.execute(f"UPDATE decisions SET {change} WHERE number = 2")
    found, damaged, _ = decisions.log.read()
    assert [one["user"] for one in found] == [pseudonym(KEY, "anna"), pseudonym(KEY, "carl")]
    assert damaged == [2]


def test_serve_refuses_a_decision_log_without_a_key(bundled, tmp_path, monkeypatch):
    from recalign.serve.server.command import serve

    for name in ("RECALIGN_TOKEN", "RECALIGN_DECISIONS_KEY"):
        monkeypatch.delenv(name, raising=False)
    words = [str(bundled), "--port", "0"]
    with pytest.raises(InputError, match="RECALIGN_DECISIONS_KEY"):
        serve([*words, "--decisions", str(tmp_path / "log")])
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
        status, _, said = server.ask("/recommend", {**ASKED, "user": user, "explore": {}}, **bearer)
        assert status == 200
        acknowledged[said["decision"]] = [one["item"] for one in said["items"]]

    assert asked_until_killed(server, ask, acknowledged) == ""
    with closing(DecisionLog(folder, KEY)) as log:
        decisions, damaged, gaps = log.read()
    assert (damaged, gaps) == ([], [])
    assert acknowledged.items() <= {one["decision"]: one["items"] for one in decisions}.items()
