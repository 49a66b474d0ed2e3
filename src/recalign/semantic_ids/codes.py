"""The file of semantic ids: `codes.parquet`, one row an item, keyed by raw item id.

Columns: ``item``; ``version``, the run that gave the item its id, from 1; ``code_0``, ``code_1``, ... The metadata hold
the sizes of the levels. A file of another tool needs neither version nor metadata: each level is then as large as
its largest code says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

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
    """

    items: pl.Series
    codes_NL: np.ndarray
    version_N: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def empty(cls, items: pl.Series, sizes: tuple[int, ...]) -> CodesTable:
        """A table without rows, for items of this type."""
        return cls(items.clear(), np.empty((0, len(sizes)), np.int64), np.empty(0, np.int64), sizes)

    @property
    def version(self) -> int:
        """The newest run's number."""
        return int(self.version_N.max(initial=0))

    def appended(self, items: pl.Series, codes_ML: np.ndarray) -> CodesTable:
        """This table and new items, whose version is one higher."""
        version_N = np.append(self.version_N, np.full(len(items), self.version + 1))
        all_items = pl.concat([self.items, items.cast(self.items.dtype)])
        return CodesTable(all_items, np.concatenate([self.codes_NL, codes_ML]), version_N, self.sizes)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        codes = {f"code_{level}": column for level, column in enumerate(self.codes_NL.T)}
        frame = pl.DataFrame({"item": self.items, "version": self.version_N, **codes})
        with replacing(path) as temporary:
            frame.write_parquet(temporary, metadata={"sizes": json.dumps(self.sizes)})

    @classmethod
    def read(cls, path: str | Path) -> CodesTable:
        """Read and check a file.

        Raises:
            InputError: there is no such file, it lacks a column, or an item or an id appears twice.
        """
        frame, sizes = _read(Path(path))
        count = sum(name.startswith("code_") for name in frame.columns)
        levels = [f"code_{level}" for level in range(max(count, 1))]
        if lacking := {"item", *levels} - set(frame.columns):
            raise InputError(
                f"there is no column {min(lacking)!r} among: {', '.join(frame.columns)}", where=str(path), remedy=REMEDY
            )
        codes = frame.select(levels)
        sizes = sizes or tuple(int(c.max() or 0) + 1 for c in codes)  # type: ignore[arg-type]
        _check(frame["item"], codes, sizes, str(path))
        version = frame["version"] if "version" in frame.columns else pl.repeat(1, len(frame), eager=True)
        return cls(frame["item"], codes.cast(pl.Int64).to_numpy(), version.cast(pl.Int64).to_numpy(), sizes)

    def rows(self, items: pl.Series, where: str) -> np.ndarray:
        """The rows of some items. Shape: int64 (V,).

        Raises:
            InputError: an item has no id.
        """
        place = pl.DataFrame({"item": self.items.cast(items.dtype, strict=False)}).with_row_index("place")
        found = items.alias("item").to_frame().join(place, on="item", how="left", maintain_order="left")["place"]
        if missing := found.null_count():
            first = items.filter(found.is_null())[0]
            raise InputError(
                f"{missing:,} of the catalogue's {len(items):,} items have no id, such as {first!r}",
                where=where,
                remedy=f"give the codes of this log, or add them: recalign tokenize LOG --append {where}",
            )
        return found.cast(pl.Int64).to_numpy()


def load_codes(path: str | Path, items: pl.Series) -> Codes:
    """The semantic ids of a catalogue (`Sequences.items`), from a `codes.parquet` that may hold more items.

    Raises:
        InputError: the file cannot be used, or has no id for an item.
    """
    table = CodesTable.read(path)
    return Codes(table.codes_NL[table.rows(items, str(path))], table.sizes)


def _read(path: Path) -> tuple[pl.DataFrame, tuple[int, ...]]:
    """The frame, and the sizes that the metadata hold; () if they hold none."""
    if not path.is_file():
        raise InputError("there is no such file of semantic ids", where=str(path), remedy=REMEDY)
    try:
        frame, metadata = pl.read_parquet(path, glob=False), pl.read_parquet_metadata(path)
        return frame, tuple(map(int, json.loads(metadata.get("sizes", "[]"))))
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
        right = column.is_between(0, size - 1).fill_null(False) & column.dtype.is_integer()
        if not right.all():
            what = f"{column.name} of the item {items.filter(~right)[0]!r} is no whole number from 0 to {size - 1}"
            raise InputError(what, where=where, remedy=REMEDY)
    alike = codes.with_columns(item=items).filter(codes.is_duplicated()).sort(codes.columns)["item"]
    if len(alike):
        raise InputError(f"the items {alike[0]!r} and {alike[1]!r} have the same id", where=where, remedy=REMEDY)
