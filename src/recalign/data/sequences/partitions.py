"""A log in partitions of users: what is done with each block of its rows, and with each partition.

A partition holds all events of users who follow each other in the order of ids, so it is a stretch of every array of
the prepared log, and the arrays are the same whatever the partitions. What a task has done lies in a sealed folder
(`recalign.artifacts`): a task that broke off, or whose files are not what it wrote, is done again, the others are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign import artifacts
from recalign.data.events import EventTable, LogMapping, Report, audit
from recalign.data.events.audit import LEFT, Section, left_out
from recalign.data.events.checking import check_rows
from recalign.data.events.fields import missing_as_null
from recalign.data.events.scanning import Block, LogScan
from recalign.data.sequences.cache import column_file, mappable, read_table
from recalign.data.sequences.splits import High, Split, UserGroups
from recalign.data.sequences.store import assign, index, part_sizes, training_counts
from recalign.errors import InputError
from recalign.files import read_json, write_json

ROW, PLACE = "row of the log", "partition of the user"
"""Columns of the rows on their way into partitions."""

SAMPLE = 1_000_000
"""Users, drawn by rows, whose quantiles bound the partitions."""

STRETCH = "users whose figures these are; their ids follow each other"
FOUND, WARM = "found.json", "warm.json"
Facts = dict[str, Any]
"""What a task found, in plain values, as `FOUND` holds them."""


@dataclass(frozen=True)
class Place:
    """Where a partition begins in the arrays of the whole log: its users, events and known events."""

    user: int
    event: int
    known: int


@dataclass(frozen=True)
class Partitions:
    """The tasks, each of which runs in any process.

    Attributes:
        folder: of what is made on the way; its folder ``entry`` becomes the prepared log.
        scan: the raw log.
        log: its settings.
        reward, high, groups: as in `EventDataModule`.
    """

    folder: Path
    scan: LogScan
    log: LogMapping
    reward: str | None
    high: High | None
    groups: UserGroups

    def users_of(self, block: Block) -> pl.Series:
        """The users of evenly spaced rows of a block."""
        users = self._placed(self.scan.read(block, [self.log.user])[self.log.user])
        return users.gather_every(max(1, self.scan.height // SAMPLE)).drop_nulls()

    def deal(self, number: int, block: Block, bounds: pl.Series) -> list[int]:
        """Order the rows of a block by partition; where each of these begins.

        Args:
            number: of the block.
            block: the rows.
            bounds: the first user of every partition but the first.
        """

        def make(folder: Path) -> Facts:
            frame = self.scan.read(block)
            place = bounds.search_sorted(self._placed(frame[self.log.user]), side="right")
            row = pl.int_range(block.first + 1, block.first + block.rows + 1, dtype=pl.UInt32, eager=True)
            frame = frame.with_columns(row.alias(ROW), pl.Series(PLACE, place)).sort(PLACE, maintain_order=True)
            begins = np.searchsorted(frame[PLACE].to_numpy(), np.arange(len(bounds) + 2)).tolist()
            frame.drop(PLACE).write_ipc(folder / "rows.arrow", compression="uncompressed")  # mapped
            return {"begins": begins}

        return list(self._once(f"block-{number}", make)["begins"])

    def check(self, number: int, begins: list[list[int]]) -> Facts:
        """Check the rows of a partition and order its events. `begins`: what `deal` returned, by block."""

        def make(folder: Path) -> Facts:
            pieces = [
                pl.scan_ipc(self.folder / f"block-{n}" / "rows.arrow", glob=False).slice(
                    at[number], at[number + 1] - at[number]
                )
                for n, at in enumerate(begins)
            ]
            raw = pl.concat([piece.collect() for piece in pieces], rechunk=True)
            rows = dataclasses.replace(self.scan.rows, number=raw.drop_in_place(ROW))
            frame, users, items, found = check_rows(raw, rows, self.log, self.reward)
            frame.write_ipc(folder / "events.arrow", compression="uncompressed")
            groups = self.groups.assign(users)
            pl.DataFrame({"user": users, "group": groups}).write_ipc(folder / "users.arrow")
            pl.DataFrame({"item": items}).write_ipc(folder / "items.arrow")
            np.save(folder / "times.npy", frame["timestamp"].sort().to_numpy())
            nullable = [column.name for column in frame if column.null_count()]
            return {"found": dataclasses.asdict(found), "users": len(users), "nullable": nullable}

        return self._once(f"partition-{number}", make)

    def count(self, number: int, split: Split) -> None:
        """Count a partition's training events, and all of its events, by item of the partition."""

        def make(folder: Path) -> Facts:
            table = self._table(number)
            train_I = training_counts(assign(table, split), len(table.items))
            all_I = np.bincount(table.frame["item"].to_numpy(), minlength=len(table.items))
            np.save(folder / "counts.npy", np.stack([train_I, all_I]))
            return {}

        self._once(f"counts-{number}", make)

    def index(self, number: int, split: Split, place: Place, whole: Place, nullable: list[str]) -> Facts:
        """Write a partition's stretch of the arrays and of the numeric columns; the other columns to a file of its own.

        Args:
            number: of the partition.
            split: in the form for parts.
            place: where the partition begins.
            whole: where the last one ends.
            nullable: columns that have nulls anywhere.
        """

        def make(folder: Path) -> Facts:
            table, catalogue = self._table(number), read_table(self.folder / "catalogue.arrow")
            item_I = catalogue["item"].search_sorted(table.items).to_numpy()
            frame = assign(table, split)
            frame = frame.with_columns(pl.Series("item", item_I[frame["item"].to_numpy()], pl.UInt32))
            high = None if self.high is None or self.high.quantile is not None else self.high
            warm = read_json(self.folder / WARM)
            frame, arrays = index(frame, catalogue["number"].to_numpy(), warm, len(table.users), high)
            most = int(arrays["trained"].max(initial=0))
            frame = frame.with_columns(pl.col("user") + place.user, pl.col("event") + place.event)
            arrays |= {"event": arrays["event"] + place.event, "offset": arrays["offset"] + place.known}
            entry = self.folder / "entry"
            begins = {"trained": (place.user, whole.user), "offset": (place.user, whole.user + 1)}
            known, stretches = (place.known, whole.known), {}
            for name, array in arrays.items():
                stretches[f"{name}.npy"] = write_stretch(entry / f"{name}.npy", array, *begins.get(name, known))
            numeric = mappable(frame.drop(nullable, strict=False))
            for name in numeric:
                path = column_file(entry, frame.columns, name)
                stretches[path.name] = write_stretch(path, frame[name].to_numpy(), place.event, whole.event)
            frame.drop(numeric).write_ipc(folder / "others.arrow", compression="uncompressed")
            found = {"columns": frame.columns, "numeric": numeric, "stretches": stretches}
            return found | {"sizes": part_sizes(frame).tolist(), "trained": most}

        return self._once(f"index-{number}", make)

    def figures(self, report: Report) -> dict[str, Section]:
        """Figures of the largest partition (`recalign.data.events.audit`), beside rows and notes of the whole log."""
        found = [read_json(path / FOUND)["found"] for path in sorted(self.folder.glob("partition-*"), key=_number)]
        number = max(range(len(found)), key=lambda number: found[number]["used"])
        table = self._table(number)
        own = {name: found[number][name] for name in ("tied", "repeats")}
        sections = audit(dataclasses.replace(table, report=dataclasses.replace(table.report, **own)))
        whole = {"rows read": sum(report.files.values()), "events in all": report.used}
        log = sections["log"]
        sections["log"] = {**whole, STRETCH: log.pop("users"), **log, **whole}
        return sections | {LEFT: left_out(report)}

    def _placed(self, users: pl.Series) -> pl.Series:
        """Users in a type whose order is that of the ids."""
        is_text = users.dtype in (pl.Categorical, pl.Enum)
        return missing_as_null(users.cast(pl.String) if is_text else users)

    def _table(self, number: int) -> EventTable:
        folder = self.folder / f"partition-{number}"
        frame, users, items = (read_table(folder / f"{name}.arrow") for name in ("events", "users", "items"))
        report = Report({}, len(frame), ())
        dated, resolution = self.log.timestamp is not None, self.log.time_resolution
        return EventTable(frame, users["user"], items["item"], dated, report, "", resolution)

    def _once(self, name: str, make: Callable[[Path], Facts]) -> Facts:
        """Do a task in a folder of its own, unless that is there, whole, and so is what it wrote of the entry."""
        folder, entry = self.folder / name, self.folder / "entry"
        if artifacts.check(folder).whole:
            done: Facts = read_json(folder / FOUND)
            stretches = done.get("stretches", {}).items()
            if all(_digest_of(entry / file, *where) == known for file, (*where, known) in stretches):
                return done
        with disk_errors(folder), artifacts.publish(folder) as part:
            found = make(part)
            write_json(part / FOUND, found)
        return found


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the error of a folder that cannot be written into one that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = "make room, or name another folder with --data.cache; run it again: what is done is kept"
        raise InputError(f"cannot be written: {error.strerror or error}", where=str(folder), remedy=remedy) from error


def write_stretch(path: Path, array: np.ndarray, begin: int, total: int) -> tuple[int, int, int, str]:
    """Write and sync values ``begin`` and after of a .npy file for `total` ones; other processes write the others.

    Returns:
        The bytes of the file's header, where the stretch begins, its bytes, and the SHA-256 of both.
    """
    content, head = np.ascontiguousarray(array).data, io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array) | {"shape": (total,)})
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        header = file.write(head.getvalue())
        first = file.seek(begin * array.itemsize, os.SEEK_CUR)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256(head.getvalue())
    digest.update(content)
    return header, first, content.nbytes, digest.hexdigest()


def _digest_of(path: Path, header: int, first: int, size: int) -> str | None:
    """SHA-256 of a file's header and a stretch of it; None where there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        found = hashlib.sha256(file.read(header))
        file.seek(first)
        found.update(file.read(size))
    return found.hexdigest()
