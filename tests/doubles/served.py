"""A server in its own process, and an application in this one."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recalign.serve.server.about import BundleConfig
from recalign.serve.server.catalogue import Catalogue

ASKED = {"items": [3, 5], "times": [1000, 1060], "k": 4}
TOKEN = "a-token-of-this-test-0123456789"


@dataclass
class Server:
    process: subprocess.Popen
    port: int

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, dict, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), json.loads(text) if text.startswith(b"{") else text.decode()


def started(bundle: Path, *words: str, **environment: str) -> Server:
    command = [sys.executable, "-m", "recalign", "serve", str(bundle), "--port", "0", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.search(r":(\d+), described", said)
    assert found, (said, process.communicate(timeout=30))
    return Server(process, int(found[1]))


def call(app: Any, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> Any:
    """A coroutine that asks an application: status, headers and body."""

    async def asked() -> tuple[int, dict, bytes]:
        given = {"host": "127.0.0.1", "content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        text = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, text

    return asked()


def running(app: Any, *coroutines: Any) -> list[Any]:
    """Await coroutines while the application's queue works."""

    async def all_of_them() -> list[Any]:
        work = [asyncio.create_task(one) for one in app.state.work()]
        try:
            return await asyncio.gather(*coroutines)
        finally:
            for task in work:
                task.cancel()

    return asyncio.run(all_of_them())


def asked_until_killed(server: Server, ask: Callable[[int], None], acknowledged: Sized) -> str:
    """Ask with numbers of their own in four threads, kill it once 40 are acknowledged, and return what it logged."""

    def ask_on(first: int) -> None:
        for n in range(first, first + 10_000):
            try:
                ask(n)
            except (OSError, http.client.HTTPException):  # it was killed before, or within, its answer
                return

    askers = [threading.Thread(target=ask_on, args=(10_000 * n,)) for n in range(4)]
    for asker in askers:
        asker.start()
    end = time.monotonic() + 60
    while len(acknowledged) < 40 and time.monotonic() < end:
        time.sleep(0.01)
    server.process.kill()
    for asker in askers:
        asker.join()
    assert len(acknowledged) >= 40
    return server.process.communicate()[1]


def about(**settings: Any) -> BundleConfig:
    fields = {
        "name": "n", "version": "v", "kind": "items", "inputs": [], "k": 5, "max_length": 4, "time_unit": "s",
        "time_resolution": 1, "request_time": "last_event", "reward": None, "strength": None, "reward_sd": 1.0,
        "collapse": False, "where": None, "log": "l", "catalogue": "c",
    }  # fmt: skip
    return BundleConfig(**{**fields, **settings})


def catalogue(ids: Any, **settings: Any) -> Catalogue:
    return Catalogue(pl.DataFrame({"item": list(ids), "title": [str(one) for one in ids]}), about(**settings))
