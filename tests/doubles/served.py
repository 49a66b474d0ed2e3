"""A server in its own process, and an application in this one."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
