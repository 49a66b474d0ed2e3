"""Who may ask, before anything is read; and figures for Prometheus, in which no id stands."""

from __future__ import annotations

import hmac
import time
from typing import Any

from fastapi import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from starlette.types import ASGIApp, Receive, Scope, Send

from recalign.serve.server.service import is_loopback
from recalign.serve.server.wire import BODY, problem

OPEN = ("/health", "/ready")
"""Routes that need no token: they say that the server runs, and nothing else."""
EVENTS, USERS = "/events", "/users/"
"""Routes of the store, which have a token of their own; the second is followed by a user."""
ROUTES = ("/recommend", "/score", "/metrics", EVENTS, USERS, *OPEN)
MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Figures:
    """What ``/metrics`` tells: counts and times, never an id."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("recalign_requests", "Requests", ["route", "status"], **kept)
        edges = [ms / 1000 for ms in MILLISECONDS]
        self.seconds = Histogram("recalign_seconds", "Seconds to an answer", ["route"], buckets=edges, **kept)
        self.batch = Histogram("recalign_batch", "Requests answered at once", buckets=[1, 2, 4, 8, 16, 32, 64], **kept)
        self.waiting = Gauge("recalign_waiting", "Requests that wait", **kept)
        self.bundle = Info("recalign_bundle", "What is served", **kept)


class Guard:
    """Before anything is read: the token or the host, and how long the body says that it is.

    Args:
        app: what is guarded.
        figures: are told of every request.
        token: that requests have to bear; None: none, and only names of this machine as ``Host``.
        events_token: that those to the store have to bear in its place; None: there is no store.
    """

    def __init__(self, app: ASGIApp, figures: Figures, token: str | None, events_token: str | None) -> None:
        self.app, self.figures = app, figures
        self.token, self.events_token = token, events_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = USERS if scope["path"].startswith(USERS) else scope["path"]
        route = path if path in ROUTES else "other"
        began, status = time.perf_counter(), 500

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            wrong = self._problem(scope, path)
            await (self.app if wrong is None else wrong)(scope, receive, noted)
        finally:
            self.figures.requests.labels(route, str(status)).inc()
            self.figures.seconds.labels(route).observe(time.perf_counter() - began)

    def _problem(self, scope: Scope, path: str) -> Response | None:
        headers = dict(scope["headers"])
        if not path.isprintable():  # "/events\n" is another path here, and "/events" to the router
            return problem(404, "there is no such path", "path", "leave line breaks out")
        if self.token is None and not is_loopback(named(headers.get(b"host", b"").decode("latin-1"))):
            return problem(403, "this server answers its own machine only", "Host", "name it 127.0.0.1")
        token = self.events_token if self.events_token and path in (EVENTS, USERS) else self.token
        if token is not None and path not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + token.encode()):
                return problem(401, "a token is needed", "Authorization", "send Authorization: Bearer TOKEN")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > BODY:
            return problem(413, f"a body may have {BODY:,} bytes", "Content-Length", "ask for less at once")
        return None


def named(host: str) -> str:
    """A ``Host`` without its port and brackets."""
    name, bracket, _ = host.partition("]")
    return name.removeprefix("[") if bracket else host.partition(":")[0]
