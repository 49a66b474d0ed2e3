"""Atomic file writes, and digests of files and values."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recalign.errors import InputError, TrainingError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or an exceeded quota."""
LEFT_DAYS = 7
"""Age in days from which a leftover temporary file counts as abandoned."""
SETTLED = 2.0
"""Seconds since its last change from which a file's digest is cached: two writes may get the same timestamp."""
_DIGESTS: dict[tuple[int, ...], str] = {}
"""Cache of this process: SHA-256 of files by device, inode, size, mtime and ctime."""


def temp_path(path: Path) -> Path:
    """The temporary path at which this process writes a file or folder before it is renamed."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def remove_stale_temps(path: Path) -> None:
    """Remove temporary files of killed processes (`temp_path`), once they are `LEFT_DAYS` old."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        own = re.fullmatch(r"\d+(\.earlier)?", left.name[len(path.name) + 2 :])
        with suppress(OSError):  # another process was faster, or it is somebody else's
            if own and time.time() - left.stat().st_mtime > LEFT_DAYS * 86_400:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, then sync and rename it to `path`. Remove it on failure."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = temp_path(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_temps(path)
            yield temporary
            sync(temporary)
            rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a disk error into an OSError with its path, even if `torch.save`, Polars or NumPy hide it."""
    try:
        yield
    except (InputError, TrainingError):
        raise
    except Exception as error:
        told = f"{error} {error.__cause__} {error.__context__}"
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, PermissionError):  # Polars' has no number
            number = number or errno.EACCES
        number = number or next((one for one in (*FULL, errno.EROFS) if os.strerror(one) in told), None)
        disk = shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.is_dir()))
        if number is None and disk.total and not disk.free:
            number = errno.ENOSPC
        if number is None:
            raise
        named = error.filename if isinstance(error, OSError) and number not in FULL else None
        raise OSError(number, os.strerror(number), named or str(path)) from error


def rename(path: Path, target: Path) -> None:
    """Replace a file of the same folder atomically. After a power cut either the old or the new file is complete."""
    os.replace(path, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_parquet(frame: Any, path: Path) -> None:
    """Write a Polars frame atomically."""
    with atomic_write(path) as temporary:
        frame.write_parquet(temporary)


def read_json(path: Path) -> Any:
    """Read a JSON file; {} if there is none. Raises InputError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise InputError(f"is not JSON ({error})", where=str(path), remedy="write it again, or delete it") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object; {} if there is none. Raises InputError if it holds anything else."""
    if isinstance(content := read_json(path), dict):
        return content
    raise InputError("is not a JSON object", where=str(path), remedy="write it again, or delete it")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex. Cached unless the file has changed, or was hashed just after a change."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        mark = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        if mark not in _DIGESTS:
            settled = time.time() - max(found.st_mtime, found.st_ctime) > SETTLED
            content = hashlib.file_digest(file, "sha256").hexdigest()
            if not settled:
                return content
            _DIGESTS[mark] = content
    return _DIGESTS[mark]


def digest(*values: Any) -> str:
    """SHA-256 of JSON values, in hex. The order of dictionary keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
