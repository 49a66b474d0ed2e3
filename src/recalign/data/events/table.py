"""The event table: one checked frame of events for any log, and a report on the rows left out."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from recalign.data.events.log import HOW_READ, LogMapping, data_root
from recalign.data.events.messages import SourceRows
from recalign.data.events.rows import TIED, Report, check_rows
from recalign.errors import InputError
from recalign.files import digest


@dataclass(frozen=True)
class EventTable:
    """A checked log.

    Attributes:
        frame: one row per event, sorted by (user, time at the file's resolution, row of the file), with

            - ``user``, ``item``: u32, index into `users` and `items`;
            - ``timestamp``: i64, seconds since 1970, floored to the resolution; ``row`` if the log has no time;
            - ``row``: u32, counted from 1 through the files;
            - ``reward``: f64, finite; null if absent;
            - ``is_random`` (bool) and ``propensity`` (f64 in (0, 1], null where unknown), if the log maps them;
            - `TIED` (bool): whether the user's event before it has the same time, at the file's resolution;
            - the log's feedback columns under their own names.
        users: raw user ids by index, sorted: integers or strings.
        items: raw item ids by index, sorted.
        has_time: whether the log has timestamps.
        report: what was read and what was left out.
        fingerprint: hex digest of the identity of the files, the mapping and the reward's expression; if items have
            features, also of the item table.
        resolution: seconds to which times are floored.
        together: whether a user's events at one time are a tie group, none in another's history (``data.ties``).
        skipped: rows that were shown and not chosen, in the order of `frame`; None without ``data.log.chosen``. It has
            the columns of `frame` except `TIED`, and ``began`` (i64), the time of the first row of its request. Both
            frames then have ``request`` (u32), the request's index.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    has_time: bool
    report: Report
    fingerprint: str
    resolution: int = 1
    together: bool = False
    skipped: pl.DataFrame | None = None

    def tie_group_max(self, value: pl.Series) -> pl.Series:
        """The largest value in each event's tie group; unchanged unless `together`."""
        return self.max_of_ties(value) if self.together else value

    def max_of_ties(self, value: pl.Series) -> pl.Series:
        """The largest value among the user's events at each event's time, at the file's resolution."""
        ties = pl.DataFrame({"value": value, "first": (~self.frame[TIED]).cum_sum()})
        return ties.select(pl.col("value").max().over("first")).to_series()


class LogReader(ABC):
    """Reads the rows of a log.

    `recalign.data.events.reading` sets `reader_class` to `FileReader`, which reads files, folders and object stores.
    """

    reader_class: ClassVar[type["LogReader"]]

    def __init__(self, log: LogMapping, root: Path | None) -> None:
        self.log, self.root = log, root or data_root(None)

    @abstractmethod
    def digests(self) -> list[str]:
        """Digests of the files that figures depend on."""

    @abstractmethod
    def rows(self) -> tuple[pl.DataFrame, SourceRows]:
        """All rows, with the columns of all files, and where each row comes from."""


def load_events(log: LogMapping, root: Path | None, reward: str | None, together: bool = False) -> EventTable:
    """Read and check a log.

    Args:
        root: the data root; None: `data_root`.
        reward: Polars SQL over the columns of the files and ``log.columns``; None: no event has a reward.
        together: as in `EventTable`.

    Raises:
        InputError: the log cannot be used; names the file, row, column or key, and a remedy.
    """
    if together and log.timestamp is None:
        remedy = "map a timestamp column in data.log.timestamp, or leave data.ties out"
        raise InputError("the log has no times, so ties cannot be found", where="data.ties", remedy=remedy)
    mark = fingerprint(log, root, reward, together)
    raw, rows = LogReader.reader_class(log, root).rows()
    frame, users, items, report, skipped = check_rows(raw, rows, log, reward)
    shown = frame["reward"] if skipped is None else pl.concat([frame["reward"], skipped["reward"]])
    if skipped is not None and (frame.is_empty() or skipped.is_empty()) and len(shown):
        which = "every" if len(frame) else "no"
        what = f"{log.chosen!r} is true for {which} row of {', '.join(report.files)}"
        remedy = "correct the condition; data.log.chosen: null is for a log in which every row is a choice"
        raise InputError(what, where="data.log.chosen", remedy=remedy)
    require_useful(report, shown, reward)
    return EventTable(
        frame, users, items, log.timestamp is not None, report, mark, log.time_resolution, together, skipped
    )


def fingerprint(log: LogMapping, root: Path | None, reward: str | None, together: bool = False) -> str:
    """`EventTable.fingerprint`, without reading the events."""
    mapping = {key: value for key, value in asdict(log).items() if key not in HOW_READ}
    if log.query is None:  # logs of files keep the fingerprints of earlier versions
        del mapping["query"]
    items = mapping.pop("items")  # without features, the item table changes no figure
    features = [items] if items and items["features"] else []
    settings = [*features, "together"] if together else features
    return digest(mapping, reward, LogReader.reader_class(log, root).digests(), *settings)[:16]


def require_useful(report: Report, rewards: pl.Series, reward: str | None) -> None:
    """Refuse a log without usable rows, or with equal rewards. ``rewards``: all, or the least and the largest."""
    files = ", ".join(report.files)
    if not report.used:
        what = f"no row of {files} can be used: {'; '.join(report.left_out())}"
        raise InputError(what, where="data.log.where", remedy="correct the condition or the file")
    if reward is not None and len(values := rewards.drop_nulls().unique()) < 2:
        what = f"{reward!r} is {f'{values[0]:g}' if len(values) else 'null'} for every event of {files}"
        remedy = "name a column that tells good events from bad ones. Without one there is nothing to align to: "
        remedy += "data.reward: null is for training a recommender alone"
        raise InputError(what, where="data.reward", remedy=remedy)
