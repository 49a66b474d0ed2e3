"""Cache prepared logs on disk between runs: prepared once, memory-mapped from then on.

An entry is a folder. It holds the flat arrays and the frame's numeric columns as .npy, which are mapped, and the
frame's other columns (text, bools, columns with nulls) as Arrow, which is read into memory. Its name has a digest of
all that determines a prepared log (files, settings, code, version of Polars), so an entry is never out of date.
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

from recalign import seals
from recalign.data.events import Report
from recalign.data.events.rows import Note
from recalign.data.sequences.features import FEATURES, ItemFeatures
from recalign.data.sequences.splits import Split
from recalign.data.sequences.store import Sequences
from recalign.errors import InputError
from recalign.files import digest, rename, temp_path, write_json
from recalign.seals import code_digest, own_code

ARRAYS = ("train_count", "offset", "item", "time", "reward", "event")
FACTS = ("fingerprint", "catalogue", "num_warm")
MAPPED = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64)
"""Column types that are memory-mapped if the column has no nulls."""
SKIPPED = "passed.arrow"
FIGURES = "audit.json"
"""Figures of the log; `recalign check` adds them to a sealed entry that has none."""
UNUSED_DAYS = 30
"""Days without use after which an entry is removed."""


def cache_folder(option: bool | str) -> Path | None:
    """The folder of all entries: the one given, else ``RECALIGN_CACHE``, else the user's cache; None: no cache."""
    if isinstance(option, str):
        return Path(option).expanduser()
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "recalign"
    return Path(os.environ.get("RECALIGN_CACHE") or user).expanduser() if option else None


@dataclass(frozen=True)
class CacheEntry:
    """The folder of one prepared log in the cache; it may not exist yet.

    Attributes:
        path: its name ends with a digest of ``key``.
        key: the log's fingerprint and the code (`recalign.artifacts.Key`).
    """

    path: Path
    key: dict[str, str]

    @classmethod
    def of(cls, option: bool | str, name: str, fingerprint: str, split: Split) -> CacheEntry | None:
        """The entry of a log by name and fingerprint.

        None if caching is off, or if the split's class was defined in a notebook: its changes cannot be detected.
        """
        folder, path = cache_folder(option), f"{type(split).__module__}.{type(split).__name__}"
        if folder is None or own_code(path) is None:
            return None
        key = {"log": fingerprint, "code": code_digest({"class_path": path})}
        return cls(folder / f"{name.replace(os.sep, '-')}-{digest(key)[:16]}", key)

    def load(self) -> Sequences | None:
        """Read the entry; None if it is missing or unreadable. A damaged entry is removed, with a warning."""
        if not self.path.is_dir():
            return None
        try:
            seals.require(self.path, "it is prepared again")
            with suppress(OSError):  # a shared cache may be read-only here
                os.utime(self.path)  # marks it as used
            return self._read(json.loads((self.path / "entry.json").read_text(encoding="utf-8")))
        except OSError as error:  # perhaps transient: the entry may be intact
            _warn(f"the cached log {self.path} cannot be read: {error.strerror or error}")
        except (InputError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            _warn(f"the cached log {self.path} is damaged ({getattr(error, 'what', error)}) and is prepared again")
            shutil.rmtree(self.path, ignore_errors=True)
        return None

    def _read(self, facts: dict[str, Any]) -> Sequences:
        events, users, items = (read_table(self.path / f"{name}.arrow") for name in ("events", "users", "items"))
        mapped = functools.partial(np.load, mmap_mode="c")  # copy-on-write: changes never reach the file
        numeric = [pl.Series(name, mapped(column_file(self.path, facts["columns"], name))) for name in facts["mapped"]]
        report = facts["report"]
        return Sequences(
            frame=events.with_columns(numeric).select(facts["columns"]),
            users=users["user"],
            items=items["item"],
            group=users["group"].to_numpy(),
            report=Report(**report | {"notes": [Note(**note) for note in report["notes"]]}),
            features=ItemFeatures.load(self.path) if (self.path / FEATURES).exists() else None,
            skipped=read_table(self.path / SKIPPED) if (self.path / SKIPPED).exists() else None,
            **{name: facts[name] for name in FACTS},
            **{name: mapped(self.path / f"{name}.npy") for name in ARRAYS},
        )

    def save(self, sequences: Sequences) -> None:
        """Write the entry atomically; if that fails, warn once and go on."""
        part = temp_path(self.path)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write_entry(part, sequences, mappable(sequences.frame))
            seals.seal(part, self.key)
            rename(part, self.path)
        except OSError as error:
            if not self.path.is_dir():  # unless another process has just written it
                _warn(f"the prepared log is not cached: {error.strerror or error} ({self.path.parent})")
        finally:
            shutil.rmtree(part, ignore_errors=True)
        folder = self.path.parent  # remove unused entries, and remains of killed processes
        for marker in (*folder.glob("*/entry.json"), *folder.glob(".*/offset.npy"), *folder.glob(".*.prepare-*/rows")):
            with suppress(FileNotFoundError):  # another process was faster
                if time.time() - marker.parent.stat().st_mtime > UNUSED_DAYS * 86_400:
                    shutil.rmtree(marker.parent, ignore_errors=True)


def read_table(path: Path) -> pl.DataFrame:
    """Read an Arrow file; unlike in `polars.read_ipc`, ``[`` and ``*`` in its path are plain characters."""
    return pl.scan_ipc(path, glob=False).collect()


def mappable(frame: pl.DataFrame) -> list[str]:
    """Names of the columns that are memory-mapped (`MAPPED`)."""
    return [column.name for column in frame if column.dtype in MAPPED and not column.null_count()]


def column_file(folder: Path, columns: list[str], name: str) -> Path:
    """The file of a mapped column, named by its position: column names may hold any character."""
    return folder / f"column-{columns.index(name)}.npy"


def write_entry(part: Path, sequences: Sequences, mapped: list[str]) -> None:
    """Write the files of an entry into a folder, except arrays already there; columns ``mapped`` become .npy."""
    frame, columns = sequences.frame, sequences.frame.columns
    arrays = {part / f"{name}.npy": getattr(sequences, name) for name in ARRAYS}
    arrays |= {column_file(part, columns, name): frame[name].to_numpy() for name in mapped}
    for path, array in arrays.items():
        if not path.exists():
            np.save(path, array)
    users = pl.DataFrame({"user": sequences.users, "group": sequences.group.astype(str)})
    tables = {"events": frame.drop(mapped), "users": users, "items": sequences.items.alias("item").to_frame()}
    for name, table in tables.items():
        table.write_ipc(part / f"{name}.arrow", compression="uncompressed")
    if sequences.features is not None:
        sequences.features.save(part)
    if sequences.skipped is not None:
        sequences.skipped.write_ipc(part / SKIPPED, compression="uncompressed")
    facts = {"columns": columns, "mapped": mapped, "report": dataclasses.asdict(sequences.report)}
    write_json(part / "entry.json", facts | {name: getattr(sequences, name) for name in FACTS})


@functools.cache
def _warn(line: str) -> None:
    """Print a line once per process."""
    print(line, file=sys.stderr)
