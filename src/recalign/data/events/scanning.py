"""Read a log whole, or in blocks of rows so that it need not fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import polars as pl

from recalign import artifacts
from recalign.data.events.files import Source, locate, reading_parquet
from recalign.data.events.joining import Tables, matched
from recalign.data.events.log import LogMapping
from recalign.data.events.messages import SourceRows
from recalign.data.events.reading import has_header, is_text, plain_names, read, require_columns, scan
from recalign.errors import InputError

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
    """The tables of a log, in the order of its files.

    Attributes:
        tables: of each file; they fit together.
        empty: a frame with all columns and no rows.
        rows: names and row counts of the files.
    """

    tables: Tables
    empty: pl.DataFrame
    rows: SourceRows

    @classmethod
    def open(cls, log: LogMapping, root: Path | None, folder: Path) -> LogScan:
        """Find the files of a log, to be read in blocks. Others than Parquet are first converted, in `folder`.

        Raises:
            InputError: a file is missing or cannot be read, or they do not fit together.
        """
        sources, _ = locate(log, root)
        parquet = {str(one): _as_parquet(one, log, folder / f"file-{n}") for n, one in enumerate(sources)}
        return cls.of(log, sources, {file: scan(source) for file, source in parquet.items()})

    @classmethod
    def of(cls, log: LogMapping, sources: Sequence[Source], tables: Tables) -> LogScan:
        """Check that the tables of the sources have the log's columns, and fit together.

        Raises:
            InputError: one cannot be read, they have no rows or too many, or their columns do not fit.
        """
        log, heights = plain_names(log), {}
        for file, table in tables.items():
            with reading_parquet(file):
                columns = table.collect_schema().names()
                heights[file] = int(table.select(pl.len()).collect().item())
            require_columns(log, file, columns)
        if not 0 < (total := sum(heights.values())) <= MAX_ROWS:
            what = f"the log has {total:,} rows, not 1 to {MAX_ROWS:,}" if total else "the log is empty"
            raise InputError(what, where=", ".join(heights), remedy="name other files in data.log.files")
        tables, empty = matched(tables, (log.user, log.item), {str(one) for one in sources if is_text(one)})
        headed = frozenset(str(source) for source in sources if has_header(source, log.header))
        return cls(tables, empty, SourceRows(pl.Series([], dtype=pl.UInt32), heights, headed))

    @property
    def height(self) -> int:
        return sum(self.rows.files.values())

    def whole(self) -> tuple[pl.DataFrame, SourceRows]:
        """All rows, with the columns of all files."""
        number = pl.int_range(1, self.height + 1, dtype=pl.UInt32, eager=True)
        return pl.concat(self.tables.values(), how="diagonal_relaxed").collect(), replace(self.rows, number=number)

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
        empty, table = self.empty.select(columns or self.empty.columns), self.tables[block.file]
        with reading_parquet(block.file):
            wanted = [name for name in table.collect_schema().names() if name in empty.columns]
            rows = table.select(wanted).slice(block.start, block.rows).collect()
        return pl.concat([empty, rows], how="diagonal_relaxed")


def _as_parquet(source: Source, log: LogMapping, folder: Path) -> Source:
    if not (source.member or source.is_gzip or is_text(source)):
        return source
    if not artifacts.check(folder).whole:
        with artifacts.publish(folder) as part:
            read(source, (log.user, log.item), log.header, log.separator).write_parquet(part / "rows.parquet")
    return Source(folder / "rows.parquet")
