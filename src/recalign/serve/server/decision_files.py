"""Files of the log of decisions: segments, each beside a lock while somebody writes it, and what names their key.

A segment is lines: the CRC-32 of the rest in hex, a space, JSON. The first says the format and names the key.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from recalign.errors import InputError
from recalign.files import sync
from recalign.serve.server.store import DAY

FORMAT = 1
"""Of a segment."""
SEGMENT, COMPACTED = ".decisions", ".parquet"
"""How the name of a segment ends, and that of one that was compacted."""


def name_of(key: str) -> str:
    """Names a key without telling it, so that a log is not read with another one."""
    return hashlib.sha256(b"recalign decisions key " + key.encode()).hexdigest()[:16]


def line(record: dict[str, Any]) -> bytes:
    """A record as it stands in a segment."""
    text = json.dumps(record, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def checked(text: bytes) -> dict[str, Any] | None:
    """The record of a line without its end; None: it is not what was written."""
    if text[:8] != b"%08x" % zlib.crc32(text[9:]):
        return None
    record: dict[str, Any] = json.loads(text[9:])
    return record


def private(folder: Path) -> None:
    """Make a folder that its owner alone may read.

    Raises:
        InputError: it cannot be made, or others may read it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        loose = folder.stat().st_mode & 0o077
    except OSError as error:
        what, remedy = f"no decisions can be kept here: {error.strerror}", "name a folder that can be written"
        raise InputError(what, where=str(folder), remedy=remedy) from error
    if loose:
        what = "others than its owner may read this folder"
        raise InputError(what, where=str(folder), remedy=f"chmod 700 {folder}")


def segments(folder: Path) -> list[Path]:
    """Segments that are not compacted, oldest first."""
    return sorted(folder.glob(f"*{SEGMENT}"))


def compacted(folder: Path) -> list[Path]:
    """Segments that are Parquet now, oldest first."""
    return sorted(folder.glob(f"*{SEGMENT}{COMPACTED}"))


def require_key(folder: Path, key: str) -> None:
    """Refuse a folder in which another key has written: its users' pseudonyms are others.

    Raises:
        InputError: names the segments, by which whoever has to move them knows them.
    """
    files = [*compacted(folder), *segments(folder)]
    if others := [path.name for path in files if key_of(path) not in ("", name_of(key))]:
        more = f" and {len(others) - 3} more" * (len(others) > 3)
        what = f"these decisions were written with another key: {', '.join(others[:3])}{more}"
        remedy = "give the key that they were written with, or move what another key wrote into a folder of its own"
        raise InputError(what, where=str(folder), remedy=remedy)


def key_of(path: Path) -> str:
    """Names the key of a segment, compacted or not; empty where its head is damaged, or it cannot be read."""
    with suppress(OSError, pl.exceptions.PolarsError):
        if path.suffix == COMPACTED:
            return pl.read_parquet_metadata(path)["key"]
        with path.open("rb") as file:
            head = checked(file.readline().rstrip(b"\n"))
            return str(head["key"]) if head else ""
    return ""


class Segment:
    """A file that decisions are appended to; a lock beside it says that somebody still writes."""

    def __init__(self, folder: Path, key: str) -> None:
        self.began = time.monotonic()
        self.path = folder / f"{time.time_ns() // 1000}-{os.getpid()}-{secrets.token_hex(2)}{SEGMENT}"
        self._lock = FileLock(lock_of(self.path))
        self._lock.acquire(timeout=0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        try:
            self._file, self.size = os.open(self.path, flags, 0o600), 0
            self.append(line({"format": FORMAT, "key": name_of(key)}))
            sync(folder)
        except OSError:
            self.close()
            for path in (self.path, lock_of(self.path)):
                path.unlink(missing_ok=True)
            raise

    def append(self, data: bytes) -> None:
        """Write and sync, or leave the file as it was.

        Raises:
            OSError: the disk is full, say.
        """
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        """Let others have it."""
        with suppress(OSError, AttributeError):
            os.close(self._file)
        self._lock.release()


def lock_of(segment: Path) -> Path:
    """The lock of a segment."""
    return segment.with_name(f".{segment.name}.lock")


def purge(folder: Path, days: float) -> None:
    """Delete segments whose last decision is older, compacted ones too; never one that somebody still writes."""
    oldest = time.time() - days * DAY
    half = folder.glob(f".*{SEGMENT}{COMPACTED}.[0-9]*")  # written by a reader that was killed
    for path in [*segments(folder), *compacted(folder), *half]:
        with suppress(FileNotFoundError, Timeout):  # another server of this folder was faster, or writes or reads it
            if path.stat().st_mtime < oldest:
                with FileLock(lock_of(path)).acquire(timeout=0):
                    path.unlink()
                lock_of(path).unlink(missing_ok=True)
