"""Artifacts, made once and read often: whether one is up to date, and whether it is what was written."""

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
"""All that determines an artifact, as JSON values by name; `State.changed` lists names."""


@dataclass(frozen=True)
class State:
    """State of an artifact on disk: whether it is there, unaltered and up to date.

    Attributes:
        sealed: whether a finished one is there.
        altered: own files that are missing, or not what was written.
        changed: parts of the key, and files that it was made of, that are not what they were.
    """

    sealed: bool = False
    altered: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it is complete and unaltered."""
        return self.sealed and not self.altered

    @property
    def fresh(self) -> bool:
        """Whether it is complete, and nothing that determines it has changed."""
        return self.whole and not self.changed

    def __str__(self) -> str:
        parts = {"altered": self.altered, "changed": self.changed}
        return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts.items() if names)


class Artifact(Protocol[Made]):
    """What is loaded while its inputs are unchanged, else made: a run, semantic ids, an evaluation, a report."""

    @property
    def name(self) -> str:
        """Its name in messages: its folder or file, where it has one."""

    def state(self) -> State:
        """Whether it is there, and what was altered or has changed since."""

    def load(self) -> Made:
        """Read it; only called where it is fresh."""

    def make(self) -> Made:
        """Make it."""


def get_or_make(artifact: Artifact[Made], say: Callable[[str], None]) -> Made:
    """Load an artifact that is up to date, else make it; say that it is unchanged, or why it is made again."""
    state = artifact.state()
    if state.fresh:
        say(f"  unchanged: {artifact.name}")
        return artifact.load()
    if state.sealed:
        say(f"  again: {artifact.name} ({state})")
    return artifact.make()


def recorded_digest(path: Path) -> str | None:
    """The file's digest in its run's manifest; None: it has none."""
    for run in path.absolute().parents[:2]:
        manifest = read_json(run / MANIFEST)
        digests = manifest.get("digests") if isinstance(manifest, dict) else None  # another tool's file may lie there
        if isinstance(digests, dict) and (known := digests.get(path.absolute().relative_to(run).as_posix())):
            return known
    return None


def verify(path: Path, remedy: str) -> bool:
    """Refuse a file that is not what its run's manifest says. Returns whether the manifest lists it."""
    known = recorded_digest(path)
    if known and sha256(path) != known:
        raise InputError(f"its digest is not the one in {MANIFEST}", where=str(path), remedy=remedy)
    return known is not None
