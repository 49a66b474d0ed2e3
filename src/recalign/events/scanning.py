"""Read the rows of a log some at a time, so that it need not fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import polars as pl

from recalign.errors import InputError
from recalign.events.files import Source, damaged, locate
from recalign.events.log import Log
from recalign.events.messages import SourceRows
from recalign.events.reading import has_header, read, scan
from recalign.events.table import require_columns, stack
from recalign.files import replacing

MOST_ROWS = 2**32 - 2
"""Rows are numbered by 32 bits."""


@dataclass(frozen=True)
class Block:
    """Rows ``start`` and after of a file; ``first`` is the number of the first of them in the whole log."""

    file: int
    start: int
    rows: int
    first: int


@dataclass(frozen=True)
class LogScan:
    """A log in blocks of rows, in the order of its files.

    Attributes:
        parquet: what is scanned: the log's own Parquet, or what its other files were converted to.
        empty: all columns of the files, without rows.
        rows: names and sizes of the files.
    """

    parquet: list[Source]
    empty: pl.DataFrame
    rows: SourceRows

    @classmethod
    def open(cls, log: Log, root: Path | None, folder: Path) -> LogScan:
        """Find the files of a log. Each that is no Parquet is read whole, one at a time, and converted in `folder`.

        Raises:
            InputError: a file is missing or cannot be read, or they do not fit together.
        """
        sources, _ = locate(log, root)
        parquet = [_as_parquet(source, log, folder / f"file-{n}.parquet") for n, source in enumerate(sources)]
        empty, heights = {}, {}
        for source, scanned in zip(sources, parquet, strict=True):
            try:
                empty[str(source)] = pl.DataFrame(schema=scan(scanned).collect_schema())
                heights[str(source)] = int(scan(scanned).select(pl.len()).collect().item())
            except (pl.exceptions.PolarsError, OSError) as error:
                raise damaged(source, "Parquet", error) from error
            require_columns(log, str(source), empty[str(source)].columns)
        if not 0 < (total := sum(heights.values())) <= MOST_ROWS:
            what = f"the log has {total:,} rows, not 1 to {MOST_ROWS:,}"
            raise InputError(what, where=", ".join(heights), remedy="name files of fewer events in data.log.files")
        headed = frozenset(str(source) for source in sources if has_header(source, log.header))
        return cls(parquet, stack(empty), SourceRows(pl.Series([], dtype=pl.UInt32), heights, headed))

    @property
    def height(self) -> int:
        """The number of all rows."""
        return sum(self.rows.files.values())

    def blocks(self, size: int) -> list[Block]:
        """All rows, `size` at a time or fewer."""
        heights = self.rows.files.values()
        return [
            Block(file, start, min(size, height - start), before + start)
            for file, (height, before) in enumerate(zip(heights, accumulate(heights, initial=0), strict=False))
            for start in range(0, height, size)
        ]

    def read(self, block: Block, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of a block, with all columns of all files or with some of them."""
        empty = self.empty.select(columns or self.empty.columns)
        source = self.parquet[block.file]
        lazy = scan(source)
        wanted = [name for name in lazy.collect_schema().names() if name in empty.columns]
        try:
            rows = lazy.select(wanted).slice(block.start, block.rows).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise damaged(source, "Parquet", error) from error
        return stack({"": empty, str(source): rows})


def _as_parquet(source: Source, log: Log, path: Path) -> Source:
    if source.url or (source.member is None and source.name.endswith(".parquet")):
        return source
    if not path.is_file():
        with replacing(path) as temporary:
            read(source, (log.user, log.item), log.header, log.separator).write_parquet(temporary)
    return Source(path)
