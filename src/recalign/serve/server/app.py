"""The HTTP application: the routes of a bundle and of an optional store. There is no access log."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from recalign.errors import InputError
from recalign.serve.server.answer import Alive, Answer, Deleted, Problem, Scored, Taken
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.decisions import Decisions
from recalign.serve.server.guard import EVENTS, USERS, Figures, Guard, problem
from recalign.serve.server.openapi import describe
from recalign.serve.server.request import Events, Request, Score, input_error, text_id
from recalign.serve.server.service import Asked, Full, Service
from recalign.serve.server.store import AsyncStore, Store, latest, rows_of, with_history
from recalign.serve.server.trial import add_page

METRICS = {200: {"description": "Figures, in Prometheus' text format", "content": {"text/plain": {}}}}


def make_app(
    folder: Path,
    token: str | None = None,
    threads: int = 1,
    store: Store | None = None,
    events_token: str | None = None,
    decisions: Decisions | None = None,
    beside: Path | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application.

    Args:
        folder, threads: as in `Service`.
        token, events_token: as in `Guard`.
        store: users' histories; None: requests carry their own.
        decisions: log of the answers to requests that name a user; None: no log.
        beside: another bundle; the page shows its lists beside those of the first.
        origins: sites that CORS allows to send requests, such as ``https://shop.example``.

    Raises:
        InputError: the bundle cannot be served.
    """
    figures = Figures()
    service = Service(folder, threads, figures.batch.observe, decisions.keep if decisions else None)
    services = [service, Service(beside, threads)] if beside else [service]
    histories = AsyncStore(store) if store else None

    def work() -> list[Coroutine[Any, Any, None]]:
        watching = [one.watch() for one in services]
        return [*watching, *(keeper.run() for keeper in (histories, decisions) if keeper)]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one) for one in work()]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for part in (*services, histories, decisions):
            if part:
                part.close()

    app = FastAPI(title="recalign", redoc_url=None, lifespan=lifespan, generate_unique_id_function=lambda one: one.name)
    app.state.service, app.state.work = service, work

    async def answered(request: Request) -> Response:
        bundle = service.bundle
        asked, unknown = await with_user(bundle, histories, request, decisions is not None)
        user = request.user if decisions else None
        answer = await service.batcher.ask(Asked(bundle, bundle.encode(asked), user=user))
        return as_json(with_unknown_user(answer, unknown))

    @app.post("/recommend", response_model=Answer)
    async def recommend(request: Request) -> Response:
        if decisions and decisions.failing:
            request = replace(request, explore=None)
        try:
            return await answered(request)
        except OSError:  # the drawn list could not be logged
            return await answered(replace(request, explore=None))

    @app.post("/score", response_model=Scored)
    async def score(score: Score) -> Response:
        bundle = service.bundle
        asked, unknown = await with_user(bundle, histories, score.request, decisions is not None)
        encoded = bundle.encode_score(replace(score, request=asked))
        return as_json(with_unknown_user(await service.batcher.ask(Asked(bundle, *encoded)), unknown))

    @app.get("/health", name="health", summary="Whether it runs")
    @app.get("/ready", name="ready", summary="Whether it answers, and by which version")
    async def alive() -> Alive:
        return Alive(service.bundle.version)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        figures.refused.set(bool(service.problem))
        figures.waiting.set(len(service.batcher.waiting))
        figures.bundle.info({"version": service.bundle.version, "name": service.bundle.about.name})
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    if histories:

        @app.post(EVENTS, response_model=Taken)
        async def events(told: Events) -> Response:
            return as_json(await histories.add(rows_of(told.events, service.bundle.catalogue)))

        @app.delete(USERS + "{user:path}", response_model=Deleted, summary="Forget a user")
        async def delete(user: str) -> Response:
            try:
                return as_json(await histories.delete(text_id(user)))
            except ValueError as error:
                raise InputError("is not a user id", where="user", remedy=str(error)) from None

    add_page(app, services)
    handle_errors(app)
    describe(app, lambda: service.bundle, token is not None, events_token is not None)
    posts = {route.path: Posts(app, route) for route in app.routes if isinstance(route, APIRoute) and route.body_field}
    app.add_middleware(Guard, figures=figures, token=token, events_token=events_token, posts=posts)
    if origins:  # outside the guard: a browser's preflight request has no token
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "DELETE"], allow_headers=headers
        )
    return app


class Posts:
    """Handles a route's POST requests: parses and validates the JSON in one step, three times faster than FastAPI.

    Args:
        app: its exception handlers answer errors.
        route: FastAPI's route; its endpoint is called.
    """

    def __init__(self, app: FastAPI, route: APIRoute) -> None:
        assert route.body_field is not None
        body = route.body_field.field_info.annotation
        assert body is not None
        self.handlers, self.endpoint = app.exception_handlers, route.endpoint
        self.adapter: TypeAdapter[Any] = TypeAdapter(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HTTPRequest(scope, receive)
        try:
            response = await self.endpoint(self.adapter.validate_json(await http.body()))
        except Exception as error:
            handler = next((self.handlers[kind] for kind in type(error).__mro__ if kind in self.handlers), None)
            if handler is None:
                raise
            response = await handler(http, error)  # type: ignore[misc]
        await response(scope, receive, send)


async def with_user(
    bundle: Bundle, histories: AsyncStore | None, request: Request, logged: bool
) -> tuple[Request, bool]:
    """Replace a request's user by the user's stored history; the flag is True if that is empty (`unknown_user`).

    Without a store, only the log of decisions uses the user. Without that log, too, the bundle refuses the user.

    Raises:
        InputError: there is a store, and the request has a history too.
    """
    if request.user is None or (histories is None and not logged):
        return request, False
    if histories is None:
        nobodys = copy(request)
        object.__setattr__(nobodys, "user", None)  # `replace` would validate it again
        return nobodys, not request.items  # no history: unknown
    if request.items or request.rewards:
        raise InputError("the request has both a user and a history", where="user", remedy="give one of them")
    unit = bundle.about.time_unit
    kept = await histories.history(str(request.user), latest(request, unit))
    return with_history(request, kept, unit), not kept


def with_unknown_user(answer: Any, unknown: bool) -> Any:
    """An answer that says whether its user is unknown."""
    return replace(answer, left_out=replace(answer.left_out, unknown_user=True)) if unknown else answer


ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Answer, Scored, Taken, Deleted)}


def as_json(answer: Any) -> Response:
    """A response that holds a dataclass."""
    return Response(ADAPTERS[type(answer)].dump_json(answer), media_type="application/json")


def handle_errors(app: FastAPI) -> None:
    """Answer each kind of error with a `Problem`."""

    @app.exception_handler(ValidationError)
    @app.exception_handler(RequestValidationError)
    async def invalid(_: HTTPRequest, error: ValidationError | RequestValidationError) -> Response:
        found = input_error(error.errors())
        return problem(422, found.what, found.where, found.remedy)

    @app.exception_handler(InputError)
    async def refused(_: HTTPRequest, error: InputError) -> Response:
        return problem(422, error.what, error.where, error.remedy)

    @app.exception_handler(Full)
    async def full(_: HTTPRequest, error: Full) -> Response:
        return problem(503, "too many requests wait", None, "ask again in a second", **{"Retry-After": "1"})

    @app.exception_handler(sqlite3.Error)
    async def failed_store(_: HTTPRequest, error: sqlite3.Error) -> Response:
        print(f"the store: {error}", file=sys.stderr, flush=True)  # SQLite's message holds no row values
        remedy = "ask again later; the server's standard error says why"
        return problem(503, "the store cannot be used now", None, remedy, **{"Retry-After": "10"})

    @app.exception_handler(HTTPException)
    async def failed(http: HTTPRequest, error: HTTPException) -> Response:
        if isinstance(error.detail, Problem):
            return JSONResponse(asdict(error.detail), error.status_code)
        routes = sorted(route.path for route in http.app.routes if getattr(route, "include_in_schema", False))
        remedy, headers = f"there are: {', '.join(routes)}", dict(error.headers or {})
        if allowed := headers.get("Allow"):
            remedy = f"use {allowed}"
        return problem(error.status_code, str(error.detail), "path", remedy, **headers)
