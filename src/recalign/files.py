"""Files that are written whole or not at all, and digests of files and values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        rename(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which
        raise
    finally:
        temporary.unlink(missing_ok=True)


def rename(path: Path, target: Path) -> None:
    """Rename a file over another of the same folder; after a power cut one of the two is there, whole."""
    os.replace(path, target)
    if os.name == "posix":  # elsewhere folders cannot be synced
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; {} if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*values: Any) -> str:
    """SHA-256 of plain values (what JSON can hold), in hex; the order of a dictionary's keys does not count."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
