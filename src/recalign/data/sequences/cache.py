"""Keep prepared logs on disk between runs: prepared once, memory-mapped from then on.

An entry is a folder. It holds the flat arrays and the frame's numeric columns as .npy, which are mapped, and the
frame's other columns (text, bools, columns with nulls) as Arrow, which Polars reads into memory. Its name is a digest
of all that determines a prepared log: the bytes of the files, the settings, the code that reads and splits, the version
of Polars. So entries are never out of date.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign import artifacts
from recalign.data.events import Report
from recalign.data.events.checking import Note
from recalign.data.sequences.features import FeatureCoder, ItemFeatures
from recalign.data.sequences.splits import Split
from recalign.data.sequences.store import Sequences
from recalign.errors import InputError
from recalign.files import beside, digest, read_json, rename, sha256, write_json

ARRAYS = ("trained", "offset", "item", "time", "reward", "event")
FRAMES = ("events", "users", "items")
MAPPED = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64)
"""Types of the columns that are mapped, if they have no nulls."""

FEATURES = ("code", "weight", "offset", "number")
"""Arrays of `ItemFeatures`."""
FIGURES = "audit.json"
"""Figures of the log, with their digest: they are saved after the entry is sealed."""
UNUSED_DAYS = 30
"""Days without use after which an entry is removed."""


def cache_folder(option: bool | str) -> Path | None:
    """The folder of all entries: the one named, else ``RECALIGN_CACHE``, else the user's cache; null: no cache."""
    if isinstance(option, str):
        return Path(option).expanduser()
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "recalign"
    return Path(os.environ.get("RECALIGN_CACHE") or user).expanduser() if option else None


@dataclass(frozen=True)
class CacheEntry:
    """The folder of one prepared log in the cache; it need not exist.

    Attributes:
        path: named by the digest of its key.
        key: the log's fingerprint and the code (`recalign.artifacts.Key`).
    """

    path: Path
    key: dict[str, str]

    @classmethod
    def of(cls, folder: Path, name: str, fingerprint: str, split: Split) -> CacheEntry | None:
        """The entry of a log by name and fingerprint; a split of the user's own counts with its file.

        None for a split that was typed into a notebook: nobody knows when it changes.
        """
        own, here = artifacts.own_code(f"{type(split).__module__}.{type(split).__name__}"), Path(__file__).parent
        if own is None:
            return None
        files = *(here.parent / "events").glob("*.py"), *here.glob("*.py")
        code = digest(pl.__version__, sorted(map(sha256, files)), own)
        key = {"log": fingerprint, "code": code}
        return cls(folder / f"{name.replace(os.sep, '-')}-{digest(key)[:16]}", key)

    def load(self) -> Sequences | None:
        """Read the entry; null if it does not exist or cannot be read. A damaged one is removed, with a warning."""
        if not self.path.is_dir():
            return None
        try:
            artifacts.require(self.path, "it is prepared again")
            with suppress(OSError):  # a cache that others share may be read-only here
                os.utime(self.path)  # so that it counts as used
            return self._read(json.loads((self.path / "entry.json").read_text(encoding="utf-8")))
        except OSError as error:  # the disk's or the system's, perhaps a passing one: the entry may be whole
            _warn(f"the cached log {self.path} cannot be read: {error.strerror or error}")
            return None
        except (InputError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            _warn(f"the cached log {self.path} is damaged ({getattr(error, 'what', error)}) and is prepared again")
            shutil.rmtree(self.path, ignore_errors=True)
            return None

    def _read(self, facts: dict[str, Any]) -> Sequences:
        frames = {name: read_table(self.path / f"{name}.arrow") for name in FRAMES}
        files = {name: column_file(self.path, facts["columns"], name) for name in facts["numeric"]}
        numeric = [pl.Series(name, _mapped(file)) for name, file in files.items()]
        arrays: dict[str, Any] = {name: _mapped(self.path / f"{name}.npy") for name in ARRAYS}
        notes = tuple(Note(**note) for note in facts["report"]["notes"])
        return Sequences(
            frame=frames["events"].with_columns(numeric).select(facts["columns"]),
            users=frames["users"]["user"],
            items=frames["items"]["item"],
            group=frames["users"]["group"].to_numpy(),
            fingerprint=facts["fingerprint"],
            catalogue=facts["catalogue"],
            report=Report(**facts["report"] | {"notes": notes}),
            features=self._features(facts.get("features")),
            **arrays,
        )

    def _features(self, facts: dict[str, Any] | None) -> ItemFeatures | None:
        if facts is None:
            return None
        arrays = {name: np.load(self.path / f"feature-{name}.npy") for name in FEATURES}
        return ItemFeatures(FeatureCoder(facts["plans"]), facts["warm"], **arrays)

    def save(self, sequences: Sequences) -> None:
        """Write the entry, whole or not at all; if it cannot be written, warn once and go on."""
        part = beside(self.path)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write(part, sequences)
            self.publish(part)
        except OSError as error:
            if not self.path.is_dir():
                _warn(f"the prepared log is not cached: {error.strerror or error} ({self.path.parent})")
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def publish(self, part: Path) -> None:
        """Make a folder with all files of the entry the entry, unless another process was faster.

        Then that one stays: it holds the same, and others may be reading it.

        Raises:
            OSError: it cannot be written.
        """
        artifacts.seal(part, self.key)
        try:
            rename(part, self.path)  # fails where the entry is there
        except OSError:
            if not self.path.is_dir():
                raise
        _remove_unused(self.path.parent)

    def figures(self) -> dict[str, Any]:
        """The log's figures (`recalign.data.events.audit`); {} if they were not saved, or are not what was saved."""
        with suppress(OSError, InputError, TypeError, KeyError):  # they are worked out again
            saved = read_json(self.path / FIGURES)
            if saved["digest"] == digest(self.path.name, saved["sections"]):
                return dict(saved["sections"])
        return {}

    def save_figures(self, sections: dict[str, Any]) -> None:
        """Save the figures of the log beside it, if the entry exists and can be written."""
        if self.path.is_dir():
            with suppress(OSError):  # they are worked out again
                write_json(self.path / FIGURES, {"digest": digest(self.path.name, sections), "sections": sections})


def read_table(path: Path) -> pl.DataFrame:
    """Read an Arrow file, mapped; a folder's name may have ``[`` or ``*`` in it, which `polars.read_ipc` expands."""
    return pl.scan_ipc(path, glob=False).collect()


def mappable(frame: pl.DataFrame) -> list[str]:
    """The columns that are mapped."""
    return [column.name for column in frame if column.dtype in MAPPED and not column.null_count()]


def column_file(folder: Path, columns: list[str], name: str) -> Path:
    """The file of a mapped column, by its place in the frame: a name may hold any character."""
    return folder / f"column-{columns.index(name)}.npy"


def _mapped(path: Path) -> np.ndarray:
    """An array on disk, copy-on-write: changes never reach the file."""
    return np.load(path, mmap_mode="c")


def _write(part: Path, sequences: Sequences) -> None:
    frame, numeric = sequences.frame, mappable(sequences.frame)
    for name in ARRAYS:
        np.save(part / f"{name}.npy", getattr(sequences, name))
    for name in numeric:
        np.save(column_file(part, frame.columns, name), frame[name].to_numpy())
    users = pl.DataFrame({"user": sequences.users, "group": sequences.group.astype(str)})
    digests = {"fingerprint": sequences.fingerprint, "catalogue": sequences.catalogue}
    facts = {"columns": frame.columns, "numeric": numeric, **digests, "report": dataclasses.asdict(sequences.report)}
    facts |= write_features(part, sequences.features)
    write_tables(part, facts, events=frame.drop(numeric), users=users, items=sequences.items.alias("item").to_frame())


def write_features(part: Path, features: ItemFeatures | None) -> dict[str, Any]:
    """Write the features of an entry's items; what entry.json has to say of them."""
    if features is None:
        return {}
    for name in FEATURES:
        np.save(part / f"feature-{name}.npy", getattr(features, name))
    return {"features": {"plans": features.coder.plans, "warm": features.warm}}


def write_tables(part: Path, facts: dict[str, Any], **frames: pl.DataFrame) -> None:
    """Write the tables of an entry, then its entry.json.

    Args:
        part: the folder.
        facts: ``columns`` of `Sequences.frame` in order, those that are ``numeric`` and mapped, ``fingerprint``,
            ``catalogue`` and ``report``; ``features`` if there are some.
        **frames: ``events`` without the numeric columns; ``users`` with ids and groups; ``items``.
    """
    for name, frame in frames.items():
        frame.write_ipc(part / f"{name}.arrow", compression="uncompressed")
    write_json(part / "entry.json", facts)


@functools.cache
def _warn(line: str) -> None:
    """Print a line once per process."""
    print(line, file=sys.stderr)


def _remove_unused(folder: Path) -> None:
    """Remove entries that nobody has read for long, and those that a killed process left half written."""
    for marker in (*folder.glob("*/entry.json"), *folder.glob(".*/offset.npy"), *folder.glob(".*.parts-*/block-0")):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - marker.parent.stat().st_mtime > UNUSED_DAYS * 86_400:
                shutil.rmtree(marker.parent, ignore_errors=True)
