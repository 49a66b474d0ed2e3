"""What is made once and read often: whether it is up to date, and whether it is what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recalign.errors import InputError
from recalign.files import read_json, sha256

MANIFEST = "manifest.json"
"""What a run folder says of itself: its key and the digests of its files, among others."""

Made = TypeVar("Made", covariant=True)
Key = Mapping[str, Any]
"""All that determines a thing, as JSON values by name; the names are what `State.changed` says."""


@dataclass(frozen=True)
class State:
    """Whether a thing that was made is there, and is still what it would be.

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
        """Whether it is what was made."""
        return self.sealed and not self.altered

    @property
    def fresh(self) -> bool:
        """Whether it is what would be made now."""
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


def recorded(path: Path) -> str | None:
    """The file's digest in its run's manifest; None: it has none."""
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
