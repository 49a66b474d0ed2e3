"""Checks before a request is read: tokens, hosts, limits of size and time. Prometheus metrics, without ids."""

from __future__ import annotations

import asyncio
import functools
import hmac
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import Response
from fastapi.responses import JSONResponse
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recalign.serve.server.answer import Problem
from recalign.serve.server.service import TIMEOUT, is_loopback

MAX_HEADERS = 2**16
"""Maximum bytes of incomplete headers or of chunk framing. One read, 256 KB at most, may exceed it."""
CONNECTIONS = 1024
"""Connections that may be open; a further one is closed at once."""
UNFINISHED = 2 * TIMEOUT
"""Seconds after which a connection is closed if its request is incomplete, or no further one follows."""
PIPELINED = 16
"""Requests that a connection may queue behind the one being answered (HTTP pipelining)."""
FINISHING = 30
"""Seconds in which requests that are being answered may finish after SIGTERM."""
MAX_BODY = 2**20
"""Bytes that a request's body may have."""
TOO_LONG = Problem(f"a body may have at most {MAX_BODY:,} bytes", "body", "ask for less at once")
OPEN = ("/health", "/ready", "/")
"""Routes that need no token: health checks, and the page, which asks for the token."""
EVENTS, USERS = "/events", "/users/"
"""Routes of the store, with a token of their own; a user follows the second."""
ROUTES = ("/recommend", "/score", "/metrics", "/items", "/bundle", "/try", EVENTS, USERS, *OPEN)
HOST = re.compile(r"(?:\[(.*)\]|(.*?))(?::\d+)?")
"""A ``Host``: an address in brackets or a name, and a port."""
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def problem(status: int, error: str, where: str | None, remedy: str | None, **headers: str) -> Response:
    """A response that says what is wrong, where, and what to do."""
    return JSONResponse(asdict(Problem(error, where, remedy)), status, headers)


class Figures:
    """What ``/metrics`` shows: counts and times, never an id."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        kept: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("recalign_requests", "Requests", ["route", "status"], **kept)
        seconds = "recalign_request_duration_seconds"
        self.seconds = Histogram(seconds, "Seconds to an answer", ["route"], buckets=SECONDS, **kept)
        self.batch = Histogram(
            "recalign_batch_size", "Requests answered at once", buckets=[1, 2, 4, 8, 16, 32, 64], **kept
        )
        self.refused = Gauge("recalign_version_refused", "1: the version that `current` names is not served", **kept)
        self.waiting = Gauge("recalign_waiting", "Requests that wait", **kept)
        self.bundle = Info("recalign_bundle", "What is served", **kept)


class BoundedHTTP(HttpToolsProtocol):
    """HTTP with limits on what clients without a token can use up.

    Limited are connections, the bytes of a URL, of headers and of whatever stands between and after the chunks of a
    body, the seconds until a request is complete, and pipelined requests.
    """

    unended = 0
    deadline = math.inf
    checking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport))  # type: ignore[arg-type]
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self.deadline = self.loop.time() + UNFINISHED
            self._check_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.checking is not None:
            self.checking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.unended += len(data)
        super().data_received(data)
        if self.unended > MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response(f"Headers may have at most {MAX_HEADERS:,} bytes.")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests at once")  # ends in a 400
        super().on_message_begin()
        self.deadline = self.loop.time() + UNFINISHED

    def on_headers_complete(self) -> None:
        self.unended = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unended = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.deadline = math.inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.transport.write(b"")  # sends the held head of an answer without a body
        super().on_response_complete()
        self.deadline = self.loop.time() + UNFINISHED  # to read this answer and send the next request

    def _check_deadline(self) -> None:
        """Close the connection if it is late, else check again later. Cheaper than a timer per request."""
        if (left := self.deadline - self.loop.time()) <= 0:
            self.transport.abort()
        else:
            self.checking = self.loop.call_later(min(left, UNFINISHED), self._check_deadline)


class OneWrite:
    """A transport that sends the head and the body of an answer in one packet, with one system call."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data, or hold it if it is a head."""
        if data.endswith(b"\r\n\r\n") and not data.startswith(b"HTTP/1.1 100"):
            self._head += data
        elif self._head or data:
            self._transport.write(self._head + data)
            self._head = b""

    def close(self) -> None:
        """Send what is held, and close."""
        self.write(b"")
        self._transport.close()


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A uvicorn server for an application."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedHTTP,
            log_level="error",  # one warning per malformed request would fill disks
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=FINISHING,
        )
    )


class Guard:
    """Middleware: checks the token or host, and the body's type and length, before reading; counts and times requests.

    Args:
        app: the application to guard.
        figures: counts and times every request.
        token: bearer token of requests; None: no token, and ``Host`` must be a loopback address.
        events_token: bearer token of requests to the store instead; None: there is no store.
        posts: by path, what answers POST requests instead of the app.
    """

    def __init__(
        self, app: ASGIApp, figures: Figures, token: str | None, events_token: str | None, posts: Mapping[str, ASGIApp]
    ) -> None:
        self.app, self.posts = app, posts
        self.token, self.events_token = token, events_token
        self._requests = functools.cache(figures.requests.labels)
        self._seconds = functools.cache(figures.seconds.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = USERS if scope["path"].startswith(USERS) else scope["path"]
        route = path if path in ROUTES else "other"
        began, status, length, whole = time.perf_counter(), 500, 0, False

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def limited_receive() -> Message:
            nonlocal length, whole
            try:
                async with asyncio.timeout(None if whole else began + TIMEOUT - time.perf_counter()):
                    message = await receive()
            except TimeoutError:
                late = Problem(f"the body did not come within {TIMEOUT:g} s", "body", "send it faster")
                raise HTTPException(408, late) from None  # type: ignore[arg-type]
            length, whole = length + len(message.get("body", b"")), not message.get("more_body", False)
            if length > MAX_BODY:
                raise HTTPException(413, TOO_LONG)  # type: ignore[arg-type]
            return message

        try:
            wrong = self._problem(scope, path)
            if wrong is None:
                app = self.posts.get(path, self.app) if scope["method"] == "POST" else self.app
                await app(scope, limited_receive, counted_send)
            else:
                await wrong(scope, receive, counted_send)
        finally:
            self._requests(route, str(status)).inc()
            self._seconds(route).observe(time.perf_counter() - began)

    def _problem(self, scope: Scope, path: str) -> Response | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not path.isprintable():  # "/events\n" is another path here, and "/events" to the router
            return problem(404, "there is no such path", "path", "remove unprintable characters")
        host = HOST.fullmatch(headers.get(b"host", ""))
        if self.token is None and not (host and is_loopback(host[1] or host[2])):
            return problem(403, "this server answers its own machine only", "Host", "name it 127.0.0.1")
        token = self.events_token if self.events_token and path in (EVENTS, USERS) else self.token
        if token is not None and path not in OPEN:
            given = headers.get(b"authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, b"Bearer " + token.encode()):
                return problem(401, "a valid token is needed", "Authorization", "send Authorization: Bearer TOKEN")
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":  # another site's form cannot send this type
            return problem(415, "the body must be JSON", "Content-Type", "send Content-Type: application/json")
        length = headers.get(b"content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 15 or int(length) > MAX_BODY:
            return problem(413, TOO_LONG.error, "Content-Length", TOO_LONG.remedy)
        return None
