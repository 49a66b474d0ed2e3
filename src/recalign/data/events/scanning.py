"""Read a log in blocks of rows, so that it need not fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import polars as pl

from recalign import artifacts
from recalign.data.events.files import is_text, locate, reading_parquet
from recalign.data.events.log import LogMapping
from recalign.data.events.messages import SourceRows
from recalign.data.events.reading import Tables, matched, read, scan


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
        rows: names and row counts of the files.
    """

    tables: Tables
    rows: SourceRows

    @classmethod
    def open(cls, log: LogMapping, root: Path | None, folder: Path) -> LogScan:
        """Find the files of a log. Text is first converted to Parquet, in `folder`, a file at a time.

        Raises:
            InputError: a file is missing or cannot be read, or they do not fit together.
        """
        files = enumerate(locate(log, root)[0])
        return cls(*matched(log, {file: scan(_as_parquet(file, log, folder / f"file-{n}")) for n, file in files}))

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
        parts = [
            table.slice(block.start, block.rows if file == block.file else 0) for file, table in self.tables.items()
        ]
        whole = pl.concat(parts, how="diagonal_relaxed")
        with reading_parquet(block.file):
            return (whole.select(columns) if columns else whole).collect()


def _as_parquet(file: str, log: LogMapping, folder: Path) -> str:
    if not is_text(file):
        return file
    if not artifacts.check(folder).whole:
        with artifacts.publish(folder) as part:
            read(file, (log.user, log.item), log.header, log.separator).write_parquet(part / "rows.parquet")
    return str(folder / "rows.parquet")
