"""Artifacts: results cached on disk, loaded if they are unaltered and up to date, else made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recalign.errors import InputError
from recalign.files import read_json, sha256

MANIFEST = "manifest.json"
"""File in a run folder with its cache key and the digests of its files, among others."""

Made = TypeVar("Made", covariant=True)
Key = Mapping[str, Any]
"""Cache key: all that determines an artifact, as JSON values by name; `State.changed` lists names."""


@dataclass(frozen=True)
class State:
    """State of an artifact on disk: whether it exists, is unaltered and is up to date.

    Attributes:
        sealed: whether a finished artifact exists.
        altered: its own files that are missing, or differ from what was written.
        changed: entries of the key, and input files, that have changed since.
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
    """A cached result, loaded while its inputs are unchanged: a run, semantic ids, an evaluation, a report."""

    @property
    def name(self) -> str:
        """Its name in messages: its folder or file, if it has one."""

    def state(self) -> State:
        """Whether it exists, and what was altered or has changed since."""

    def load(self) -> Made:
        """Read it; called only if it is fresh."""

    def make(self) -> Made:
        """Make it."""


def get_or_make(artifact: Artifact[Made], say: Callable[[str], None]) -> Made:
    """Load an artifact if it is up to date, else make it. Say that it is unchanged, or why it is made again."""
    state = artifact.state()
    if state.fresh:
        say(f"  unchanged: {artifact.name}")
        return artifact.load()
    if state.sealed:
        say(f"  again: {artifact.name} ({state})")
    return artifact.make()


def recorded_digest(path: Path) -> str | None:
    """The SHA-256 of a file in its run's manifest; None if it is not listed."""
    for run in path.absolute().parents[:2]:
        manifest = read_json(run / MANIFEST)
        digests = manifest.get("digests") if isinstance(manifest, dict) else None  # it may be another tool's
        if isinstance(digests, dict) and (known := digests.get(path.absolute().relative_to(run).as_posix())):
            return known
    return None


def verify(path: Path, remedy: str) -> bool:
    """Refuse a file whose digest differs from its run's manifest. Returns whether the manifest lists it."""
    known = recorded_digest(path)
    if known and sha256(path) != known:
        raise InputError(f"was changed after its run: SHA-256 differs from {MANIFEST}", where=str(path), remedy=remedy)
    return known is not None
