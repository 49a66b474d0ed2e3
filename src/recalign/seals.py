"""Sealed folders: published atomically, and verified by their seal; and a digest of the code that made them.

The seal holds a folder's cache key, the digests of its input files elsewhere, and the digest of each of its own
files.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from recalign.artifacts import Key, State, recorded_digest
from recalign.errors import InputError
from recalign.files import (
    atomic_write,
    digest,
    disk_errors,
    read_json,
    remove_stale_temps,
    rename,
    sha256,
    sync,
    temp_path,
    write_json,
)

SEAL = "digests.json"


@dataclass(frozen=True)
class Seal:
    """The contents of a folder's seal.

    Attributes:
        key: settings, data and code that determine the folder.
        made_of: SHA-256 of files outside it, by path: relative to the folder, so that both can be moved, or absolute.
            A seal among them stands for its whole folder, and for that folder's own inputs.
        digests: SHA-256 of its own files, by path in the folder.
    """

    key: dict[str, Any] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Seal:
        """The seal of a folder; an empty one if absent.

        Raises:
            InputError: it is not JSON, is not a seal, or names files outside the folder.
        """
        content = read_json(folder / SEAL)
        known = isinstance(content, dict) and {*content} <= {"key", "made_of", "digests"}
        known = known and all(isinstance(one, dict) for one in content.values())
        if not known or any(name.startswith("/") or ".." in name.split("/") for name in content.get("digests", ())):
            raise InputError(f"is not a valid {SEAL}", where=str(folder / SEAL), remedy="make the folder again")
        return cls(**content)


def seal(folder: Path, key: Key | None = None, made_of: Mapping[str, str] | None = None, *names: str) -> None:
    """Sync a folder's files and write its seal.

    ``names`` are the files to seal; none: all except hidden ones.
    """
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = names or sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    files = [name for name in files if name != SEAL]
    for name in [*files, *{str(Path(name).parent) for name in files}]:
        sync(folder / name)
    digests = {name: sha256(folder / name) for name in files}
    write_json(folder / SEAL, asdict(Seal(dict(key or {}), dict(made_of or {}), digests)))


@contextmanager
def publish(folder: Path, key: Key | None = None, made_of: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Make a folder atomically: yield a temporary one to write into, then seal it and move it into place.

    An earlier folder of that name is replaced.
    """
    part = temp_path(folder)
    earlier = part.with_name(f"{part.name}.earlier")
    for left in (part, earlier):
        shutil.rmtree(left, ignore_errors=True)
    remove_stale_temps(folder)
    try:
        with disk_errors(folder):
            part.mkdir(parents=True)
            yield part
            seal(part, key, made_of)
            if folder.is_dir():
                rename(folder, earlier)
            try:
                rename(part, folder)
            except BaseException:  # an interrupt too
                if earlier.is_dir() and not folder.exists():
                    rename(earlier, folder)
                raise
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check(folder: Path, key: Key | None = None) -> State:
    """Check whether a folder is unaltered, and its key and input files are unchanged. ``key`` None: any key."""
    if not (folder / SEAL).is_file():
        return State()
    try:
        found = Seal.read(folder)
    except InputError:
        return State(True, [SEAL])
    changed = [] if key is None else differences(found.key, key)
    return State(True, altered(folder, found.digests), changed + outdated(folder, found))


def require(folder: Path, remedy: str) -> Seal:
    """The seal of a folder. Raises InputError if it has none, or if files were altered."""
    if not (folder / SEAL).is_file():
        raise InputError(f"it has no {SEAL}", where=str(folder), remedy=remedy)
    try:
        found = Seal.read(folder)
    except InputError:
        raise InputError(f"{SEAL} is not valid", where=str(folder), remedy=remedy) from None
    if wrong := altered(folder, found.digests):
        raise InputError(f"{', '.join(wrong)}: missing, or its SHA-256 has changed", where=str(folder), remedy=remedy)
    return found


def altered(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Files that are missing from a folder, or differ from their SHA-256 in ``digests``."""
    return [name for name, known in digests.items() if not (folder / name).is_file() or sha256(folder / name) != known]


def differences(known: Key, key: Key) -> list[str]:
    """The names of the entries in which two keys differ, sorted."""
    return sorted(name for name in {*known, *key} if known.get(name) != key.get(name))


def outdated(folder: Path, found: Seal | None = None) -> list[str]:
    """Input files of a folder, direct or through other seals, that are missing or have changed since.

    Files of run folders are not read: their manifests have the digests.
    """
    names: list[str] = []
    for name, known in (found or Seal.read(folder)).made_of.items():
        path = Path(os.path.normpath(folder.resolve() / name))
        if (recorded_digest(path) or (path.is_file() and sha256(path))) != known:
            names.append(os.path.relpath(path))
        elif path.name == SEAL:
            names += outdated(path.parent)
    return list(dict.fromkeys(names))


def named(path: Path, folder: Path, within: Path) -> str:
    """A file's key in `Seal.made_of` of a folder: a relative path if it lies in ``within``, which may be moved."""
    path, within = path.resolve(), within.resolve()
    return os.path.relpath(path, folder.resolve()) if path.is_relative_to(within) else str(path)


@contextmanager
def write_with_digest(path: Path) -> Iterator[Path]:
    """Write a file atomically, and its SHA-256 beside it as ``sha256sum`` does; only the owner can read both."""
    with atomic_write(path) as temporary, atomic_write(Path(f"{path}.sha256")) as beside:
        temporary.touch(0o600)
        beside.touch(0o600)
        yield temporary
        beside.write_text(f"{sha256(temporary)}  {path.name}\n", encoding="utf-8")


def require_digest(path: Path) -> None:
    """Refuse a file that differs from the SHA-256 beside it; without one, nothing is checked."""
    beside = Path(f"{path}.sha256")
    if beside.is_file() and beside.read_bytes().split()[:1] != [sha256(path).encode()]:
        raise InputError("its SHA-256 has changed", where=str(path), remedy=f"make it again, or delete {beside.name}")


def code_digest(settings: Any = None) -> str:
    """Digest of the code behind a result: recalign and its libraries, and the files of the user's own classes.

    Args:
        settings: nested; each ``class_path`` in them counts. A class defined in a notebook has no file, and always
            counts as changed.
    """
    own = {path: own_code(path) for path in sorted(class_paths(settings))}
    return digest(_recalign(), {path: uuid4().hex if code is None else code for path, code in own.items()})


def class_paths(settings: Any) -> set[str]:
    """Every ``class_path`` in nested settings."""
    inner = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    found = {path for value in inner for path in class_paths(value)}
    return found | {settings["class_path"]} if isinstance(settings, dict) and "class_path" in settings else found


def own_code(class_path: str) -> str | None:
    """SHA-256 of the file of a user's own class; empty for an installed one, None for one defined in a notebook."""
    module, _, name = class_path.rpartition(".")
    with suppress(ImportError):
        module = getattr(getattr(importlib.import_module(module), name, None), "__module__", module)
    if module.split(".")[0] in {"recalign", *sys.stdlib_module_names} - {"__main__"}:
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    installed = file is not None and {"site-packages", "dist-packages"} & {*Path(file).parts}
    return "" if installed else file and sha256(Path(file))


@cache
def _recalign() -> str:
    """Digest of the versions of recalign and its libraries; in a source checkout, also of the source files."""
    package = Path(__file__).parent
    is_checkout = (package.parents[1] / "pyproject.toml").is_file()
    sources = {str(file.relative_to(package)): sha256(file) for file in package.rglob("*.py")} if is_checkout else {}
    return digest({name: version(name) for name in ("recalign", "torch", "lightning", "polars")}, sources)
