"""Codes of items: from a file, or at random."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.errors import InputError

MAKE = "run: recalign tokenize, with this log's YAML"


class CodeTable:
    """The ids that a file gives to items, by raw item id.

    Args:
        path: a Parquet file with columns ``item`` and ``code_0``, ``code_1``, ...

    Attributes:
        sizes: codes at each level.

    Raises:
        InputError: there is no such table, an item is doubled, or two items have one id.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise InputError("there is no such file", where=path, remedy=MAKE)
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"this is no Parquet file ({error})", where=path, remedy=MAKE) from error
        columns = sorted((c for c in frame.columns if c.startswith("code_")), key=lambda c: int(c[5:]))
        if "item" not in frame.columns or not columns:
            remedy = "give a table with columns item, code_0, code_1, ..."
            raise InputError(f"it has the columns {', '.join(frame.columns)}", where=path, remedy=remedy)
        self.path, self.frame = path, frame.select("item", pl.col(columns).cast(pl.Int64))
        for kind, key in (("item", ["item"]), ("id", columns)):
            if (twice := frame.filter(frame.select(key).is_duplicated())).height:
                what = f"{twice.height:,} rows share their {kind} with another, such as {twice.row(0)}"
                raise InputError(what, where=path, remedy="each item needs one id of its own")
        if frame.select(pl.col(columns).min() < 0).to_numpy().any():
            raise InputError("a code is negative", where=path, remedy=MAKE)
        self.sizes = [int(top) + 1 for top in self.frame.select(pl.col(columns).max()).row(0)]

    def of(self, items: pl.Series) -> Tensor:
        """The codes of a catalogue's items, in its order; other items' codes are left out. Shape: -> int64 (V, S).

        Raises:
            InputError: an item has no codes.
        """
        try:
            joined = items.alias("item").to_frame().join(self.frame, on="item", how="left", maintain_order="left")
        except pl.exceptions.PolarsError as error:
            what = f"its items are of type {self.frame['item'].dtype}, those of the log of type {items.dtype}"
            raise InputError(what, where=self.path, remedy=MAKE) from error
        missing = joined.filter(pl.col("code_0").is_null())["item"]
        if len(missing):
            what = f"{len(missing):,} of {len(items):,} items of the log have no codes, such as {missing[0]!r}"
            raise InputError(what, where=self.path, remedy=f"it may be of another log or split: {MAKE}")
        return torch.from_numpy(joined.drop("item").to_numpy())


def random_codes(num_items: int, sizes: list[int]) -> Tensor:
    """Codes drawn at random without repetition, always the same. Shape: -> int64 (V, S)."""
    leaf_V = np.random.default_rng(0).choice(math.prod(sizes), num_items, replace=False)
    return torch.from_numpy(np.stack(np.unravel_index(leaf_V, sizes), axis=1))


def square(num_items: int) -> list[int]:
    """Sizes of two equal levels that hold so many items."""
    return [math.isqrt(num_items - 1) + 1] * 2
