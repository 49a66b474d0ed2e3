"""The HTTP side: routes, limits, a token, figures for Prometheus. Nothing of a request is logged."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from recalign.errors import InputError
from recalign.serving.request import Answer, Id, Request, Scored, plain
from recalign.serving.service import SECONDS, Full, Service, is_loopback

BODY = 2**20
"""Bytes that a request's body may have."""
OPEN = ("/health", "/ready")
"""Routes that need no token: they say that the server runs, and nothing else."""
ROUTES = ("/recommend", "/score", "/metrics", *OPEN)
MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
Handler = Callable[[HTTPRequest], Awaitable[Response]]


@dataclass(frozen=True)
class Score:
    """What ``/score`` is asked.

    Attributes:
        request: as of ``/recommend``; its ``k`` is not read.
        items: raw ids to score.
    """

    request: Request
    items: list[Id]


@dataclass(frozen=True)
class Problem:
    """What an error says.

    Attributes:
        error: what is wrong.
        where: the place in the request.
        remedy: what to do.
    """

    error: str
    where: str | None = None
    remedy: str | None = None


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


def make_app(folder: Path, token: str | None = None, threads: int = 1) -> FastAPI:
    """The application.

    Args:
        folder: a bundle, or a folder of versions.
        token: that requests have to bear; None: none, and only names of this machine as ``Host``.
        threads: of ONNX Runtime.

    Raises:
        InputError: the bundle cannot be served.
    """
    figures = Figures()
    service = Service(folder, threads, figures.batch.observe)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.work()), asyncio.create_task(service.watch())]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    app = FastAPI(title="recalign", redoc_url=None, lifespan=running)
    app.state.service = service

    async def recommend(http: HTTPRequest) -> Response:
        bundle, body = service.bundle, await read(http)
        return said(await service.ask(bundle, bundle.encode(Request.of(body))))

    async def score(http: HTTPRequest) -> Response:
        bundle, body = service.bundle, plain(Score, await read(http), "the request")
        return said(await service.ask(bundle, *bundle.encode_score(body.get("request", {}), body.get("items"))))

    async def alive(http: HTTPRequest) -> Response:
        return said({"version": service.bundle.version})

    async def metrics(http: HTTPRequest) -> Response:
        figures.waiting.set(service.queue.qsize())
        figures.bundle.info({"version": service.bundle.version, "name": service.bundle.about.name})
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    errors = {code: {"model": Problem} for code in (400, 401, 408, 413, 415, 422, 503)}
    for path, handler, asked, answer in (("/recommend", recommend, Request, Answer), ("/score", score, Score, Scored)):
        schema = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{asked.__name__}"}}}}
        settings: dict[str, Any] = {"openapi_extra": {"requestBody": {**schema, "required": True}}}
        app.post(path, responses={200: {"model": answer}, **errors}, **settings)(handler)  # type: ignore[dict-item]
    app.get("/health", summary="Whether it runs")(alive)
    app.get("/ready", summary="Whether it answers, and by which version")(alive)
    app.get("/metrics", summary="Figures for Prometheus")(metrics)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    app.exception_handler(InputError)(refused)
    app.exception_handler(Full)(full)
    app.exception_handler(HTTPException)(failed)
    app.add_middleware(Guard, token=token, figures=figures)
    return app


class Guard:
    """Before anything is read: the token or the host, and how long the body says that it is."""

    def __init__(self, app: ASGIApp, token: str | None, figures: Figures) -> None:
        self.app, self.figures = app, figures
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        began, status = time.perf_counter(), 500

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            problem = self._problem(scope)
            await (self.app if problem is None else problem)(scope, receive, noted)
        finally:
            self.figures.requests.labels(route, str(status)).inc()
            self.figures.seconds.labels(route).observe(time.perf_counter() - began)

    def _problem(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if self.token is None:
            if not is_loopback(named(headers.get(b"host", b"").decode("latin-1"))):
                return problem(403, "this server answers its own machine only", "Host", "name it 127.0.0.1")
        elif scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.token):
                return problem(401, "a token is needed", "Authorization", "send Authorization: Bearer TOKEN")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > BODY:
            return problem(413, f"a body may have {BODY:,} bytes", "Content-Length", "ask for less at once")
        return None


def named(host: str) -> str:
    """A ``Host`` without its port and brackets."""
    name, bracket, _ = host.partition("]")
    return name.removeprefix("[") if bracket else host.partition(":")[0]


async def read(http: HTTPRequest) -> Any:
    """The JSON of a request's body.

    Raises:
        HTTPException: it is too long, takes too long, or is no JSON.
    """
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        stop(415, "the body must be JSON", "Content-Type", "send Content-Type: application/json")
    parts, length = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            async for part in http.stream():
                length += len(part)
                if length > BODY:
                    stop(413, f"a body may have {BODY:,} bytes", "body", "ask for less at once")
                parts.append(part)
    except ClientDisconnect:
        stop(400, "the body broke off", "body", "send it whole")
    except TimeoutError:
        stop(408, f"the body did not come within {SECONDS:g} s", "body", "send it faster")
    try:
        return json.loads(b"".join(parts), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        stop(400, f"the body is not JSON: {str(error)[:100] or 'nested too deeply'}", "body", "send an object")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def said(content: Any, status: int = 200, **headers: str) -> Response:
    """A JSON response. Plain ASCII, because ids may hold what UTF-8 cannot."""
    text = json.dumps(content, default=vars, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")


def problem(status: int, error: str, where: str | None, remedy: str | None, **headers: str) -> Response:
    """A response that says what is wrong, where, and what to do."""
    return said(Problem(error, where, remedy), status, **headers)


def stop(status: int, error: str, where: str, remedy: str) -> NoReturn:
    """Leave a handler with a `problem`."""
    raise HTTPException(status, Problem(error, where, remedy))  # type: ignore[arg-type]


async def refused(_: HTTPRequest, error: Any) -> Response:
    """What a request that cannot be answered is told."""
    return problem(422, error.what, error.where, error.remedy)


async def full(_: HTTPRequest, error: Any) -> Response:
    """What is said when too many wait."""
    return problem(503, "too many requests wait", None, "ask again in a second", **{"Retry-After": "1"})


async def failed(_: HTTPRequest, error: Any) -> Response:
    """A `stop`, or a route or method that there is not."""
    if isinstance(error.detail, Problem):
        return said(error.detail, error.status_code)
    return problem(error.status_code, str(error.detail), "path", f"there are: {', '.join(ROUTES)}")


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, whose schemas are those of the dataclasses."""
    if not app.openapi_schema:
        page = get_openapi(title=app.title, version=app.state.service.bundle.version, routes=app.routes)
        kinds = [(one, "validation", TypeAdapter(one)) for one in (Request, Score)]
        found = TypeAdapter.json_schemas(kinds, ref_template="#/components/schemas/{model}")[1]  # type: ignore[arg-type]
        page["components"]["schemas"] |= found["$defs"]
        app.openapi_schema = page
    return app.openapi_schema
