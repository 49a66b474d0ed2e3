"""Histories that a server keeps: what is told is kept, once, and forgotten when it is to be."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served import TOKEN, asked_until_killed, call, catalogue, running, started

from recalign.errors import InputError
from recalign.serve.server import Request
from recalign.serve.server.catalogue import Catalogue, fine_times, of_micro
from recalign.serve.server.database import DAY
from recalign.serve.server.request import Events
from recalign.serve.server.store import AsyncStore, Store, latest, rows_of, with_history

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'recalign[serve]'")
EVENTS_TOKEN = "another-token-of-this-test-0123"
IDS = (3, 5, 7)
BEARER = {"authorization": f"Bearer {EVENTS_TOKEN}"}


def row(user: str = "anna", id: str = "1", item: int | str = 3, time: int = 10, reward: float | None = None) -> tuple:
    return user, id, item, time, reward


def event(id: int, item: int = 3, user: int | str = "anna", time: int = 1000, **more: Any) -> dict[str, Any]:
    return {"id": id, "user": user, "item": item, "time": time, **more}


@pytest.fixture
def store(tmp_path) -> Any:
    found = Store(tmp_path / "kept" / "store.sqlite")
    yield found
    found.close()


def test_a_history_is_in_the_order_of_time_and_then_of_arrival(store):
    store.add([row(id="1", item=5, time=30), row(id="2", item=7, time=10)])
    store.add([row(id="3", item="x", time=20, reward=0.5), row(id="4", item=9, time=10), row("bob", id="1")])
    assert store.history("anna") == [(7, 10, None), (9, 10, None), ("x", 20, 0.5), (5, 30, None)]
    assert store.history("nobody") == []


def test_add_ignores_events_whose_id_is_stored(store):
    assert vars(store.add([row(id="1"), row(id="2", item=5)])) == {"added": 2, "repeated": 0}
    assert vars(store.add([row(id="2", item=7), row(id="3", item=9)])) == {"added": 1, "repeated": 1}
    assert [item for item, _, _ in store.history("anna")] == [3, 5, 9]
    assert vars(store.add([row("bob", id="2")])) == {"added": 1, "repeated": 0}  # another user's event


def test_the_newest_ten_thousand_are_read(store):
    store.add([row(id=str(n), item=n, time=n) for n in range(10_005)])
    assert [item for item, _, _ in store.history("anna")] == list(range(5, 10_005))
    assert [item for item, _, _ in store.history("anna", until=7)] == list(range(8))


def test_delete_leaves_nothing_of_a_user_in_the_file(store, tmp_path):
    store.add([row("somebody-special", id=str(n)) for n in range(50)])
    store.add([row("bob")])
    assert store.delete("somebody-special") == 50
    assert store.delete("somebody-special") == 0
    files = sorted((tmp_path / "kept").iterdir())
    assert not any(b"somebody-special" in file.read_bytes() for file in files)
    assert any(b"bob" in file.read_bytes() for file in files)
    assert store.history("somebody-special") == []


def test_retention_hides_and_deletes_old_events(tmp_path, monkeypatch):
    store, began = Store(tmp_path / "store.sqlite", days=2), time.time()
    store.add([row(id="1")])
    monkeypatch.setattr(time, "time", lambda: began + 1.5 * DAY)
    store.add([row(id="2", item=5)])
    assert len(store.history("anna")) == 2
    monkeypatch.setattr(time, "time", lambda: began + 2.5 * DAY)
    assert [item for item, _, _ in store.history("anna")] == [5]
    assert store.purge() == 1
    assert store.purge() == 0
    assert store.add([row(id="1")]).added == 1
    store.close()


def test_store_is_readable_by_its_owner_only(store, tmp_path):
    store.add([row()])
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "kept").iterdir()}
    assert found == dict.fromkeys(["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"], 0o600)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    (tmp_path / "kept" / "store.sqlite").chmod(0o644)
    with pytest.raises(InputError, match="users other than its owner") as refused:
        Store(tmp_path / "kept" / "store.sqlite")
    assert "chmod 600" in str(refused.value)


def test_erased_pages_are_overwritten_once_a_backup_has_ended(store, tmp_path, monkeypatch):
    """Without a retention too: a deleted user stood in the log of writes until the server stopped."""
    monkeypatch.setattr("recalign.serve.server.database.RETRY", 0.05)
    log = tmp_path / "kept" / "store.sqlite-wal"
    store.connection.execute("PRAGMA busy_timeout = 10")
    store.add([row(user="zelda-the-special")])
    backup = sqlite3.connect(tmp_path / "kept" / "store.sqlite")
    backup.execute("BEGIN").execute("SELECT count(*) FROM events").fetchall()
    assert store.delete("zelda-the-special") == 1
    assert b"zelda" in log.read_bytes()
    backup.close()

    async def hours() -> None:
        histories = AsyncStore(store)
        forgetting = asyncio.create_task(histories.run())
        end = time.monotonic() + 20
        while b"zelda" in log.read_bytes() and time.monotonic() < end:
            await asyncio.sleep(0.02)
        assert b"zelda" not in log.read_bytes()
        assert not forgetting.done()
        forgetting.cancel()
        histories.close()  # its thread is done with the file before the file is closed

    asyncio.run(hours())


def database(file: Path, said: str) -> None:
    file.touch(0o600)
    file.chmod(0o600)
    connection = sqlite3.connect(file)
    connection.executescript(said)
    connection.close()


def test_store_refuses_another_database_and_leaves_it_unchanged(tmp_path):
    file = tmp_path / "other.sqlite"
    database(file, "CREATE TABLE films (title)")
    before = file.read_bytes()
    with pytest.raises(InputError, match="is not a database of events"):
        Store(file)
    assert file.read_bytes() == before
    database(tmp_path / "newer.sqlite", f"PRAGMA application_id = {0x72656361}; PRAGMA user_version = 2;")
    with pytest.raises(InputError, match="its format is 2"):
        Store(tmp_path / "newer.sqlite")
    (tmp_path / "text").write_text("no database at all, and long enough to be taken for one")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(InputError, match="cannot be opened"):
        Store(tmp_path / "text")
    with pytest.raises(InputError, match="cannot be opened"):
        Store(tmp_path)


def test_two_servers_can_share_a_store(store, tmp_path):
    other = Store(tmp_path / "kept" / "store.sqlite")
    store.add([row(id="1")])
    assert vars(other.add([row(id="1"), row(id="2", item=5)])) == {"added": 1, "repeated": 1}
    assert len(store.history("anna")) == 2
    other.close()


def test_store_can_be_closed_while_threads_use_it(tmp_path):
    """SQLite crashed the process where a connection was closed during a statement of another thread."""
    events = [row(id=str(n), time=n) for n in range(2000)]

    def use(function: Callable[..., Any], *values: Any) -> Any:
        with suppress(sqlite3.ProgrammingError):  # it is closed
            while True:
                function(*values)

    for attempt in range(10):
        store = Store(tmp_path / f"{attempt}.sqlite")
        store.add(events)
        with ThreadPoolExecutor(6) as threads:
            used = [
                threads.submit(use, *call)
                for call in ((store.add, events), (store.history, "anna"), (store.purge,), (store.delete, "bob"))
            ]
            time.sleep(0.02)
            store.close()
        assert [one.exception() for one in used] == [None] * len(used)


@pytest.mark.parametrize(
    ("unit", "given"),
    [("s", [5, 1.25]), ("ms", [1500, 2]), ("us", [7]), ("datetime", ["2026-11-28T13:00:00.5+01:00", "1970-01-01"])],
)
def test_times_come_back_as_they_were(unit, given):
    micro = fine_times(given, unit, str).tolist()
    assert fine_times([of_micro(one, unit) for one in micro], unit, str).tolist() == micro
    if unit != "datetime":
        assert [of_micro(one, unit) for one in micro] == given


def test_a_kept_history_is_a_request_like_any_other():
    rows = rows_of(
        Events([event(1, 3, 22, 10, reward=4), event(2, 99, "22", 20)]).events, catalogue(IDS, time_unit="ms")
    )
    assert {user for user, *_ in rows} == {"22"}
    asked = with_history(Request(user=22, k=3), [kept for _, _, *kept in rows], "ms")
    assert asked == Request(items=(3, 99), times=[10, 20], rewards=(4, None), k=3)
    assert with_history(Request(user="x"), [], "ms") == Request(rewards=[])


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "events"),
        ({"event": []}, "'event'"),
        ({"events": [event(n) for n in range(1001)]}, "events"),
        ({"events": [event(1), {"id": 2}]}, "events[1].user"),
        ({"events": [{**event(1), "rating": 3}]}, "events[0].'rating'"),
        ({"events": [event(1, item="3")]}, "events[0]"),
        ({"events": [event(1, item=2**63)]}, "events[0].item"),
        ({"events": [event(1, user="x" * 201)]}, "events[0].user"),
        ({"events": [event(1, user="a\nb")]}, "events[0].user"),
        ({"events": [event(1, user="\ud800")]}, "events[0].user"),
        ({"events": [event(1), event(2, time=-1)]}, "events[1].time"),
        ({"events": [event(1, time="today")]}, "events[0].time"),
        ({"events": [event(1, reward=float("nan"))]}, "events[0].reward"),
    ],
)
def test_events_that_cannot_be_kept(body, where):
    with pytest.raises(InputError) as refused:
        rows_of(Events(**body).events, catalogue(IDS))
    assert refused.value.where == where
    assert refused.value.remedy


def test_a_policy_that_knows_the_time_of_a_request_is_told_what_had_happened_by_then(store):
    """Clocks of who tells and of who asks differ: an event a moment after the request made that one unreadable."""
    plain = catalogue(IDS)
    known = Catalogue(plain.table, replace(plain.about, request_time="known"))
    kept = [(3, 1_000_000, None), (5, 2_000_000, None), (7, 3_000_000, None)]
    store.add([row("x", id=str(item), item=item, time=time) for item, time, _ in kept])
    request = Request(user="x", time=2)
    asked = with_history(request, store.history("x", latest(request, "s")), "s")
    assert (list(asked.items), list(asked.times), asked.time) == ([3, 5], [1, 2], 2)
    assert known.encode(asked).item_L.shape == (2,)
    with pytest.raises(InputError) as refused:
        latest(Request(user="x", time="noon"), "s")
    assert refused.value.where == "time"


def test_a_backup_that_takes_long_keeps_nobody_from_writing(store, tmp_path):
    store.add([row("zelda")])
    backup = sqlite3.connect(tmp_path / "kept" / "store.sqlite")
    backup.execute("BEGIN").execute("SELECT count(*) FROM events").fetchall()
    waits = store.connection.execute("PRAGMA busy_timeout").fetchall()
    began = time.monotonic()
    assert store.delete("zelda") == 1
    store.purge()
    assert time.monotonic() - began < 4  # each waited for five seconds
    assert store.connection.execute("PRAGMA busy_timeout").fetchall() == waits != [(0,)]
    backup.close()


def test_a_user_and_a_history_are_one_too_many(app):
    both = {"user": "anna", "items": [3], "times": [1]}
    [(status, _, text)] = running(app, post(app, "/recommend", both))
    assert status == 422
    assert "has both a user and a history" in json.loads(text)["error"]


@pytest.fixture
def app(bundled, store) -> Any:
    from recalign.serve.server.app import make_app

    return make_app(bundled, TOKEN, store=store, events_token=EVENTS_TOKEN)


def post(app: Any, path: str, body: Any, token: str = TOKEN) -> Any:
    return call(app, path, json.dumps(body).encode(), {"authorization": f"Bearer {token}"})


def test_a_request_that_names_a_user_is_answered_as_one_with_the_history(app):
    events = [event(1, 3, 22, 1000), event(2, 5, 22, 1060), event(3, 900, 22, 1120)]
    own = {"items": [3, 5, 900], "times": [1000, 1060, 1120], "k": 4}

    async def told_and_asked() -> list[Any]:
        return [
            json.loads((await one)[2])
            for one in (
                post(app, "/events", {"events": events}, EVENTS_TOKEN),
                post(app, "/recommend", {"user": "22", "k": 4}),
                post(app, "/recommend", own),
                post(app, "/score", {"request": {"user": 22}, "items": [7, 5]}),
                post(app, "/score", {"request": own, "items": [7, 5]}),
                post(app, "/recommend", {"user": "nobody", "k": 4}),
                post(app, "/recommend", {"k": 4}),
                call(app, "/users/22", b"", BEARER, "DELETE"),
                post(app, "/recommend", {"user": 22, "k": 4}),
                call(app, "/users/" + "x" * 300, b"", BEARER, "DELETE"),
            )
        ]

    [found] = running(app, told_and_asked())
    taken, by_user, by_history, scored, scored_by_history, nobody, empty, deleted, after, refused = found
    assert taken == {"added": 3, "repeated": 0}
    assert by_user == by_history
    assert by_user["left_out"]["unknown_ids"] == [900]
    assert scored == scored_by_history
    assert nobody["items"] == after["items"] == empty["items"]
    assert nobody["left_out"]["unknown_user"] is after["left_out"]["unknown_user"] is True
    assert empty["left_out"]["unknown_user"] is by_user["left_out"]["unknown_user"] is False
    assert deleted == {"deleted": 3}
    assert refused["where"] == "user"


def test_each_token_opens_its_own_routes_alone(app):
    told = {"events": [event(1)]}
    calls = [
        post(app, "/events", told),
        post(app, "/events", told, EVENTS_TOKEN),
        post(app, "/recommend", {"user": "anna"}, EVENTS_TOKEN),
        call(app, "/users/anna", b"", {"authorization": f"Bearer {TOKEN}"}, "DELETE"),
        call(app, "/users/anna", b"", {}, "DELETE"),
        post(app, "/events\n", told),
    ]
    assert [status for status, _, _ in running(app, *calls)] == [401, 200, 401, 401, 401, 404]


def test_the_event_loop_never_waits_for_the_file(app, store, monkeypatch):
    threads: dict[str, str] = {}

    def noted(name: str, own: Any) -> Any:
        return lambda *given: (threads.update({name: threading.current_thread().name}), own(*given))[1]

    for name in ("add", "history", "delete"):
        monkeypatch.setattr(store, name, noted(name, getattr(store, name)))
    calls = (
        post(app, "/events", {"events": [event(1)]}, EVENTS_TOKEN),
        post(app, "/recommend", {"user": "anna"}),
        call(app, "/users/anna", b"", BEARER, "DELETE"),
    )
    assert [status for status, _, _ in running(app, *calls)] == [200] * 3
    assert {name: thread.partition("_")[0] for name, thread in threads.items()} == {
        "add": "writes",
        "history": "reads",
        "delete": "writes",
    }


def test_a_store_that_fails_is_a_503_and_names_nobody(app, store, monkeypatch, capsys):
    def fails(_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "add", fails)
    [(status, headers, _)] = running(app, post(app, "/events", {"events": [event(1)]}, EVENTS_TOKEN))
    assert (status, headers["retry-after"]) == (503, "10")
    assert capsys.readouterr().err == "the store: database or disk is full\n"


def test_store_answers_503_when_too_many_requests_wait(app, store, monkeypatch):
    monkeypatch.setattr(store, "add", lambda rows: time.sleep(0.001) or store.__class__.add(store, rows))
    calls = [post(app, "/events", {"events": [event(n)]}, EVENTS_TOKEN) for n in range(300)]
    statuses = [status for status, _, _ in running(app, *calls)]
    assert set(statuses) == {200, 503}
    assert len(store.history("anna")) >= statuses.count(200)


JUNK = [None, True, 0, -1, 2**70, 1.5, 1e308, "", "3", "ü\ud800", [], [[]], {}, {"a": 1}, "x" * 300]


def test_whatever_is_told_is_answered_without_a_fault(app):
    draw = random.Random(0)

    async def one_after_another() -> None:
        for n in range(300):
            events = [event(n), event(n + 1)]
            for _ in range(draw.randint(1, 2)):
                draw.choice(events)[draw.choice(["id", "user", "item", "time", "reward", "other"])] = draw.choice(JUNK)
            told = {"events": events} if draw.random() < 0.9 else {"events": draw.choice(JUNK)}
            status, _, text = await post(app, "/events", told, EVENTS_TOKEN)
            assert status in (200, 422), (status, told)
            said = json.loads(text)
            assert status == 200 or (said["error"] and said["where"] and said["remedy"]), (said, told)

    running(app, one_after_another())


def test_serve_refuses_a_store_without_its_own_token(bundled, tmp_path, monkeypatch):
    from recalign.serve.server.command import serve

    words = [str(bundled), "--port", "0"]
    for name in ("RECALIGN_TOKEN", "RECALIGN_EVENTS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="adding events needs a token"):
        serve([*words, "--store", str(tmp_path / "store")])
    with pytest.raises(InputError, match="retention_days"):
        serve([*words, "--store", str(tmp_path / "store"), "--retention_days", "0"])
    monkeypatch.setenv("RECALIGN_TOKEN", TOKEN)
    monkeypatch.setenv("RECALIGN_EVENTS_TOKEN", TOKEN)
    with pytest.raises(InputError, match="have the same token"):
        serve([*words, "--store", str(tmp_path / "store")])
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_process_that_is_killed(bundled, tmp_path):
    words = "--store", str(tmp_path / "kept" / "store.sqlite"), "--retention_days", "30"
    server = started(bundled, *words, RECALIGN_EVENTS_TOKEN=EVENTS_TOKEN)
    acknowledged: list[int] = []

    def tell(n: int) -> None:
        status, _, said = server.ask("/events", {"events": [event(n, time=n)]}, **BEARER)
        assert (status, said) == (200, {"added": 1, "repeated": 0})
        acknowledged.append(n)

    asked_until_killed(server, tell, acknowledged)
    again = started(bundled, *words, RECALIGN_EVENTS_TOKEN=EVENTS_TOKEN)
    try:
        told = {"events": [event(n, time=n) for n in acknowledged[:1000]]}
        assert again.ask("/events", told, **BEARER)[2] == {"added": 0, "repeated": len(acknowledged[:1000])}
        assert again.ask("/recommend", {"user": "anna"})[2]["left_out"]["unknown_user"] is False
        page = again.ask("/openapi.json", method="GET")[2]
        assert {"/events", "/users/{user}"} <= set(page["paths"])
        assert {"Event", "Events", "Taken", "Deleted"} <= set(page["components"]["schemas"])
        assert again.ask("/users/anna", method="DELETE", **BEARER)[0] == 200
        figures = again.ask("/metrics", method="GET")[2]
        assert 'recalign_requests_total{route="/users/",status="200"} 1.0' in figures
        assert "anna" not in figures
    finally:
        again.process.terminate()
    _, logged = again.process.communicate(timeout=30)
    assert logged == ""


def test_without_a_store_a_user_is_refused():
    with pytest.raises(InputError, match="no histories are stored here") as refused:
        catalogue(IDS).encode(Request(user="anna"))
    assert "--store" in str(refused.value)
