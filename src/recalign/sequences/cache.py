"""The divided log, kept between runs: made once, memory-mapped from then on.

An entry is a folder that holds the flat arrays and the frame's numbers as .npy, which are mapped, what else the frame
has (text, bools, columns with nulls) as Arrow, which Polars reads into memory, and what was read of the log. Its name
is a digest of all that the division depends on: the bytes of the files, the settings, the code that reads and divides,
the version of Polars. A change of any of them leads to another entry, so an entry is never out of date.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import recalign.events
from recalign.events import Report
from recalign.events.table import Note
from recalign.sequences import store
from recalign.sequences.splits import Split
from recalign.sequences.store import Sequences

ARRAYS = ("trained", "offset", "item", "time", "reward", "event")
FRAMES = ("events", "users", "items")
MAPPED = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64),
    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64),
)
"""Types of columns that are kept as arrays."""
KEPT_DAYS = 30
"""Days without use after which an entry goes."""


@dataclass(frozen=True)
class Divided:
    """A divided log and what was read of it."""

    sequences: Sequences
    report: Report


def folder(option: bool | str) -> Path | None:
    """Where entries lie: the folder named, else ``RECALIGN_CACHE``, else the user's cache folder; null: nowhere."""
    if isinstance(option, str):
        return Path(option).expanduser()
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "recalign"
    return Path(os.environ.get("RECALIGN_CACHE") or user).expanduser() if option else None


@dataclass(frozen=True)
class Entry:
    """One divided log in the cache; it need not be there.

    Attributes:
        path: its folder.
    """

    path: Path

    @classmethod
    def of(cls, place: Path, name: str, fingerprint: str, split: Split) -> Entry:
        """The entry of a division.

        Args:
            place: the folder of all entries.
            name: the log's.
            fingerprint: `recalign.sequences.store.division`.
            split: its class may be the user's own, so its code counts.
        """
        key = "|".join([fingerprint, pl.__version__, _code(type(split))])
        return cls(place / f"{name.replace(os.sep, '-')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}")

    def load(self) -> Divided | None:
        """What it holds; null where it is not there or damaged, which is said and put right by removing it."""
        if not self.path.is_dir():
            return None
        try:
            facts = json.loads((self.path / "entry.json").read_text(encoding="utf-8"))
            for file, size in facts["sizes"].items():
                if (self.path / file).stat().st_size != size:
                    raise ValueError(f"{file} is not as long as it was")
            divided = self._read(facts)
            os.utime(self.path)
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            _say(f"the cached log {self.path} is damaged ({error}) and is made anew")
            shutil.rmtree(self.path, ignore_errors=True)
            return None
        return divided

    def _read(self, facts: dict[str, Any]) -> Divided:
        frames = {name: pl.read_ipc(self.path / f"{name}.arrow") for name in FRAMES}
        arrays: dict[str, Any] = {name: self._mapped(name) for name in ARRAYS}
        numbers = {name: pl.Series(name, self._mapped(f"column-{n}")) for n, name in enumerate(facts["numbers"])}
        events = frames["events"].with_columns(*numbers.values()).select(facts["columns"])
        report = facts["report"]
        notes = tuple(Note(**note) for note in report["notes"])
        sequences = Sequences(
            frame=events,
            users=frames["users"]["user"],
            items=frames["items"]["item"],
            group=frames["users"]["group"].to_numpy(),
            fingerprint=facts["fingerprint"],
            catalogue=facts["catalogue"],
            **arrays,
        )
        return Divided(sequences, Report(report["files"], report["used"], notes))

    def _mapped(self, name: str) -> np.ndarray:
        """An array on the disk, copy-on-write: nobody's change reaches the file."""
        return np.load(self.path / f"{name}.npy", mmap_mode="c")

    def save(self, divided: Divided) -> None:
        """Write it, whole or not at all; where that cannot be done, say so once and go on without."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            part.mkdir(parents=True, exist_ok=True)
            self._write(part, divided)
            if not self.path.exists():  # else another process was faster, with the same
                part.replace(self.path)
            _remove_unused(self.path.parent)
        except OSError as error:
            if not self.path.is_dir():
                _say(f"the divided log is not cached: {error.strerror or error} ({self.path.parent})")
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _write(self, part: Path, divided: Divided) -> None:
        sequences = divided.sequences
        numbers = [column.name for column in sequences.frame if _is_mapped(column)]
        frames = {
            "events": sequences.frame.drop(numbers),
            "users": pl.DataFrame({"user": sequences.users, "group": sequences.group.astype(str)}),
            "items": pl.DataFrame({"item": sequences.items}),
        }
        for name, frame in frames.items():
            frame.write_ipc(part / f"{name}.arrow", compression="uncompressed")
        for name in ARRAYS:
            np.save(part / f"{name}.npy", getattr(sequences, name))
        for n, name in enumerate(numbers):
            np.save(part / f"column-{n}.npy", sequences.frame[name].to_numpy())
        facts = {
            "columns": sequences.frame.columns,
            "numbers": numbers,
            "fingerprint": sequences.fingerprint,
            "catalogue": sequences.catalogue,
            "report": dataclasses.asdict(divided.report),
            "sizes": {file.name: file.stat().st_size for file in part.iterdir()},
        }
        (part / "entry.json").write_text(json.dumps(facts), encoding="utf-8")

    def figures(self) -> dict[str, Any] | None:
        """The sections of `recalign.events.audit` that were kept beside it, if any."""
        try:
            return dict(json.loads((self.path / "audit.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def keep_figures(self, sections: dict[str, Any]) -> None:
        """Keep the sections of `recalign.events.audit`, if the entry is there."""
        part = self.path / f".audit.{os.getpid()}"
        try:
            part.write_text(json.dumps(sections), encoding="utf-8")
            part.replace(self.path / "audit.json")
        except OSError as error:
            _say(f"the figures of the log are not cached: {error.strerror or error} ({self.path})")


def _is_mapped(column: pl.Series) -> bool:
    """Whether Polars can take a column from an array as it lies there."""
    return column.null_count() == 0 and column.dtype in MAPPED


def _code(split: type[Split]) -> str:
    """Digest of the code that makes a divided log."""
    own = [Path(file) for module in (recalign.events, store) if (file := module.__file__)]
    files = [*own[0].parent.glob("*.py"), own[1], own[1].with_name("splits.py"), Path(inspect.getfile(split))]
    files.append(Path(__file__))  # how it is kept
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(set(files)))).hexdigest()


@functools.cache
def _say(line: str) -> None:
    """Say something once a process."""
    print(line, file=sys.stderr)


def _remove_unused(place: Path) -> None:
    """Remove entries that nobody has read for long, and what a killed process left half written."""
    for marker in (*place.glob("*/entry.json"), *place.glob(".*/offset.npy")):
        if time.time() - marker.parent.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(marker.parent, ignore_errors=True)
