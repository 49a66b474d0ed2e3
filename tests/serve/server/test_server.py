"""The server: over the wire, in its own process; and in this one, where every malformed request has an answer."""

from __future__ import annotations

import http.client
import json
import random
import re
import select
import shutil
import signal
import socket
import threading
import time
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, TOKEN, Server, call, running, started

from recalign.errors import InputError
from recalign.serve.server.about import current, point

pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'recalign[serve]'")
pytest.importorskip(
    "prometheus_client", reason="the server's packages are not installed: pip install 'recalign[serve]'"
)

ANSWERS = {"/recommend", "/score", "/health", "/ready", "/metrics"}


@pytest.fixture(scope="module")
def versions(bundled, tmp_path_factory) -> Path:
    """Two versions of a bundle, the first of which is current."""
    folder = tmp_path_factory.mktemp("versions")
    for name in ("one", "two"):
        shutil.copytree(current(bundled), folder / name)
    about = json.loads((folder / "two/bundle.json").read_text())
    (folder / "two/bundle.json").write_text(json.dumps({**about, "version": "two"}))
    from recalign.seals import seal

    seal(folder / "two")
    point(folder, "one")
    return folder


@pytest.fixture(scope="module")
def server(versions) -> Iterator[Server]:
    found = started(versions)
    yield found
    found.process.kill()
    found.process.communicate()


def test_over_the_wire_the_answer_is_pythons(server, bundled):
    from recalign.serve.server import load_bundle

    status, _, answer = server.ask("/recommend", ASKED)
    assert status == 200
    own = load_bundle(bundled).recommend(ASKED)
    assert [one["item"] for one in answer["items"]] == [one.item for one in own.items]
    assert [one["score"] for one in answer["items"]] == pytest.approx([one.score for one in own.items], abs=1e-5)
    status, _, scored = server.ask("/score", {"request": ASKED, "items": [7, 3]})
    assert status == 200
    assert scored["log_probs"][0] < 0
    assert scored["log_probs"][1] is None


def test_server_answers_ready_openapi_and_metrics(server):
    assert server.ask("/ready", method="GET")[0] == 200
    page = server.ask("/openapi.json", method="GET")[2]
    assert set(page["paths"]) == {"/", "/bundle", "/items", "/try", *ANSWERS}
    figures = server.ask("/metrics", method="GET")[2]
    assert re.search(r'recalign_requests_total\{route="/recommend",status="200"\} \d', figures)
    assert 'recalign_request_duration_seconds_bucket{le="0.05",route="/recommend"}' in figures
    assert "recalign_version_refused 0.0" in figures
    assert "process_resident_memory_bytes" in figures
    assert "_created" not in figures


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/recommend", b"{", {}, 422),
        ("/recommend", b'{"strength": NaN}', {}, 422),
        ("/recommend", b"[" * 100_000, {}, 422),
        ("/recommend", b"{}", {"Content-Type": "text/plain"}, 415),
        ("/recommend", b" " * (2**20 + 1), {}, 413),
        ("/recommend", {"items": ["3"], "times": [1]}, {}, 422),
        ("/score", {"request": ASKED}, {}, 422),
        ("/nothing", {}, {}, 404),
        ("/health", {}, {}, 405),
        ("/recommend", ASKED, {"Host": "elsewhere.org"}, 403),
    ],
)
def test_malformed_requests(path, body, headers, status, server):
    found, answered, said = server.ask(path, body, **headers)
    assert found == status
    assert answered.get("allow") == ("GET" if status == 405 else None)
    assert said["error"]
    assert said["remedy"]


CHUNKED = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1"


@pytest.mark.parametrize(
    ("head", "more"),
    [
        *((b"GET / HTTP/1.1\r\na: ", b"x"), (b"GET /", b"x"), (b"GET / HTTP/1.1\r\n", b"a: b\r\n")),
        *((CHUNKED + b";", b"x"), (CHUNKED + b"\r\n{\r\n0\r\n", b"a: b\r\n")),  # between and after parts of a body
    ],
)
def test_server_ends_requests_that_never_end(server, head, more):
    with socket.create_connection(("127.0.0.1", server.port)) as asking, pytest.raises(ConnectionError):
        asking.sendall(head + more * (20_000_000 // len(more)))


@pytest.fixture
def bounded(bundled, monkeypatch) -> Iterator[int]:
    """The port of a server in this process that asks for a token, of 8 connections, and .5 s for a request."""
    from recalign.serve.server import guard
    from recalign.serve.server.app import make_app
    from recalign.serve.server.command import bind_socket

    monkeypatch.setattr(guard, "CONNECTIONS", 8)
    monkeypatch.setattr(guard, "UNFINISHED", 0.5)
    with bind_socket("127.0.0.1", 0) as listening:
        server = guard.server_of(make_app(bundled, TOKEN))
        running = threading.Thread(target=server.run, args=([listening],))
        running.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        running.join()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


OK = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


def test_no_more_connections_are_open_than_may_be(bounded, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.guard.UNFINISHED", 2)
    silent = [connected(bounded) for _ in range(12)]

    def closed_after(seconds: float) -> int:
        time.sleep(seconds)
        return len(select.select(silent, [], [], 0)[0])  # an end can be read

    assert (closed_after(1), closed_after(1.5)) == (4, 12)
    with connected(bounded) as asking:
        asking.sendall(HEALTH)
        assert asking.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "answer"),
    [
        *((b"", b""), (b"GET /health HTTP/1.1\r\nHost: ", b""), (b"GET /", b"")),
        (b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n", b"HTTP/1.1 401"),  # the body goes on
        (CHUNKED + b"\r\n{", b"HTTP/1.1 401"),
        (HEALTH, b"HTTP/1.1 200"),  # line breaks go on
    ],
)
def test_a_request_that_never_ends_is_ended(bounded, begun, answer):
    read, end = b"", time.monotonic() + 10
    with connected(bounded) as asking, suppress(ConnectionError):
        asking.sendall(begun)
        while time.monotonic() < end:
            time.sleep(0.02)
            asking.sendall(b"\r" if begun == HEALTH else b"1")
            read += asking.recv(4096) if select.select([asking], [], [], 0)[0] else b""
    assert time.monotonic() < end
    assert read.startswith(answer)


def test_requests_that_are_sent_ahead_are_counted(bounded):
    with connected(bounded) as asking:
        asking.sendall(HEALTH * 5_000)
        read = b""
        with suppress(ConnectionError):
            while more := asking.recv(2**16):
                read += more
    assert read.count(b"HTTP/1.1 200 OK") <= 17


def test_the_head_and_the_body_of_an_answer_are_one_write():
    from recalign.serve.server.guard import OneWrite

    written: list[bytes] = []
    transport = OneWrite(types.SimpleNamespace(write=written.append, close=lambda: written.append(b"closed")))
    for data in (going := b"HTTP/1.1 100 Continue\r\n\r\n", OK, b"{}", b"", OK):
        transport.write(data)
    transport.close()
    assert written == [going, OK + b"{}", OK, b"closed"]


def test_a_new_version_is_taken_up_and_a_damaged_one_is_not(server, versions):
    assert server.ask("/ready", method="GET")[2] != {"version": "two"}
    shutil.copytree(versions / "two", versions / "three")
    (versions / "three" / "policy.onnx").write_bytes(b"?")
    statuses, stop = [], threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            statuses.append(server.ask("/recommend", ASKED)[0])

    asking = threading.Thread(target=keep_asking)
    asking.start()
    point(versions, "three")
    time.sleep(1.5)
    assert server.ask("/ready", method="GET")[2] != {"version": "two"}
    assert "recalign_version_refused 1.0" in server.ask("/metrics", method="GET")[2]
    point(versions, "two")
    end = time.monotonic() + 20
    while server.ask("/ready", method="GET")[2] != {"version": "two"} and time.monotonic() < end:
        time.sleep(0.1)
    assert "recalign_version_refused 0.0" in server.ask("/metrics", method="GET")[2]
    stop.set()
    asking.join()
    assert server.ask("/recommend", ASKED)[2]["version"] == "two"
    assert set(statuses) == {200}


def test_sigterm_finishes_what_is_being_answered(server):
    body, begun = json.dumps(ASKED).encode(), []
    for _ in range(8):  # half of each has come, so that it is begun
        begun.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30))
        begun[-1].putrequest("POST", "/recommend")
        begun[-1].putheader("Content-Type", "application/json")
        begun[-1].putheader("Content-Length", str(len(body)))
        begun[-1].endheaders(body[:5])
    assert server.ask("/ready", method="GET")[0] == 200  # comes after them
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # uvicorn looks ten times a second
    for one in begun:
        one.send(body[5:])
    assert [one.getresponse().status for one in begun] == [200] * 8
    server.process.wait(timeout=20)
    logged = server.process.stderr.read() if server.process.stderr else ""
    assert "now serving two" in logged
    assert "still serving" in logged
    assert "Traceback" not in logged


@pytest.fixture
def app(bundled) -> Any:
    from recalign.serve.server.app import make_app

    return make_app(bundled)


def test_a_body_that_does_not_say_its_length_is_read_up_to_the_limit(app):
    [(status, _, text)] = running(app, call(app, "/recommend", b" " * (2**20 + 1)))
    assert (status, json.loads(text)["where"]) == (413, "body")


def test_without_a_token_only_names_of_this_machine_are_answered(app):
    hosts = {"localhost:8000": 200, "[::1]:8000": 200, "[::1]evil": 403, "127.0.0.1.evil.org": 403, "": 403}
    found = running(app, *(call(app, "/ready", b"", {"host": one}, "GET") for one in hosts))
    assert [status for status, *_ in found] == list(hosts.values())


def test_a_token_is_asked_for_everywhere_but_for_health(bundled):
    from recalign.serve.server.app import make_app

    guarded = make_app(bundled, TOKEN)
    paths = ("/recommend", "/metrics", "/docs", "/openapi.json", "/nothing")
    without = running(guarded, *(call(guarded, path, b"{}", method="GET") for path in paths))
    assert [status for status, _, _ in without] == [401] * len(paths)
    wrong = call(guarded, "/metrics", b"", {"authorization": "Bearer nö"}, "GET")
    right = call(guarded, "/metrics", b"", {"authorization": f"Bearer {TOKEN}", "host": "elsewhere.org"}, "GET")
    health = call(guarded, "/health", b"", method="GET")
    assert [status for status, _, _ in running(guarded, wrong, right, health)] == [401, 200, 200]


def test_pages_of_named_sites_may_ask(bundled):
    from recalign.serve.server.app import make_app

    app, shop = make_app(bundled, TOKEN, origins=["https://shop.example"]), {"origin": "https://shop.example"}
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed, refused, wrong, right = running(
        app,
        call(app, "/recommend", b"", {**shop, **preflight}, "OPTIONS"),
        call(app, "/recommend", b"", {**preflight, "origin": "https://evil.example"}, "OPTIONS"),
        call(app, "/recommend", b"{}", shop),
        call(app, "/recommend", b"{}", {**shop, "authorization": f"Bearer {TOKEN}"}),
    )
    assert [status for status, *_ in (allowed, refused, wrong, right)] == [200, 400, 401, 200]
    named = [headers.get("access-control-allow-origin") for _, headers, _ in (allowed, refused, wrong, right)]
    assert named == [shop["origin"], None, shop["origin"], shop["origin"]]


def test_server_answers_503_when_the_queue_is_full(app, monkeypatch):
    monkeypatch.setattr("recalign.serve.server.service.TIMEOUT", 300.0)  # who is queued is answered, however late
    many = [call(app, "/recommend", json.dumps(ASKED).encode()) for _ in range(400)]
    found = running(app, *many)
    statuses = [status for status, _, _ in found]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 256
    assert next(headers for status, headers, _ in found if status == 503)["retry-after"] == "1"


JUNK = [None, True, 0, -1, 2**70, 1.5, 1e308, "", "3", "ü\ud800", [], [[]], {}, {"a": 1}, "x" * 300, [1] * 50]
NAMES = ["items", "times", "rewards", "time", "k", "allow", "block", "boost", "seen", "strength"]
NAMES += ["log_probs", "user", "explore", "other"]


def malformed(draw: random.Random) -> bytes:
    """A request with something wrong, or only unusual, in it."""
    given: dict[str, Any] = {"items": [3, 5], "times": [10, 20], "k": 3}
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(NAMES)
        kind = draw.random()
        if kind < 0.6 or not isinstance(given.get(name), list):
            given[name] = draw.choice(JUNK)
        elif given[name]:
            given[name] = [*given[name][:-1], draw.choice(JUNK)]
        if draw.random() < 0.1:
            given["explore"] = {draw.choice(["temperature", "share", "fixed", "seed", "other"]): draw.choice(JUNK)}
            given["boost"] = [{"column": draw.choice(JUNK), "value": draw.choice(JUNK), "weight": draw.choice(JUNK)}]
    text = json.dumps(given).encode()
    if draw.random() < 0.1:
        place = draw.randrange(len(text))
        text = text[:place] + bytes([draw.randrange(256)]) + text[place + draw.randint(0, 5) :]
    return text


def fuzzed(app: Any, count: int) -> None:
    draw = random.Random(0)
    bodies = [malformed(draw) for _ in range(count)]

    async def one_after_another() -> None:
        for n, body in enumerate(bodies):
            path = ("/recommend", "/score")[n % 2]
            sent = b'{"request":%s,"items":[1]}' % body if n % 2 else body
            status, _, text = await call(app, path, sent)
            assert status in (200, 422), (status, body)
            said = json.loads(text)
            assert status == 200 or (said["error"] and said["where"] and said["remedy"]), (said, body)

    running(app, one_after_another())


def test_whatever_is_asked_is_answered_without_a_fault(app):
    fuzzed(app, 500)


@pytest.mark.long
def test_whatever_is_asked_ten_thousand_times(app):
    fuzzed(app, 10_000)


def test_serve_refuses_what_cannot_be_served(bundled, tmp_path, monkeypatch):
    from recalign.serve.server.command import TOKEN as VARIABLE
    from recalign.serve.server.command import bind_socket, secret, serve

    monkeypatch.delenv("RECALIGN_TOKEN", raising=False)
    with pytest.raises(InputError, match="a token is needed"):
        serve([str(bundled), "--host", "0.0.0.0"])
    with pytest.raises(InputError, match="no bundle in this folder"):
        serve([str(tmp_path), "--port", "0"])
    with bind_socket("127.0.0.1", 0) as taken, pytest.raises(InputError, match="cannot listen"):
        serve([str(bundled), "--port", str(taken.getsockname()[1])])
    for origin in ("*", "shop.example", "https://shop.example/", "https://a,https://b"):
        with pytest.raises(InputError, match="is not an origin"):
            serve([str(bundled), "--origin", "https://shop.example", "--origin", origin])
    with pytest.raises(InputError, match="threads"):
        serve([str(bundled), "--threads", "0"])
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(InputError, match="too short"):
        secret(tmp_path / "token", VARIABLE, "token")
    with pytest.raises(InputError, match="cannot be read"):
        secret(tmp_path / "gone", VARIABLE, "token")
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert secret(tmp_path / "token", VARIABLE, "token") == TOKEN
