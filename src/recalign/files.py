"""Files that are written whole or not at all, and digests of files and values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recalign.errors import InputError

SEAL = "digests.json"
"""Holds the SHA-256 of a folder's files, by name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, synced and renamed to it at the end; removed if anything fails.

    Raises:
        OSError: the file system refuses it; its ``filename`` is set.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        rename(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, doing: str, remedy: str) -> Iterator[None]:
    """Hold a folder, so that no other process works in it. The lock lies beside it and ends with its process.

    Args:
        folder: it need not exist.
        doing: what the other process would be doing, for the message.
        remedy: what to do then.

    Raises:
        InputError: another process holds it.
        OSError: the lock cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"another process is {doing} in this folder", where=str(folder), remedy=remedy) from None
    try:
        yield
    finally:
        lock.release()


def rename(path: Path, target: Path) -> None:
    """Rename a file over another of the same folder; after a power cut one of the two is there, whole."""
    os.replace(path, target)
    if os.name == "posix":  # elsewhere folders cannot be synced
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; {} if there is none.

    Raises:
        InputError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        remedy = "run again what wrote it, or delete it"
        raise InputError(f"not JSON ({error})", where=str(path), remedy=remedy) from error


def seal(folder: Path) -> None:
    """Sync a folder's files, and write their digests into it, as `altered` compares them."""
    files = sorted(file for file in folder.glob("[!.]*") if file.is_file() and file.name != SEAL)
    for file in files:
        _sync(file)
    write_json(folder / SEAL, {file.name: sha256(file) for file in files})


def altered(folder: Path) -> list[str]:
    """Files that are missing from a sealed folder, or are not what they were; none of a folder without a seal."""
    try:
        known = read_json(folder / SEAL)
    except InputError:
        return [SEAL]
    return changed(folder, known)


def changed(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Files that a folder lacks, or whose SHA-256 is another one than is known of them by name."""
    return [name for name, known in digests.items() if not (folder / name).is_file() or sha256(folder / name) != known]


def is_recorded(run: Path, name: str) -> bool | None:
    """Whether a file of a run folder is what the run's ``manifest.json`` records; None if that does not know it."""
    known = read_json(run / "manifest.json").get("digests", {}).get(name)
    return None if known is None else sha256(run / name) == known


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*values: Any) -> str:
    """SHA-256 of plain values (what JSON can hold), in hex; the order of a dictionary's keys does not count."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
