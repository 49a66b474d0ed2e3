"""JSON over HTTP: bodies that are read within limits, answers, and errors that say what is wrong and what to do."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import dataclass
from typing import Any, NoReturn

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recalign.errors import InputError
from recalign.serve.server.service import SECONDS, Full
from recalign.serve.server.store import tell

BODY = 2**20
"""Bytes that a request's body may have."""


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


async def failed(http: HTTPRequest, error: Any) -> Response:
    """A `stop`, or a route or method that there is not."""
    if isinstance(error.detail, Problem):
        return said(error.detail, error.status_code)
    routes = sorted(route.path for route in http.app.routes if getattr(route, "include_in_schema", False))
    return problem(error.status_code, str(error.detail), "path", f"there are: {', '.join(routes)}")


async def broken(_: HTTPRequest, error: Any) -> Response:
    """What is said when the store cannot be used."""
    tell(error)
    what, remedy = "the store cannot be used now", "ask again later; the server's standard error says why"
    return problem(503, what, None, remedy, **{"Retry-After": "10"})


def handle_errors(app: FastAPI) -> None:
    """Answer each kind of error by a `Problem`."""
    kinds = {InputError: refused, Full: full, HTTPException: failed, sqlite3.Error: broken}
    for kind, handler in kinds.items():
        app.exception_handler(kind)(handler)
