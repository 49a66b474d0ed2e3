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
from recalign.files import atomic_write
from recalign.nn.onerec_trie import MAX_IDS

REMEDY = "make its ids again: recalign tokenize LOG"


@dataclass(frozen=True)
class CodesTable:
    """The semantic ids of some items.

    Attributes:
        items: raw item ids, no two alike.
        codes_NL: int64 (N, levels), a row an item, each code in 0..size - 1, no two rows alike.
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
        with atomic_write(path) as temporary:
            frame.write_parquet(temporary, metadata=metadata)

    @classmethod
    def read(cls, path: str | Path, altered: bool = False) -> CodesTable:
        """Read and check a file.

        Args:
            path: the file.
            altered: also read a file that is not what its run wrote.

        Raises:
            InputError: there is no such file, its run wrote another, it lacks a column, holds what is no code, or an
                item or an id twice.
        """
        if not Path(path).is_file():
            raise InputError("there is no such file of semantic ids", where=str(path), remedy=REMEDY)
        try:
            frame, metadata = pl.read_parquet(path, glob=False), pl.read_parquet_metadata(path)
            sizes = tuple(map(int, json.loads(metadata.get("sizes", "[]"))))
        except (pl.exceptions.PolarsError, OSError, ValueError, TypeError) as error:
            what = f"cannot be read as a file of semantic ids: {str(error).splitlines()[0]}"
            raise InputError(what, where=str(path), remedy=REMEDY) from error
        if not altered:
            verify(Path(path), REMEDY)
        names = [
            f"code_{level}" for level in range(len(sizes) or sum(name.startswith("code_") for name in frame.columns))
        ]
        if wrong := _wrong(frame, names, sizes or (MAX_IDS,) * len(names)):
            raise InputError(wrong, where=str(path), remedy=REMEDY)
        codes_NL = frame.select(pl.col(names).cast(pl.Int64)).to_numpy()
        version_N = frame["version"].cast(pl.Int64).to_numpy() if "version" in frame else np.ones(len(frame), np.int64)
        sizes = sizes or tuple(int(size) + 1 for size in codes_NL.max(axis=0, initial=0))
        return cls(frame["item"], codes_NL, version_N, sizes, metadata.get("log"), metadata.get("numbered") == "true")

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
            what = f"the item {own.filter(twice)[0]!r} of this log has several rows"
            raise InputError(what, where=where, remedy=REMEDY)
        place = pl.DataFrame({"item": own}).with_row_index("place")
        found = items.alias("item").to_frame().join(place, on="item", how="left", maintain_order="left")["place"]
        if missing := found.null_count():
            first = items.filter(found.is_null())[0]
            text = f"{missing:,} of the catalogue's {len(items):,} items have no id, such as {first!r}"
            remedy = f"give the codes of this log, or add them: recalign tokenize LOG --append {where}"
            raise InputError(text, where=where, remedy=remedy)
        return found.cast(pl.Int64).to_numpy()


def load_codes(path: str | Path, items: pl.Series, log: str | None = None) -> CodesTable:
    """The semantic ids of a catalogue (`Sequences.items`), from a `codes.parquet` that may hold more items.

    Args:
        path: the file.
        items: raw ids of the catalogue.
        log: the log's name, which must be the file's, if both are known.

    Returns:
        Row v - 1 is item v's.

    Raises:
        InputError: the file cannot be used, is of another log, or has no id for an item.
    """
    table = CodesTable.read(path)
    if log is not None:
        table.require_log(log, str(path))
    row_V = table.rows(items, str(path))
    return replace(table, items=items, codes_NL=table.codes_NL[row_V], version_N=table.version_N[row_V])


def _wrong(frame: pl.DataFrame, names: list[str], sizes: tuple[int, ...]) -> str | None:
    """What is wrong with a table of semantic ids, if anything."""
    if not names or not {"item", *names} <= set(frame.columns):
        return f"its columns have to be item, {', '.join(names) or 'code_0'}, and are: {', '.join(frame.columns)}"
    numbers = frame.select(pl.col(names), pl.col("^version$"))
    if not all(dtype.is_integer() for dtype in numbers.dtypes):
        return f"codes and versions are whole numbers, and here: {', '.join(map(str, numbers.dtypes))}"
    outside = [~pl.col(name).is_between(0, size - 1) for name, size in zip(names, sizes, strict=True)]
    wrong = {
        "has an empty cell": pl.any_horizontal(pl.col("item", *numbers.columns).is_null()),
        "has a code that its level does not have": pl.any_horizontal(outside),
        "appears more than once": pl.col("item").is_duplicated(),
        "has the same id as another": pl.struct(names).is_duplicated(),
    }
    found = ((frame["item"].filter(frame.select(rows).to_series()), what) for what, rows in wrong.items())
    return next((f"the item {items[0]!r} {what}" for items, what in found if len(items)), None)
