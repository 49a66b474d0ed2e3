"""The OpenAPI description of a server: its answers and errors, and the types of its bundle."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from recalign.serve.server.answer import Problem
from recalign.serve.server.bundle import Bundle
from recalign.serve.server.guard import EVENTS, OPEN, USERS

PROBLEMS = {
    401: "a valid token is needed",
    403: "a server without a token answers its own machine only",
    404: "there is no such path",
    405: "the path takes another method",
    408: "the body came too slowly",
    413: "the body is too long",
    415: "the body is not declared as JSON",
    422: "a value cannot be used",
    503: "too many requests wait, or the disk is full",
}
"""Description of each status; a `Problem` has the details."""
OF_ALL, OF_BODIES, OF_WORK = (403, 404, 405), (408, 413, 415, 422), (503,)
HEADERS = {405: ("Allow", "methods that the path takes"), 503: ("Retry-After", "seconds after which to ask again")}
IDS, TIMES = ("items", "allow", "block", "item", "unknown_ids"), ("times", "time")
"""Properties with raw ids, and with times; the bundle sets their types."""


def describe(app: FastAPI, bundle: Callable[[], Bundle], token: bool, events_token: bool) -> None:
    """Let ``/openapi.json`` describe the bundle that is served now.

    Args:
        bundle: returns the bundle that is served now.
        token, events_token: whether requests need a token, and requests to the store one of their own.
    """

    def page() -> dict[str, Any]:
        served = bundle()
        found = get_openapi(title=app.title, version=served.version, routes=app.routes, description=about(served))
        schemas = found["components"]["schemas"]
        for name, schema in schemas.items():
            schemas[name] = of_bundle(schema, served)
        schemas["Problem"] = TypeAdapter(Problem).json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        kinds = {"token": token, "events_token": events_token}
        schemes = {kind: {"type": "http", "scheme": "bearer"} for kind, asked in kinds.items() if asked}
        found["components"]["securitySchemes"] = schemes
        for path, operations in found["paths"].items():
            kind = "events_token" if path.startswith((EVENTS, USERS)) else "token"
            for method, operation in operations.items():
                guarded = kind in schemes and path not in OPEN
                operation["security"] = [{kind: []}] if guarded else []
                operation["responses"] |= problems(method, operation, guarded)
        return found

    app.openapi = page  # type: ignore[method-assign]


def about(bundle: Bundle) -> str:
    """What a client has to know about a bundle, in one line."""
    config, ids = bundle.about, "texts" if bundle.catalogue.has_texts else "integers"
    read = "" if config.reward is None else f", with rewards: {config.reward}"
    return (
        f"{config.name}: {len(bundle.catalogue):,} items, whose ids are {ids}; times in {config.time_unit}; "
        f"the newest {config.max_length:,} events of a history are read{read}."
    )


def problems(method: str, operation: dict[str, Any], guarded: bool) -> dict[str, Any]:
    """An operation's error responses, by status."""
    statuses = [*OF_ALL, *(OF_BODIES if "requestBody" in operation else ()), *([401] if guarded else [])]
    statuses += [*(OF_WORK if method != "get" else ()), *([422] if "parameters" in operation else [])]
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    found: dict[str, Any] = {str(one): {"description": PROBLEMS[one], "content": content} for one in sorted(statuses)}
    for status, (name, what) in HEADERS.items():
        if str(status) in found:
            found[str(status)]["headers"] = {name: {"description": what, "schema": {"type": "string"}}}
    return found


def of_bundle(schema: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    """A schema with this bundle's types of ids and times.

    Schemas of requests, which forbid unknown fields, get no defaults: code generators make fields with one required.
    """
    texts, dates = bundle.catalogue.has_texts, bundle.about.time_unit == "datetime"
    other = dict.fromkeys(IDS, ["integer"] if texts else ["string"])
    other |= dict.fromkeys(TIMES, ["integer", "number"] if dates else ["string"])
    properties = {name: without(one, other.get(name, ())) for name, one in schema.get("properties", {}).items()}
    if schema.get("additionalProperties") is False:
        for one in properties.values():
            if "default" in one:
                one["description"] = f"default: {one.pop('default')}"
        if "times" in properties:
            newest = f"oldest first; the newest {bundle.about.max_length:,} are read"
            properties["items"]["description"] = f"raw ids, {newest}"
    return {**schema, "properties": properties} if properties else schema


def without(schema: Any, types: Collection[str]) -> Any:
    """A schema whose unions have no members of these types."""
    if isinstance(schema, list):
        return [without(one, types) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: without(one, types) for name, one in schema.items()}
    if types and "anyOf" in kept:
        members = [one for one in kept.pop("anyOf") if one.get("type") not in types]
        kept |= members[0] if len(members) == 1 else {"anyOf": members}
    return kept
