"""What is made once and read often: whether it is up to date, and whether it is what was written.

It is a folder with a seal: the key that it was made for, the files elsewhere that it was made of, and the digest of
each of its own files. A run folder, which may be continued, has ``manifest.json`` for a seal.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recalign.errors import InputError
from recalign.files import (
    disk_errors,
    read_json,
    remove_stale_temps,
    rename,
    sha256,
    sync,
    temp_path,
    write_json,
)

SEAL, MANIFEST = "digests.json", "manifest.json"

Made = TypeVar("Made", covariant=True)
Key = Mapping[str, Any]
"""All that determines a thing, as JSON values by name; the names are what `State.changed` says."""


@dataclass(frozen=True)
class Seal:
    """What stands in the seal of a folder.

    Attributes:
        key: what the folder was made for.
        made_of: SHA-256 of files outside it, by path: relative to the folder, so that both can be moved, or absolute.
            A seal among them stands for its folder and for what that was made of.
        digests: SHA-256 of its own files, by path in the folder.
    """

    key: dict[str, Any] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Seal:
        """The seal of a folder; an empty one where there is none.

        Raises:
            InputError: it is not JSON, or no seal.
        """
        content = read_json(folder / SEAL)
        known = isinstance(content, dict) and {*content} <= {"key", "made_of", "digests"}
        if not known or not all(isinstance(one, dict) for one in content.values()):
            raise InputError("is no seal", where=str(folder / SEAL), remedy="make the folder again")
        return cls(**content)


@dataclass(frozen=True)
class State:
    """What `check` found.

    Attributes:
        sealed: whether there is anything.
        altered: own files that are missing, or not what was written.
        changed: parts of the key, and files that it was made of, that are not what they were.
    """

    sealed: bool = False
    altered: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it is what was published."""
        return self.sealed and not self.altered

    @property
    def fresh(self) -> bool:
        """Whether it is what would be published now."""
        return self.whole and not self.changed

    def __str__(self) -> str:
        parts = {"altered": self.altered, "changed": self.changed}
        return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts.items() if names)


class Kept(Protocol[Made]):
    """What is made once, and again when something changes that determines it: a run, ids, an evaluation, a page."""

    @property
    def name(self) -> str:
        """How lines call it: by its folder or file, where it has one."""

    def state(self) -> State:
        """Whether it is there, and what was altered or has changed since."""

    def load(self) -> Made:
        """What is there, which is fresh."""

    def make(self) -> Made:
        """Make it."""


def get_or_make(thing: Kept[Made], say: Callable[[str], None]) -> Made:
    """Return the up-to-date thing, or make it; a line says that it is unchanged, or why it is made again."""
    state = thing.state()
    if state.fresh:
        say(f"  unchanged: {thing.name}")
        return thing.load()
    if state.sealed:
        say(f"  again: {thing.name} ({state})")
    return thing.make()


def seal(folder: Path, key: Key | None = None, made_of: Mapping[str, str] | None = None, *names: str) -> None:
    """Sync a folder's files and write their digests, the key and what it was made of.

    Args:
        folder: with all of its files.
        key, made_of: as in `Seal`.
        *names: the files that are sealed; none: all but hidden ones.
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
    """Make a folder whole or not at all: yield one beside it to write into, then seal it and move it into place.

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
    """Look whether a folder is what was published, and what would be published now (for any key, where it is None)."""
    if not (folder / SEAL).is_file():
        return State()
    try:
        found = Seal.read(folder)
    except InputError:
        return State(True, [SEAL])
    changed = [] if key is None else differences(found.key, key)
    return State(True, altered(folder, found.digests), changed + outdated(folder, found))


def require(folder: Path, remedy: str) -> Seal:
    """The seal of a folder. Raises InputError where it has none, or files were altered."""
    state = check(folder)
    if not state.whole:
        what = f"{', '.join(state.altered)}: not what was written" if state.sealed else f"it has no {SEAL}"
        raise InputError(what, where=str(folder), remedy=remedy)
    return Seal.read(folder)


def altered(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Files that a folder lacks, or whose SHA-256 is another one than is known of them by name."""
    return [name for name, known in digests.items() if not (folder / name).is_file() or sha256(folder / name) != known]


def outdated(folder: Path, found: Seal | None = None) -> list[str]:
    """The files that a folder was made of, directly or through other seals, and that are gone or changed since.

    Run folders' files are not read: their manifests say what they are.
    """
    names: list[str] = []
    for name, known in (found or Seal.read(folder)).made_of.items():
        path = Path(os.path.normpath(folder.resolve() / name))
        if (recorded(path) or (path.is_file() and sha256(path))) != known:
            names.append(os.path.relpath(path))
        elif path.name == SEAL:
            names += outdated(path.parent)
    return list(dict.fromkeys(names))


def differences(known: Key, key: Key) -> list[str]:
    """The names of the parts in which two keys differ, sorted."""
    return sorted(name for name in {*known, *key} if known.get(name) != key.get(name))


def recorded(path: Path) -> str | None:
    """The digest that the manifest of a file's run folder has of it; None: it has none."""
    for run in path.absolute().parents[:2]:
        manifest = read_json(run / MANIFEST)
        digests = manifest.get("digests") if isinstance(manifest, dict) else None  # another tool's file may lie there
        if isinstance(digests, dict) and (known := digests.get(path.absolute().relative_to(run).as_posix())):
            return known
    return None


def verify(path: Path, remedy: str) -> bool:
    """Refuse a file that is not what its run's manifest says. Returns whether that says anything of it."""
    known = recorded(path)
    if known and sha256(path) != known:
        raise InputError(f"its digest is not the one in {MANIFEST}", where=str(path), remedy=remedy)
    return known is not None


def named(path: Path, folder: Path, within: Path) -> str:
    """A file as a key of `Seal.made_of` of a folder: relative if both lie in a third one, which may be moved."""
    path, within = path.resolve(), within.resolve()
    return os.path.relpath(path, folder.resolve()) if path.is_relative_to(within) else str(path)
