"""The HTTP side: routes over a bundle and, where there is one, a store. Nothing of a request is logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter

from recalign.errors import InputError
from recalign.serve.server.answer import Answer, Scored
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.catalogue import Encoded
from recalign.serve.server.decisions import Decisions, decided
from recalign.serve.server.event import Deleted, Events, Taken, rows_of, with_history
from recalign.serve.server.guard import EVENTS, USERS, Figures, Guard
from recalign.serve.server.request import Id, Request
from recalign.serve.server.require import plain, text_id
from recalign.serve.server.service import Service
from recalign.serve.server.store import Histories, Store
from recalign.serve.server.wire import Problem, handle_errors, read, said

ERRORS = {code: {"model": Problem} for code in (400, 401, 408, 413, 415, 422, 503)}
USER = {"name": "user", "in": "path", "required": True, "schema": {"type": "string"}}
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


def make_app(
    folder: Path,
    token: str | None = None,
    threads: int = 1,
    store: Store | None = None,
    events_token: str | None = None,
    decisions: Decisions | None = None,
) -> FastAPI:
    """The application.

    Args:
        folder: a bundle, or a folder of versions.
        token: that requests have to bear; None: none, and only names of this machine as ``Host``.
        threads: of ONNX Runtime.
        store: of histories; None: requests bring their own.
        events_token: that those who tell events, or delete a user, have to bear; there is one where there is a store.
        decisions: where answers to requests that name a user are logged; None: nowhere.

    Raises:
        InputError: the bundle cannot be served.
    """
    figures = Figures()
    service = Service(folder, threads, figures.batch.observe)
    histories = Histories(store) if store else None

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        work = [service.work(), service.watch(), *([histories.forget()] if histories else [])]
        tasks = [asyncio.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if histories:
            histories.close()
        if decisions:
            decisions.close()

    app = FastAPI(title="recalign", redoc_url=None, lifespan=running)
    app.state.service = service

    async def answered(request: Request) -> tuple[Encoded, Answer]:
        bundle = service.bundle
        asked, unknown = await with_user(bundle, histories, request, decisions is not None)
        encoded = bundle.encode(asked)
        answer: Any = noted(await service.ask(bundle, encoded), unknown)
        return encoded, answer

    async def recommend(http: HTTPRequest) -> Response:
        request = Request.of(await read(http))
        return said(await decided(decisions, request, answered) if decisions else (await answered(request))[1])

    async def score(http: HTTPRequest) -> Response:
        bundle, body = service.bundle, plain(Score, await read(http), "the request")
        asked, unknown = await with_user(bundle, histories, Request.of(body.get("request", {})), decisions is not None)
        return said(noted(await service.ask(bundle, *bundle.encode_score(asked, body.get("items"))), unknown))

    async def alive(http: HTTPRequest) -> Response:
        return said({"version": service.bundle.version})

    async def metrics(http: HTTPRequest) -> Response:
        figures.waiting.set(service.queue.qsize())
        figures.bundle.info({"version": service.bundle.version, "name": service.bundle.about.name})
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    post(app, "/recommend", recommend, Request, Answer)
    post(app, "/score", score, Score, Scored)
    app.get("/health", summary="Whether it runs")(alive)
    app.get("/ready", summary="Whether it answers, and by which version")(alive)
    app.get("/metrics", summary="Figures for Prometheus")(metrics)
    if histories:
        keep(app, service, histories)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    handle_errors(app)
    app.add_middleware(Guard, figures=figures, token=token, events_token=events_token)
    return app


def keep(app: FastAPI, service: Service, histories: Histories) -> None:
    """Add the routes of a store."""

    async def events(http: HTTPRequest) -> Response:
        return said(await histories.add(rows_of(await read(http), service.bundle.catalogue)))

    async def delete(http: HTTPRequest) -> Response:
        return said(await histories.delete(text_id("user", http.path_params["user"])))

    post(app, EVENTS, events, Events, Taken)
    path, extra = f"{USERS}{{user:path}}", {"parameters": [USER]}
    answers: dict[Any, Any] = {200: {"model": Deleted}, **ERRORS}
    app.delete(path, responses=answers, openapi_extra=extra, summary="Forget a user")(delete)


def post(app: FastAPI, path: str, handler: Handler, asked: type, answer: type) -> None:
    """Add a route that is asked, and answers, by the JSON of dataclasses."""
    schema = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{asked.__name__}"}}}}
    settings: dict[str, Any] = {"openapi_extra": {"requestBody": {**schema, "required": True}}}
    answers: dict[Any, Any] = {200: {"model": answer}, **ERRORS}
    app.post(path, responses=answers, **settings)(handler)


async def with_user(
    bundle: Bundle, histories: Histories | None, request: Request, logged: bool = False
) -> tuple[Request, bool]:
    """A request with the history of the user that it names; and whether it names one of whom nothing is kept.

    Args:
        bundle, histories, request: who asks what; without a store, the bundle refuses a request that names a user,
        logged: unless that is who asks, for the log of decisions.

    Raises:
        InputError: a server with a store is told a history too.
    """
    if request.user is None or histories is None:
        if not logged or request.user is None:
            return request, False
        return replace(request, user=None), not request.items  # without a history, of whom nothing is known
    if request.items or request.rewards:
        raise InputError("it names a user and has a history", where="user", remedy="give one of them")
    kept = await histories.of(text_id("user", request.user))
    return with_history(request, kept, bundle.about.time_unit), not kept


def noted(answer: Answer | Scored, unknown: bool) -> Answer | Scored:
    """An answer that says whether its user is unknown."""
    return replace(answer, left_out=replace(answer.left_out, unknown_user=True)) if unknown else answer


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, whose schemas are those of the dataclasses."""
    if not app.openapi_schema:
        page = get_openapi(title=app.title, version=app.state.service.bundle.version, routes=app.routes)
        kinds = [(one, "validation", TypeAdapter(one)) for one in (Request, Score, Events)]
        found = TypeAdapter.json_schemas(kinds, ref_template="#/components/schemas/{model}")[1]  # type: ignore[arg-type]
        page["components"]["schemas"] |= found["$defs"]
        app.openapi_schema = page
    return app.openapi_schema
