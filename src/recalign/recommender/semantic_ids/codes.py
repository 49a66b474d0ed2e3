"""The file of semantic ids: `codes.parquet`, one row an item, keyed by raw item id.

Columns: ``item``; ``version``, the run that gave the item its id, from 1; ``code_0``, ``code_1``, ... The metadata hold
the sizes of the levels and the log's name. A file of another tool needs neither version nor metadata: each level is
then as large as its largest code says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from recalign.artifacts import verify
from recalign.data.events.items import log_ids
from recalign.errors import InputError
from recalign.files import replacing

REMEDY = "make its ids again: recalign tokenize LOG"


@dataclass(frozen=True)
class Codes:
    """The semantic ids of a catalogue.

    Attributes:
        codes_VL: int64 (V, levels), row v - 1 for item v; each in 0..size - 1, no two rows alike.
        sizes: codes of each level.
    """

    codes_VL: np.ndarray
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class CodesTable:
    """What a file of semantic ids holds.

    Attributes:
        items: raw item ids, no two alike.
        codes_NL: int64, a row an item, no two alike.
        version_N: int64, the run that gave each item its id.
        sizes: codes of each level.
        log: name of the log; None: unknown.
        numbered: whether the last level only numbers items whose other codes are the same.
    """

    items: pl.Series
    codes_NL: np.ndarray
    version_N: np.ndarray
    sizes: tuple[int, ...]
    log: str | None = None
    numbered: bool = False

    @classmethod
    def empty(cls, items: pl.Series, sizes: tuple[int, ...], log: str | None = None, numbered: bool = False) -> Self:
        """A table without rows, for items of this type."""
        return cls(items.clear(), np.empty((0, len(sizes)), np.int64), np.empty(0, np.int64), sizes, log, numbered)

    @property
    def version(self) -> int:
        """The newest run's number."""
        return int(self.version_N.max(initial=0))

    def appended(self, items: pl.Series, codes_ML: np.ndarray) -> CodesTable:
        """This table and new items, whose version is one higher."""
        version_N = np.append(self.version_N, np.full(len(items), self.version + 1))
        all_items = pl.concat([self.items, items.cast(self.items.dtype)])
        codes_NL = np.concatenate([self.codes_NL, codes_ML])
        return replace(self, items=all_items, codes_NL=codes_NL, version_N=version_N)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        codes = {f"code_{level}": column for level, column in enumerate(self.codes_NL.T)}
        frame = pl.DataFrame({"item": self.items, "version": self.version_N, **codes})
        metadata = {"sizes": json.dumps(self.sizes), "numbered": json.dumps(self.numbered)}
        metadata |= {"log": self.log} if self.log else {}
        with replacing(path) as temporary:
            frame.write_parquet(temporary, metadata=metadata)

    @classmethod
    def read(cls, path: str | Path, altered: bool = False) -> CodesTable:
        """Read and check a file; an ``altered`` one only where that is said.

        Raises:
            InputError: there is no such file, its run wrote another, it lacks a column, holds what is no code, or an
                item or an id twice.
        """
        frame, sizes, log, numbered = _read(Path(path))
        if not altered:
            verify(Path(path), REMEDY)
        count = sum(name.startswith("code_") for name in frame.columns)
        levels = [f"code_{level}" for level in range(max(count, 1))]
        if lacking := {"item", *levels} - set(frame.columns):
            raise InputError(
                f"there is no column {min(lacking)!r} among: {', '.join(frame.columns)}", where=str(path), remedy=REMEDY
            )
        codes = frame.select(levels)
        version = (frame if "version" in frame.columns else frame.with_columns(version=1))["version"]
        for column in (*codes, version):
            if not column.dtype.is_integer():
                what = f"the column {column.name} holds {column.dtype}, not whole numbers"
                raise InputError(what, where=str(path), remedy=REMEDY)
            if len(empty := frame["item"].filter(column.is_null())):
                what = f"{column.name} of the item {empty[0]!r} is empty"
                raise InputError(what, where=str(path), remedy=REMEDY)
        sizes = sizes or tuple(int(c.max() or 0) + 1 for c in codes)  # type: ignore[arg-type]
        _check(frame["item"], codes, sizes, str(path))
        codes_NL, version_N = codes.cast(pl.Int64).to_numpy(), version.cast(pl.Int64).to_numpy()
        return cls(frame["item"], codes_NL, version_N, sizes, log, numbered)

    def require_log(self, log: str, where: str) -> None:
        """Refuse, with an InputError, the ids of a log of another name: its item 7 is another item than ours."""
        if self.log not in (None, log):
            remedy = "give the codes of this log: recalign tokenize LOG; or, for one log, the same data.log.name"
            raise InputError(f"these are the ids of the log {self.log!r}, not of {log!r}", where=where, remedy=remedy)

    def rows(self, items: pl.Series, where: str) -> np.ndarray:
        """The rows of some items. Shape: int64 (V,).

        Raises:
            InputError: an item has no id, or two.
        """
        own = log_ids(self.items, items)
        if (twice := own.is_duplicated() & own.is_not_null()).any():
            alike = self.items.filter(twice & (own == own.filter(twice)[0]))
            what = f"the items {alike[0]!r} and {alike[1]!r} are one item of this log, whose ids are {items.dtype}"
            raise InputError(what, where=where, remedy=REMEDY)
        place = pl.DataFrame({"item": own}).with_row_index("place")
        found = items.alias("item").to_frame().join(place, on="item", how="left", maintain_order="left")["place"]
        if missing := found.null_count():
            first = items.filter(found.is_null())[0]
            text = f"{missing:,} of the catalogue's {len(items):,} items have no id, such as {first!r}"
            remedy = f"give the codes of this log, or add them: recalign tokenize LOG --append {where}"
            raise InputError(text, where=where, remedy=remedy)
        return found.cast(pl.Int64).to_numpy()


def load_codes(path: str | Path, items: pl.Series, log: str | None = None) -> Codes:
    """The semantic ids of a catalogue (`Sequences.items`), from a `codes.parquet` that may hold more items.

    Args:
        path: the file.
        items: raw ids of the catalogue.
        log: the log's name, which must be the file's, if both are known.

    Raises:
        InputError: the file cannot be used, is of another log, or has no id for an item.
    """
    table = CodesTable.read(path)
    if log is not None:
        table.require_log(log, str(path))
    return Codes(table.codes_NL[table.rows(items, str(path))], table.sizes)


def _read(path: Path) -> tuple[pl.DataFrame, tuple[int, ...], str | None, bool]:
    """The frame, and what the metadata hold, if anything: sizes, else (), the log's name, and `CodesTable.numbered`."""
    if not path.is_file():
        raise InputError("there is no such file of semantic ids", where=str(path), remedy=REMEDY)
    try:
        frame, metadata = pl.read_parquet(path, glob=False), pl.read_parquet_metadata(path)
        sizes = tuple(map(int, json.loads(metadata.get("sizes", "[]"))))
        return frame, sizes, metadata.get("log"), metadata.get("numbered") == "true"
    except (pl.exceptions.PolarsError, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot be read as a file of semantic ids: {reason}", where=str(path), remedy=REMEDY
        ) from error


def _check(items: pl.Series, codes: pl.DataFrame, sizes: tuple[int, ...], where: str) -> None:
    """Refuse, with an InputError, an item twice, a code beyond its level, or an id of two items."""
    twice = items.is_duplicated() | items.is_null()
    if twice.any():
        what = f"the item {items.filter(twice)[0]!r} appears more than once, or is empty"
        raise InputError(what, where=where, remedy=REMEDY)
    if len(sizes) != codes.width:
        raise InputError(f"{codes.width} levels, and sizes of {len(sizes)}", where=where, remedy=REMEDY)
    for column, size in zip(codes, sizes, strict=True):
        if not (right := column.is_between(0, size - 1)).all():
            what = f"{column.name} of the item {items.filter(~right)[0]!r} is no number from 0 to {size - 1}"
            raise InputError(what, where=where, remedy=REMEDY)
    alike = codes.with_columns(item=items).filter(codes.is_duplicated()).sort(codes.columns)["item"]
    if len(alike):
        raise InputError(f"the items {alike[0]!r} and {alike[1]!r} have the same id", where=where, remedy=REMEDY)
