"""The event table: one checked frame of events for any log."""

from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs

from recalign.data.events.checking import Report, check_rows, make_report
from recalign.data.events.expression import root_names
from recalign.data.events.files import file_digest, locate
from recalign.data.events.log import ItemTable, LogMapping
from recalign.data.events.reading import read, read_log
from recalign.files import digest


@dataclass(frozen=True)
class EventTable:
    """A checked log.

    Attributes:
        frame: one row per event, sorted by (user, time at the file's resolution, row of the file), with

            - ``user``, ``item``: u32, index into `users` and `items`;
            - ``timestamp``: i64, seconds since 1970, floored to the log's resolution; the row number where the log has
              no time;
            - ``row``: u32, counted from 1 through the files;
            - ``reward``: f64, finite; null where there is none;
            - ``is_random`` (bool) and ``propensity`` (f64 in (0, 1], null where unknown), if the log maps them;
            - the log's feedback columns under their own names.
        users: raw user ids by index, sorted: integers or strings.
        items: raw item ids by index, sorted.
        has_time: whether the log has timestamps.
        report: what was read and what was left out.
        fingerprint: hex digest of the files' bytes, the mapping and the reward's expression; and, where items have
            features, of what these read of the item table.
        resolution: seconds to which times are floored.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    has_time: bool
    report: Report
    fingerprint: str
    resolution: int = 1


def load_events(log: LogMapping, root: Path | None, reward: str | None) -> EventTable:
    """Read and check a log.

    Args:
        log: its files and what their columns mean.
        root: the data root; None: `data_root`.
        reward: Polars SQL over the columns of the files and ``log.columns``; None: no event has a reward.

    Raises:
        InputError: the log cannot be used; names the file, row, column or key, and a remedy.
    """
    mark = fingerprint(log, root, reward)
    raw, rows = read_log(log, root)
    frame, users, items, found = check_rows(raw, rows, log, reward)
    report = make_report([found], rows, reward)
    return EventTable(frame, users, items, log.timestamp is not None, report, mark, log.time_resolution)


def fingerprint(log: LogMapping, root: Path | None, reward: str | None) -> str:
    """`EventTable.fingerprint`, without reading the events."""
    files, items = locate(log, root)
    mapping = asdict(log)
    del mapping["items"]  # titles change nothing
    parts = [mapping, reward, [file_digest(file) for file in files]]
    if log.items and log.items.features and items:
        features = {name: asdict(feature) for name, feature in log.items.specified.items()}
        parts += [log.items.id, features, _features_digest(items, log.items)]
    return digest(*parts)[:16]


def _features_digest(file: str, table: ItemTable) -> str:
    """Digest of the ids of an item table and of the columns that its features read: nothing else changes a figure."""
    frame = read(file, None)
    reads = {table.id, *(name for one in table.specified.values() for name in root_names(one.value))}
    columns = frame.select(name for name in frame.columns if name in reads).with_columns(cs.binary().bin.encode("hex"))
    return digest([str(columns.schema), columns.write_ndjson()])
