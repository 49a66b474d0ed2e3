"""What a log's YAML says about it: its files and what their columns mean."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recalign.errors import InputError, require_positive

TimeUnit = Literal["s", "ms", "us", "datetime"]

OWN_COLUMNS = ("user", "item", "timestamp", "row", "reward")
"""The event table's own columns. Expressions can read raw columns of these names, but the table does not keep them."""

EXPOSURE_COLUMNS = ("is_random", "propensity")
"""The event table's columns on how an item was shown, if the log maps them."""


@dataclass(frozen=True)
class Titles:
    """A table of the items' titles (``data.log.titles``); further columns are ignored.

    Attributes:
        file: found and read as the log's files are. MovieLens's ``u.item`` and ``movies.dat`` have columns item, title.
        id: column of the item's id, as in the log.
        title: column of the title.
    """

    file: str
    id: str = "item"
    title: str = "title"


@dataclass
class Log:
    """The files of a raw log and what their columns mean (``data.log`` in ``conf/data/*.yaml``).

    Expressions are Polars SQL over the columns of the files (`recalign.events.evaluate`).

    Attributes:
        name: names run folders and tables.
        files: files under the data root, in order; wildcards allowed. ``.csv``, ``.tsv``, ``.parquet``, MovieLens's
            ``u.data`` and ``ratings.dat`` (columns user, item, rating, timestamp), or a ``.zip`` that holds one.
            ``folder/file`` is also found in ``folder.zip`` and ``folder/folder.zip``. A folder stands for the Parquet
            in it; ``s3://bucket/folder`` (or ``gs://``, ``az://``) for that in an object store.
        header: names of all columns, in order, of text files without a header row; null: the first row is the header.
        separator: of text files; null: found from the first row (comma, tab, ``;``, ``|`` or ``::``).
        user: column of the user's id: integers or strings.
        item: column of the item's id: integers or strings.
        timestamp: column of the event's time; null: the log has no time. Its order is then that of its rows, and it
            serves reward models only.
        time_unit: of ``timestamp``: seconds, milliseconds or microseconds since 1970, or datetimes (ISO 8601 in text
            files; UTC if they have no offset).
        time_format: how times of text files are written, where that is not ISO 8601: ``%d/%m/%Y %H:%M`` (the notation
            of chrono's strftime). ``time_unit`` does not count then.
        time_resolution: seconds to which timestamps are floored, after sorting.
        columns: feedback columns to add, by name: expressions over the raw columns.
        where: condition for a row to be used; the report counts the other rows.
        collapse: whether the events of a user on an item become one: that with the highest reward, and of equal ones
            the first, at its own time. The report counts the others.
        is_random: column that is true (or 1) where the item was shown at random, or the name of one in ``columns``.
        propensity: column of the probability with which the item was shown among all that could have been, or the name
            of one in ``columns``.
        titles: the table of the items' titles; null: items are shown by their ids.
        truth: the file of true rewards under the data root, of simulated logs only.
        fetch: a public log to download where its files are missing, if this is the log of that name (a log's YAML is
            merged into that of the default log, which sets it).
    """

    name: str
    files: list[str]
    header: list[str] | None = None
    separator: str | None = None
    user: str = "user"
    item: str = "item"
    timestamp: str | None = "timestamp"
    time_unit: TimeUnit = "s"
    time_format: str | None = None
    time_resolution: int = 1
    columns: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    collapse: bool = False
    is_random: str | None = None
    propensity: str | None = None
    titles: Titles | None = None
    truth: str | None = None
    fetch: Literal["ml-100k"] | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise InputError("no file is named", where="data.log.files", remedy="name the files of the log")
        if self.header is not None and len(set(self.header)) < len(self.header):
            what, remedy = f"a name stands twice: {', '.join(self.header)}", "give every column a name of its own"
            raise InputError(what, where="data.log.header", remedy=remedy)
        require_positive("data.log", vars(self), "time_resolution")
        mapped = self.user, self.item, self.timestamp
        if len(set(mapped)) < len(mapped):
            what = "user, item and timestamp are the columns {}, {} and {}".format(*mapped)
            raise InputError(what, where="data.log", remedy="map each of them to a column of its own")
        for name in set(self.columns) & set(OWN_COLUMNS):
            what = f"{name!r} is a column of the event table itself"
            raise InputError(what, where="data.log.columns", remedy="choose another name")


def data_root(root: str | None) -> Path:
    """The folder that raw logs are looked for in: ``--data.root``, else ``RECALIGN_DATA``, else ``data``."""
    return Path(root or os.environ.get("RECALIGN_DATA") or "data").expanduser()
