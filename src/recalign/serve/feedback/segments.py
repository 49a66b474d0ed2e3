"""Read the log of decisions; turn closed segments into Parquet; forget a user.

A segment is closed once nobody holds its lock: its server has moved on, has stopped or was killed. Only then is it
replaced by a Parquet file with the same records.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from filelock import FileLock, Timeout

from recalign.errors import InputError
from recalign.files import held, read_json, replacing, write_json
from recalign.serve.server.decision_files import (
    COMPACTED,
    FORMAT,
    checked,
    compacted,
    key_of,
    lock_of,
    require_key,
    segments,
)
from recalign.serve.server.decisions import pseudonym
from recalign.serve.server.request import Id

FORGOTTEN = "forgotten.json"
"""Pseudonyms, and when they were forgotten: of users of whom an open segment may hold something."""
HALF, DAMAGED = "half-written records, dropped", "damaged records, dropped"
FIELDS: dict[str, Any] = {
    "time": pl.Int64, "decision": pl.String, "user": pl.String, "version": pl.String, "k": pl.Int64,
    "seen": pl.String, "hidden": pl.Int64, "blocked": pl.Int64, "allowed": pl.Int64, "boosts": pl.Int64,
    "arm": pl.String, "chance": pl.Float64, "temperature": pl.Float64, "fixed": pl.Int64, "seed": pl.Int64,
    "ranked": pl.Int64, "log_probs": pl.List(pl.Float64),
}  # fmt: skip
"""Of a record, beside its ``items``, whose ids are integers or texts."""
SLACK = 60_000_000
"""Microseconds: a segment is begun a moment after the first decision in it was made."""
NEEDED = ("time", "decision", "user", "version", "items")
T = TypeVar("T")


def read(folder: Path, key: str | None = None) -> tuple[pl.DataFrame, Counter[str]]:
    """All decisions of a folder, in the order of time, and how many records were dropped, by reason.

    Args:
        folder: of a server's log; what is closed in it is compacted first.
        key: that the log has to have been written with; None: whichever.

    Raises:
        InputError: there is no log, or it is of another key or of a newer format.
    """
    with reading(folder):
        return read_held(folder, key)


def read_held(folder: Path, key: str | None = None) -> tuple[pl.DataFrame, Counter[str]]:
    """`read`, by who holds the lock of `reading` already: nobody is forgotten until what was made of it is written."""
    if key:
        require_key(folder, key)
    _compact(folder)
    parts = [*_each(_compacted, compacted(folder)), *_each(_segment, segments(folder))]
    forgotten = _forgotten(folder)
    if not parts:
        what, remedy = "there are no decisions in this folder", "name the one of `recalign serve BUNDLE --decisions`"
        raise InputError(what, where=str(folder), remedy=remedy)
    frames = [frame for frame, _ in parts]
    if len(kinds := {frame["items"].dtype for frame in frames}) > 1:
        kind = pl.List(pl.String) if pl.List(pl.String) in kinds else pl.List(pl.UInt64)
        frames = [frame.with_columns(pl.col("items").cast(kind)) for frame in frames]
    dropped = sum((counts for _, counts in parts), Counter[str]())
    return _without(pl.concat(frames), forgotten).sort("time", maintain_order=True), dropped


def forget(folder: Path, user: Id, key: str, now: int, *tables: Path) -> tuple[int, int]:
    """Erase a user.

    Args:
        folder: of a server's log.
        user: the raw id.
        key: that the log has to have been written with: under another one nobody would be found, and nothing erased.
        now: microseconds since 1970; decisions until then are erased.
        *tables: Parquet files with a column ``user``, where they are there.

    Returns:
        Records that were erased, and those in segments that a server still writes: nobody reads these any more, and
        they are erased by the next reading after the server has moved on, within an hour or two.

    Raises:
        InputError: there is no such folder, or its log is of another key.
    """
    name = pseudonym(key, user)
    with reading(folder):
        require_key(folder, key)
        _note(folder, _forgotten(folder) | {name: now})
        erased = _compact(folder, name)
        erased += sum(_each(partial(_erase, name), [*compacted(folder), *tables]))
        waiting = sum(frame.filter(user=name).height for frame, _ in _each(_segment, segments(folder)))
    return erased, waiting


def _erase(name: str, path: Path) -> int:
    """Erase a pseudonym from a table; how many rows that were."""
    frame, known, modified = *_table(path), path.stat().st_mtime
    left = frame.filter(pl.col("user") != name)
    if left.height < frame.height:
        _write(left, path, known, modified)
    return frame.height - left.height


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """One reader at a time. Servers go on.

    Raises:
        InputError: there is no such folder, or another process reads it.
    """
    if not folder.is_dir():
        remedy = "name the folder of `recalign serve BUNDLE --decisions FOLDER`"
        raise InputError("there is no such folder", where=str(folder), remedy=remedy)
    with held(folder, "reading decisions", "wait until it has finished"):
        for left in folder.glob(".*.parquet.*"):
            if left.suffix[1:].isdecimal():  # half-written by a reader that was killed
                left.unlink(missing_ok=True)
        yield


def _each(read: Callable[[Path], T], paths: Iterable[Path]) -> list[T]:
    """What is read of each file that is still there: a server deletes those whose days have passed."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append(read(path))
    return found


def _may_hold(still_open: list[Path], name: str, until: int) -> bool:
    """Whether a segment that is written holds, or may soon hold, what a pseudonym was shown until a time."""
    begun = [int(number) for path in still_open if (number := path.name.partition("-")[0]).isdecimal()]
    if any(one <= until + SLACK for one in begun):
        return True
    return any(frame.filter(pl.col("time") <= until, user=name).height for frame, _ in _each(_segment, still_open))


def _compact(folder: Path, counted: str = "") -> int:
    """Turn closed segments into Parquet. Returns: records of a pseudonym that were left out, as it is forgotten."""
    forgotten, erased, still_open = _forgotten(folder), 0, list[Path]()
    for path in segments(folder):
        lock = FileLock(lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            still_open.append(path)
            continue
        with lock:
            if not path.is_file():  # its days have passed meanwhile
                lock_of(path).unlink(missing_ok=True)
                continue
            (frame, dropped), key = _segment(path), key_of(path)
            left = _without(frame, forgotten)
            erased += frame.filter(user=counted).height - left.filter(user=counted).height
            known = {"format": str(FORMAT), "key": key, "dropped": json.dumps(dropped)}
            _write(left, path.with_name(path.name + COMPACTED), known, path.stat().st_mtime)
            path.unlink()
        lock_of(path).unlink(missing_ok=True)
    needed = {name: until for name, until in forgotten.items() if _may_hold(still_open, name, until)}
    if needed != forgotten:
        _note(folder, needed)
    return erased


def _note(folder: Path, forgotten: dict[str, int]) -> None:
    """Write who was forgotten when; no file, where it is nobody."""
    if not forgotten:
        (folder / FORGOTTEN).unlink(missing_ok=True)
        return
    write_json(folder / FORGOTTEN, forgotten)
    (folder / FORGOTTEN).chmod(0o600)


def _write(frame: pl.DataFrame, path: Path, known: dict[str, str], modified: float) -> None:
    """Write a table that its owner alone may read, as old as its newest decision: retention counts from there."""
    with replacing(path) as temporary:
        temporary.touch(0o600)
        frame.write_parquet(temporary, metadata={k: v for k, v in known.items() if not k.startswith("ARROW")})
        os.utime(temporary, (modified, modified))


def _compacted(path: Path) -> tuple[pl.DataFrame, Counter[str]]:
    frame, known = _table(path)
    return frame, Counter(json.loads(known["dropped"]))


def _table(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    try:
        return pl.read_parquet(path, glob=False), pl.read_parquet_metadata(path)
    except pl.exceptions.PolarsError as error:
        remedy = "restore the file, or move it elsewhere: its decisions are then missing"
        raise InputError(f"damaged: {error}", where=str(path), remedy=remedy) from error


def _segment(path: Path) -> tuple[pl.DataFrame, Counter[str]]:
    """The whole records of a segment, and how many are not whole."""
    *lines, rest = path.read_bytes().split(b"\n")
    dropped: Counter[str] = Counter({HALF: bool(rest)})
    head = checked(lines[0]) if lines else None
    if head is not None and head.get("format") != FORMAT:
        what = f"decisions of format {head.get('format')!r}, and this recalign reads {FORMAT}"
        raise InputError(what, where=str(path), remedy="install the recalign that wrote them")
    records = [record for one in lines[1:] if (record := checked(one)) is not None and _is_whole(record)]
    dropped[DAMAGED] += max(0, len(lines) - 1) - len(records) + (bool(lines) and head is None)
    return _frame(records), dropped


def _is_whole(record: dict[str, Any]) -> bool:
    chances = record.get("log_probs")
    return all(name in record for name in NEEDED) and (chances is None or len(chances) == len(record["items"]))


def _frame(records: list[dict[str, Any]]) -> pl.DataFrame:
    kind = _type_of([one for record in records for one in record["items"]])
    items = [[str(one) for one in record["items"]] if kind == pl.String else record["items"] for record in records]
    columns = {name: pl.Series([record.get(name) for record in records], dtype=kind) for name, kind in FIELDS.items()}
    return pl.DataFrame(columns | {"items": pl.Series(items, dtype=pl.List(kind))})


def _type_of(ids: list[Any]) -> Any:
    """Of ids that are integers or texts; hashes may need all of 64 bits."""
    if any(isinstance(one, str) for one in ids):
        return pl.String
    low, high = min(ids, default=0), max(ids, default=0)
    whole = {pl.Int64: (-(2**63), 2**63), pl.UInt64: (0, 2**64)}
    return next((kind for kind, (first, end) in whole.items() if first <= low and high < end), pl.String)


def _forgotten(folder: Path) -> dict[str, int]:
    return read_json(folder / FORGOTTEN)


def _without(frame: pl.DataFrame, forgotten: dict[str, int]) -> pl.DataFrame:
    until = pl.col("user").replace_strict(list(forgotten), list(forgotten.values()), default=-1, return_dtype=pl.Int64)
    return frame.filter(pl.col("time") > until) if forgotten else frame
