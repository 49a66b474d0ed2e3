"""The file of semantic ids: `codes.parquet`, one row per item, keyed by raw item id.

Columns: ``item``, ``code_0``, ``code_1``, ... The metadata hold the sizes of the levels and the log's name. A file from
another tool needs no metadata: the size of each level is then its largest code + 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

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
        items: unique raw item ids.
        codes_NL: int64 (N, levels), one unique row per item, each code in 0..size - 1.
        sizes: number of codes at each level.
        log: name of the log; None: unknown.
    """

    items: pl.Series
    codes_NL: np.ndarray
    sizes: tuple[int, ...]
    log: str | None = None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        codes = {f"code_{level}": column for level, column in enumerate(self.codes_NL.T)}
        metadata = {"sizes": json.dumps(self.sizes)} | ({"log": self.log} if self.log else {})
        with atomic_write(path) as temporary:
            pl.DataFrame({"item": self.items, **codes}).write_parquet(temporary, metadata=metadata)

    @classmethod
    def read(cls, path: str | Path) -> CodesTable:
        """Read and check a file.

        Raises:
            InputError: the file is missing, differs from its run's manifest, lacks a column, or has an invalid code, or
                an item or id twice.
        """
        if not Path(path).is_file():
            raise InputError("there is no such file of semantic ids", where=str(path), remedy=REMEDY)
        try:
            frame, metadata = pl.read_parquet(path, glob=False), pl.read_parquet_metadata(path)
            sizes = tuple(map(int, json.loads(metadata.get("sizes", "[]"))))
        except (pl.exceptions.PolarsError, OSError, ValueError, TypeError) as error:
            what = f"cannot be read as a file of semantic ids: {str(error).splitlines()[0]}"
            raise InputError(what, where=str(path), remedy=REMEDY) from error
        verify(Path(path), REMEDY)
        levels = len(sizes) or sum(name.startswith("code_") for name in frame.columns)
        names = [f"code_{level}" for level in range(levels)]
        if wrong := _wrong(frame, names, sizes or (MAX_IDS,) * levels):
            raise InputError(wrong, where=str(path), remedy=REMEDY)
        codes_NL = frame.select(pl.col(names).cast(pl.Int64)).to_numpy()
        sizes = sizes or tuple(int(size) + 1 for size in codes_NL.max(axis=0, initial=0))
        return cls(frame["item"], codes_NL, sizes, metadata.get("log"))


def load_codes(path: str | Path, items: pl.Series, log: str | None = None) -> CodesTable:
    """The semantic ids of a catalogue (`Sequences.items`), from a `codes.parquet` that may hold more items.

    Args:
        path: the file.
        items: raw ids of the catalogue.
        log: the log's name, which must match the file's, if both are known.

    Returns:
        A table whose row v - 1 has the codes of item v.

    Raises:
        InputError: the file cannot be used, is of another log, or does not have exactly one id for an item.
    """
    table, where = CodesTable.read(path), str(path)
    if log is not None and table.log not in (None, log):  # its item 7 is another item
        remedy = "give the codes of this log: recalign tokenize LOG; or, for one log, the same data.log.name"
        raise InputError(f"these are the ids of the log {table.log!r}, not of {log!r}", where=where, remedy=remedy)
    ids = log_ids(table.items, items)
    if (twice := ids.is_duplicated() & ids.is_not_null()).any():
        what = f"the item {ids.filter(twice)[0]!r} of this log has several rows"
        raise InputError(what, where=where, remedy=REMEDY)
    place = pl.DataFrame({"item": ids}).with_row_index("place")
    found = items.alias("item").to_frame().join(place, on="item", how="left", maintain_order="left")["place"]
    if missing := found.null_count():
        first = items.filter(found.is_null())[0]
        text = f"{missing:,} of the catalogue's {len(items):,} items have no id, such as {first!r}"
        raise InputError(text, where=where, remedy=REMEDY)
    return replace(table, items=items, codes_NL=table.codes_NL[found.to_numpy()])


def _wrong(frame: pl.DataFrame, names: list[str], sizes: tuple[int, ...]) -> str | None:
    """What is wrong with a table of semantic ids, if anything."""
    if not names or not {"item", *names} <= set(frame.columns):
        return f"its columns have to be item, {', '.join(names) or 'code_0'}, and are: {', '.join(frame.columns)}"
    if not all(frame.schema[name].is_integer() for name in names):
        return f"the codes have to be whole numbers, and are: {', '.join(str(frame.schema[name]) for name in names)}"
    outside = [~pl.col(name).is_between(0, size - 1) for name, size in zip(names, sizes, strict=True)]
    wrong = {
        "has an empty cell": pl.any_horizontal(pl.col("item", *names).is_null()),
        "has a code outside the range of its level": pl.any_horizontal(outside),
        "appears more than once": pl.col("item").is_duplicated(),
        "has the same codes as another item": pl.struct(names).is_duplicated(),
    }
    found = ((frame["item"].filter(frame.select(rows).to_series()), what) for what, rows in wrong.items())
    return next((f"the item {items[0]!r} {what}" for items, what in found if len(items)), None)
