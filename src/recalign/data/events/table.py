"""The event table: one checked frame of events for any log."""

from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from recalign.data.events.checking import check_rows
from recalign.data.events.content import features_digest
from recalign.data.events.files import Source, locate
from recalign.data.events.log import LogMapping
from recalign.data.events.reading import plain_names, read
from recalign.data.events.report import Report, make_report
from recalign.data.events.scanning import LogScan
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
    sources, known = locate(log, root)
    mark = _digest(log, sources, known, reward)
    tables = {str(source): read(source, (log.user, log.item), log.header, log.separator).lazy() for source in sources}
    raw, rows = LogScan.of(log, sources, tables).whole()
    frame, users, items, found = check_rows(raw, rows, plain_names(log), reward)
    report = make_report([found], rows, reward)
    return EventTable(frame, users, items, log.timestamp is not None, report, mark, log.time_resolution)


def fingerprint(log: LogMapping, root: Path | None, reward: str | None) -> str:
    """`EventTable.fingerprint`, without reading the events."""
    return _digest(log, *locate(log, root), reward)


def _digest(log: LogMapping, sources: list[Source], known: Source | None, reward: str | None) -> str:
    mapping = asdict(log)
    del mapping["items"]  # titles change nothing
    found = [source.digest() for source in sources]
    if log.items and log.items.features and known:
        features = {name: asdict(one) for name, one in log.items.specified.items()}
        return digest(mapping, reward, found, log.items.id, features, features_digest(known, log.items))[:16]
    return digest(mapping, reward, found)[:16]
