"""What a log's YAML says about it: where it lies and what its columns mean."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recalign.errors import InputError

TimeUnit = Literal["s", "ms", "us", "datetime"]

OWN_COLUMNS = ("user", "item", "timestamp", "row", "reward")
"""The event table's own columns; a raw column of such a name can be read by the log's expressions, but is not kept."""


@dataclass
class Log:
    """Where a raw log lies and what its columns mean (``data.log`` in ``conf/data/*.yaml``).

    Expressions are Polars SQL over the columns of the files, one value a row; see `recalign.events.evaluate` for what
    nulls do in them.

    Attributes:
        name: names run folders and tables.
        files: files under the data root, in order; wildcards allowed. ``.csv``, ``.tsv``, ``.parquet``, MovieLens's
            ``u.data`` and ``ratings.dat`` (columns user, item, rating, timestamp), or a ``.zip`` that holds one.
            ``folder/file`` is also found in ``folder.zip`` and ``folder/folder.zip``.
        header: names of the columns, in order, of text files without a header row; null: their first row is the header.
        separator: of text files; null: found from their first row (comma, tab, ``;``, ``|`` or ``::``).
        user: column of the user's id: integers or strings.
        item: column of the item's id: integers or strings.
        timestamp: column of the moment; null: the log has no time, its order is row order, and it serves reward
            models only.
        time_unit: of ``timestamp``: seconds, milliseconds or microseconds since 1970, or datetimes (ISO 8601 in text
            files; without an offset they are UTC).
        time_resolution: seconds to which moments are floored, after sorting.
        columns: feedback columns to add, by name: expressions over the raw columns.
        where: condition for a row to be used; the rows without it are counted in the report.
        is_random: column that is true (or 1) where the event's item was shown at random, or the name of one in
            ``columns``; the event table's ``is_random``.
        propensity: column of the probability with which the item was shown, among all that could have stood in its
            place, or the name of one in ``columns``; the event table's ``propensity``.
        truth: simulated logs only: the file of true rewards under the data root.
        fetch: a public log that is downloaded where its files are missing, if this is the log of that name. (The
            default log sets this, and a log's YAML is read over it: another log must not fetch that one.)
    """

    name: str
    files: list[str]
    header: list[str] | None = None
    separator: str | None = None
    user: str = "user"
    item: str = "item"
    timestamp: str | None = "timestamp"
    time_unit: TimeUnit = "s"
    time_resolution: int = 1
    columns: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    is_random: str | None = None
    propensity: str | None = None
    truth: str | None = None
    fetch: Literal["ml-100k"] | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise InputError("no file is named", where="data.log.files", remedy="name the files of the log")
        if self.header is not None and len(set(self.header)) < len(self.header):
            raise InputError(
                f"a name stands twice: {', '.join(self.header)}",
                where="data.log.header",
                remedy="give every column a name of its own",
            )
        if self.time_resolution < 1:
            raise InputError(
                f"{self.time_resolution} is not a whole number of seconds from 1 on", where="data.log.time_resolution"
            )
        if len({self.user, self.item, self.timestamp}) < 3:
            raise InputError(
                f"user, item and timestamp are the columns {self.user}, {self.item} and {self.timestamp}",
                where="data.log",
                remedy="map each of them to a column of its own",
            )
        taken = [name for name in self.columns if name in OWN_COLUMNS]
        if taken:
            raise InputError(
                f"{taken[0]!r} is a column of the event table itself",
                where="data.log.columns",
                remedy="choose another name",
            )


def data_root(root: str | None) -> Path:
    """The folder that raw logs are looked for in: ``--data.root``, else ``RECALIGN_DATA``, else ``data``."""
    return Path(root or os.environ.get("RECALIGN_DATA") or "data").expanduser()
