"""Read a log in blocks of rows, so that it need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.events.files import Source, damaged, locate
from recalign.events.joining import join, whole_numbers
from recalign.events.log import Log
from recalign.events.messages import SourceRows
from recalign.events.reading import has_header, is_text, plain_names, read, require_columns, scan
from recalign.files import replacing

MAX_ROWS = 2**32 - 2
"""Row numbers have 32 bits."""


@dataclass(frozen=True)
class Block:
    """``rows`` rows of a file from row ``start`` on. ``first`` is the number of the first one in the whole log."""

    file: str
    start: int
    rows: int
    first: int


@dataclass(frozen=True)
class LogScan:
    """A log in blocks of rows, in the order of its files.

    Attributes:
        parquet: a Parquet file to scan for each file of the log: itself, or what it was converted to.
        empty: a frame with all columns and no rows.
        rows: names and row counts of the files.
        text: names of the text files.
        integers: id columns that hold only integers in all text files.
    """

    parquet: dict[str, Source]
    empty: pl.DataFrame
    rows: SourceRows
    text: frozenset[str]
    integers: list[str]

    @classmethod
    def open(cls, log: Log, root: Path | None, folder: Path) -> LogScan:
        """Find the files of a log. Others than Parquet are read whole, one at a time, and converted in `folder`.

        Raises:
            InputError: a file is missing or cannot be read, or they do not fit together.
        """
        sources, _ = locate(log, root)
        parquet = {str(one): _as_parquet(one, log, folder / f"file-{n}.parquet") for n, one in enumerate(sources)}
        log = plain_names(log)
        empty, heights = {}, {}
        for file, source in parquet.items():
            with _reading(source):
                empty[file] = pl.DataFrame(schema=scan(source).collect_schema())
                heights[file] = int(scan(source).select(pl.len()).collect().item())
            require_columns(log, file, empty[file].columns)
        if not 0 < (total := sum(heights.values())) <= MAX_ROWS:
            what = f"the log has {total:,} rows, not 1 to {MAX_ROWS:,}"
            raise InputError(what, where=", ".join(heights), remedy="name fewer or smaller files in data.log.files")
        text = frozenset(str(source) for source in sources if is_text(source))
        integers = [
            name
            for name in (log.user, log.item)
            if all(_are_integers(parquet[file], name) for file in text if empty[file].schema[name] == pl.String)
        ]
        headed = frozenset(str(source) for source in sources if has_header(source, log.header))
        rows = SourceRows(pl.Series([], dtype=pl.UInt32), heights, headed)
        return cls(parquet, join(empty, integers, text), rows, text, integers)

    @property
    def height(self) -> int:
        return sum(self.rows.files.values())

    def blocks(self, size: int) -> list[Block]:
        """Split all rows into blocks of at most `size`."""
        heights = self.rows.files
        return [
            Block(file, start, min(size, height - start), before + start)
            for (file, height), before in zip(heights.items(), accumulate(heights.values(), initial=0), strict=False)
            for start in range(0, height, size)
        ]

    def read(self, block: Block, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read a block, with all columns of all files or only some."""
        empty, lazy = self.empty.select(columns or self.empty.columns), scan(self.parquet[block.file])
        wanted = [name for name in lazy.collect_schema().names() if name in empty.columns]
        integers = [name for name in self.integers if name in wanted]
        with _reading(self.parquet[block.file]):
            rows = lazy.select(wanted).slice(block.start, block.rows).collect()
        return join({"": empty, block.file: rows}, integers, self.text & {block.file})


def _as_parquet(source: Source, log: Log, path: Path) -> Source:
    if not (source.member or source.is_gzip or is_text(source)):
        return source
    if not path.is_file():
        with replacing(path) as temporary:
            read(source, (log.user, log.item), log.header, log.separator).write_parquet(temporary)
    return Source(path)


def _are_integers(source: Source, name: str) -> bool:
    """Whether all ids of a text column are written as integers."""
    return whole_numbers(scan(source).select(name).collect()[name]).dtype != pl.String


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Turn read errors into an InputError that names the file."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise damaged(source, "Parquet", error) from error
