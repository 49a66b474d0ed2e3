"""`recalign serve`: a bundle over HTTP."""

from __future__ import annotations

import argparse
import gc
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from recalign.errors import InputError, require_positive
from recalign.serve.server.about import INSTALL, of_chain
from recalign.serve.server.service import is_loopback

TOKEN, EVENTS_TOKEN, DECISIONS_KEY = "RECALIGN_TOKEN", "RECALIGN_EVENTS_TOKEN", "RECALIGN_DECISIONS_KEY"
"""Environment variables: the token to ask, the token to add events, and the key of a log of decisions' pseudonyms."""
RETENTION = 30.0
"""Days after which the log of decisions deletes a decision."""
SHORTEST = 16
"""Minimum characters of a token or key."""
BACKLOG = 1024
"""Maximum connections that wait to be accepted."""
OPEN_FILES = 4096
"""Wanted limit of open files, if the system has one: each connection is a file."""


def serve(words: list[str]) -> None:
    """Serve a bundle until SIGTERM or SIGINT; requests in progress are answered first.

    Args:
        words: command-line arguments after ``recalign serve``.

    Raises:
        InputError: the bundle cannot be served, the port is in use, or a token is needed.
    """
    parser = argparse.ArgumentParser(prog="recalign serve", description="Serve a bundle over HTTP.")
    option, text = parser.add_argument, "file with the {} (default: the environment variable {})"
    option("bundle", type=Path, help="a bundle, a folder of its versions, or the folder of an exported run or chain")
    option("--beside", type=Path, help="second bundle for the page at / to compare with (default: the chain's start)")
    option("--host", default="127.0.0.1", help="address to listen at (default %(default)s); others require a token")
    option("--port", type=int, default=8000, help="port to listen at; 0: any free one (default %(default)s)")
    option("--token_file", type=Path, help=text.format("token that requests need", TOKEN))
    option("--threads", type=int, default=1, help="threads of ONNX Runtime (default %(default)s)")
    origin = "a site whose pages may send requests, such as https://shop.example; repeat for further sites"
    option("--origin", dest="origins", action="append", default=[], help=origin)
    option("--store", type=Path, help="SQLite file of users' histories, created if missing (default: none are stored)")
    option("--events_token_file", type=Path, help=text.format("token that adding events needs", EVENTS_TOKEN))
    option("--decisions", type=Path, help="folder to log served lists in, for recalign feedback (default: no log)")
    option("--decisions_key_file", type=Path, help=text.format("key of the users' pseudonyms", DECISIONS_KEY))
    retention = "delete stored events and logged decisions after this many days "
    retention += f"(default: events never, decisions after {RETENTION:g})"
    option("--retention_days", type=float, help=retention)
    given = parser.parse_args(words)
    require_positive("", vars(given), "threads", "retention_days")
    for origin in given.origins:
        if not re.fullmatch(r"https?://(\[[0-9a-f:]+\]|[\w.-]+)(:\d+)?", origin):
            raise InputError(f"{origin!r} is not an origin", where="origin", remedy="give e.g. https://shop.example")
    reached = "" if is_loopback(given.host) else f"others can reach {given.host}, so a token is needed"
    token = secret(given.token_file, TOKEN, "token", reached)
    events_token = None
    if given.store:
        events_token = secret(given.events_token_file, EVENTS_TOKEN, "token", "adding events needs a token")
        if events_token == token:
            what = "requests and events have the same token, so who may ask could add and delete events"
            raise InputError(what, where="events_token_file", remedy="give each its own")
    key = decisions_key(given.decisions_key_file) if given.decisions else None
    try:
        from recalign.serve.server.app import make_app
        from recalign.serve.server.decisions import Decisions
        from recalign.serve.server.guard import server_of
        from recalign.serve.server.store import Store
    except ImportError as error:
        raise InputError(f"a package is missing: {error}", remedy=INSTALL) from error
    allow_open_files()
    beside = given.beside or next(iter(of_chain(given.bundle)[1:]), None)
    with bind_socket(given.host, given.port) as listening:
        store = Store(given.store, given.retention_days) if given.store else None
        decisions = Decisions(given.decisions, key, given.retention_days or RETENTION) if key else None
        app = make_app(given.bundle, token, given.threads, store, events_token, decisions, beside, given.origins)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"{app.state.service.bundle.version} at http://{shown}:{port}, described at /docs", flush=True)
        gc.freeze()  # what is loaded stays: the garbage collector can skip it
        server_of(app).run([listening])


def secret(file: Path | None, variable: str, what: str, needed: str = "") -> str | None:
    """A token or key (named ``what``) from a file, else from an environment variable; None if there is none.

    Raises:
        InputError: the file cannot be read, it is too short or not plain text, or absent although ``needed``.
    """
    try:
        found = file.read_text(encoding="utf-8") if file else os.environ.get(variable)
    except (OSError, ValueError) as error:
        raise InputError(f"the {what} cannot be read: {error}", where=str(file), remedy="name a text file") from error
    if found is None:
        if needed:
            remedy = f"set {variable} to {SHORTEST} characters or more, or name a file that holds it"
            raise InputError(needed, where=variable, remedy=remedy)
        return None
    found = found.strip()
    if len(found) < SHORTEST or not found.isascii() or not found.isprintable():
        remedy = f"give {SHORTEST} plain characters or more, such as those of: openssl rand -hex 32"
        raise InputError(f"this {what} is too short, or not plain text", where=str(file or variable), remedy=remedy)
    return found


def decisions_key(file: Path | None) -> str:
    """The key of the pseudonyms in a log of decisions.

    Raises:
        InputError: there is none, or it is too short or not plain text.
    """
    return str(secret(file, DECISIONS_KEY, "key", "the log of decisions needs a key for the users' pseudonyms"))


def allow_open_files() -> None:
    """Raise this process's limit of open files to `OPEN_FILES`, or to its hard limit."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < OPEN_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if hard < 0 else min(OPEN_FILES, hard), hard))


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; else answers wait 40 ms for an ACK
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        what = f"cannot listen at {host}, port {port}: {error}"
        raise InputError(what, where="port", remedy="choose another with --port; 0 takes any that is free") from error
