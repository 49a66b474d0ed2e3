"""The event table: one checked frame of events, whatever the log looked like."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.events.expression import condition, evaluate, kind_of
from recalign.events.fields import (
    index_ids,
    missing_as_null,
    read_ids,
    read_is_random,
    read_propensity,
    read_timestamps,
)
from recalign.events.files import Source, locate
from recalign.events.log import EXPOSURE_COLUMNS, OWN_COLUMNS, Log
from recalign.events.messages import SHOWN, SourceRows
from recalign.events.reading import has_header, no_column, read
from recalign.files import digest


@dataclass(frozen=True)
class Note:
    """Rows that are left out, or are not in every loss."""

    reason: str
    count: int
    rows: str  # the first of them, in words

    def __str__(self) -> str:
        return f"{self.count:,} rows {self.reason}: {self.rows}"


@dataclass(frozen=True)
class Report:
    """What was read of a log: the rows of each file, and the events that are used."""

    files: dict[str, int]
    used: int
    notes: tuple[Note, ...]

    def __str__(self) -> str:
        lines = [f"{count:,} rows read from {file}" for file, count in self.files.items()]
        return "\n".join([*lines, *map(str, self.notes), f"{self.used:,} events used"])


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
        report: what was read, and the rows that cannot be used.
        fingerprint: hex digest of the files' bytes, the mapping and the reward's expression.
    """

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    has_time: bool
    report: Report
    fingerprint: str


def load_events(log: Log, root: Path | None, reward: str | None) -> EventTable:
    """Read and check a log.

    Args:
        log: its files and what their columns mean.
        root: the data root; null: `data_root`.
        reward: Polars SQL over the columns of the files and ``log.columns``; null: no event has a reward.

    Raises:
        InputError: something in the log cannot be used, with the file, row, column or key, and a remedy.
    """
    sources, _ = locate(log, root)
    raw, rows = _read(log, sources)
    checked = check_rows(raw, rows, log, reward)
    report = make_report([checked.found], rows, reward)
    has_time = log.timestamp is not None
    return EventTable(checked.frame, checked.users, checked.items, has_time, report, _digest(log, sources, reward))


@dataclass(frozen=True)
class Found:
    """What the check of some rows of a log found, in plain values.

    Attributes:
        used: rows that are events.
        left_out: why other rows are not, or have no reward: the reason, how many, the numbers of the first of them.
        rewards: the least and the greatest; null where there is none.
    """

    used: int
    left_out: list[tuple[str, int, list[int]]]
    rewards: tuple[float | None, float | None]


@dataclass(frozen=True)
class CheckedRows:
    """Some rows of a log as events: `EventTable.frame`, `users` and `items` of these rows alone, and what was found."""

    frame: pl.DataFrame
    users: pl.Series
    items: pl.Series
    found: Found


def check_rows(raw: pl.DataFrame, rows: SourceRows, log: Log, reward: str | None) -> CheckedRows:
    """Check rows of a log: all of them, or all of some users.

    Raises:
        InputError: as `load_events`, but for what only the whole log can tell (`make_report`).
    """
    raw = raw.with_columns(missing_as_null(raw[name]) for name in (log.user, log.item, log.timestamp) if name)
    raw, rows, left_out = _usable(raw, rows, log)
    raw = raw.with_columns(
        evaluate(raw, expression, f"data.log.columns.{name}", rows).alias(name)
        for name, expression in log.columns.items()
    )
    rewards = _rewards(raw, rows, reward)
    if reward is not None:
        left_out.append(_counted("have no reward and stay in histories only", rewards.is_null(), rows))
    frame, users, items = _ordered(raw, rows, log, rewards)
    return CheckedRows(frame, users, items, Found(frame.height, left_out, (rewards.min(), rewards.max())))  # type: ignore


def make_report(parts: Sequence[Found], rows: SourceRows, reward: str | None) -> Report:
    """The report of a log whose rows were checked in parts. Only the files of `rows` are read.

    Raises:
        InputError: no row can be used, or the reward is the same for every event.
    """
    notes = []
    for same in zip(*(part.left_out for part in parts), strict=True):
        count = sum(one[1] for one in same)
        first = sorted(number for one in same for number in one[2])[:SHOWN]
        if count:
            notes.append(Note(same[0][0], count, rows.name(first, count)))
    used = sum(part.used for part in parts)
    if not used:
        raise InputError(
            f"no row of {', '.join(rows.files)} can be used: {'; '.join(note.reason for note in notes)}",
            where="data.log.where",
            remedy="mend the condition, or the file",
        )
    values = {end for part in parts for end in part.rewards if end is not None}
    if reward is not None and len(values) < 2:
        raise InputError(
            f"{reward!r} is {f'{values.pop():g}' if values else 'null'} for every event of {', '.join(rows.files)}",
            where="data.reward",
            remedy="name a column that tells good events from bad ones, or set data.reward to null for a log without",
        )
    return Report(rows.files, used, tuple(notes))


def _counted(reason: str, mask: pl.Series, rows: SourceRows) -> tuple[str, int, list[int]]:
    return reason, int(mask.sum()), rows.number.filter(mask).head(SHOWN).to_list()


def fingerprint(log: Log, root: Path | None, reward: str | None) -> str:
    """`EventTable.fingerprint`, without reading the events."""
    return _digest(log, locate(log, root)[0], reward)


def _digest(log: Log, sources: list[Source], reward: str | None) -> str:
    mapping = asdict(log)
    del mapping["titles"]  # they do not change the events
    return digest(mapping, reward, [source.digest() for source in sources])[:16]


def _read(log: Log, sources: list[Source]) -> tuple[pl.DataFrame, SourceRows]:
    frames = {str(source): read(source, (log.user, log.item), log.header, log.separator) for source in sources}
    for file, frame in frames.items():
        require_columns(log, file, frame.columns)
    frame = stack(frames)
    if not frame.height:
        raise InputError("the log is empty", where=", ".join(frames), remedy="name files with events in data.log.files")
    number = pl.int_range(1, frame.height + 1, dtype=pl.UInt32, eager=True)
    headed = frozenset(str(source) for source in sources if has_header(source, log.header))
    return frame, SourceRows(number, {file: part.height for file, part in frames.items()}, headed)


def require_columns(log: Log, file: str, columns: list[str]) -> None:
    """Refuse a file that lacks a column that the log maps."""
    for key in ("user", "item", "timestamp", *EXPOSURE_COLUMNS):
        column = getattr(log, key)
        computed = key in EXPOSURE_COLUMNS and column in log.columns
        if column is not None and not computed and column not in columns:
            raise no_column(f"data.log.{key}", column, file, columns)


def stack(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of all files in one frame, its columns of types that hold those of all."""
    try:
        return pl.concat(frames.values(), how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"the files do not fit together: {str(error).splitlines()[0]}",
            where=", ".join(frames),
            remedy="give columns of the same name the same type in all files",
        ) from error


def _usable(
    raw: pl.DataFrame, rows: SourceRows, log: Log
) -> tuple[pl.DataFrame, SourceRows, list[tuple[str, int, list[int]]]]:
    """The rows that are events, and why others are not."""
    empty = pl.repeat(False, raw.height, eager=True)
    if all(column.null_count() for column in raw):
        empty = raw.select(pl.all_horizontal(pl.all().is_null())).to_series()
    left_out = [_counted("are empty and are left out", empty, rows)]
    if empty.any():
        raw, rows = raw.filter(~empty), rows.filter(~empty)
    if log.where is not None:
        unmet = ~condition(raw, log.where, "data.log.where", rows)
        left_out.append(_counted(f"do not meet {log.where!r} and are left out", unmet, rows))
        raw, rows = raw.filter(~unmet), rows.filter(~unmet)
    return raw, rows, left_out


def _rewards(raw: pl.DataFrame, rows: SourceRows, reward: str | None) -> pl.Series:
    """The reward of each row: f64, null where there is none."""
    if reward is None:
        return pl.repeat(None, raw.height, dtype=pl.Float64, eager=True)
    values = evaluate(raw, reward, "data.reward", rows)
    present = values.drop_nulls()
    if len(present) and not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise InputError(
            f"{reward!r} gives {kind_of(values, rows)}, not a number",
            where="data.reward",
            remedy="give a number or a comparison; TRY_CAST(x AS DOUBLE) makes numbers of text, and null of the rest",
        )
    return values.cast(pl.Float64)


def _ordered(
    raw: pl.DataFrame, rows: SourceRows, log: Log, rewards: pl.Series
) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """The event table's frame, and the raw ids of its users and items."""
    user, users = index_ids(read_ids(raw[log.user], "data.log.user", rows))
    item, items = index_ids(read_ids(raw[log.item], "data.log.item", rows))
    if log.timestamp is None:
        time = second = rows.number.cast(pl.Int64)
    else:
        time, per_second = read_timestamps(raw[log.timestamp], log.time_unit, rows)
        second = time // (per_second * log.time_resolution) * log.time_resolution
    own = dict(zip(OWN_COLUMNS, (user, item, second, rows.number, rewards), strict=True))
    if log.is_random is not None:
        own["is_random"] = read_is_random(raw[log.is_random], rows)
    if log.propensity is not None:
        own["propensity"] = read_propensity(raw[log.propensity], rows)
    mapped = {log.user, log.item, log.timestamp, *OWN_COLUMNS, *own}
    feedback = [column for column in raw if column.name not in mapped]
    order = _order(user, time)
    columns = [*(values.alias(name) for name, values in own.items()), *feedback]
    if order is not None:  # rechunk: gathering from one piece is faster
        columns = [column.rechunk().gather(order) for column in columns]
    return pl.DataFrame(columns), users, items


def _order(user: pl.Series, time: pl.Series) -> pl.Series | None:
    """The stable order by (user, time); null if the rows are in it."""
    user_N, time_N = user.to_numpy(), time.to_numpy()
    no_earlier_N = time_N[1:] >= time_N[:-1]
    if ((user_N[1:] > user_N[:-1]) | (user_N[1:] == user_N[:-1]) & no_earlier_N).all():
        return None
    if no_earlier_N.all():
        return pl.Series(_stable_order(user_N))
    by_time_N = _stable_order(time_N)
    return pl.Series(by_time_N[_stable_order(user_N[by_time_N])])


def _stable_order(value_N: np.ndarray) -> np.ndarray:
    """The stable order of non-negative integers. Shape: (N,) -> u32 (N,).

    Sorting value and place packed in one integer is ten times as fast as `argsort`.
    """
    bits = len(value_N).bit_length()
    least = value_N.min()
    if int(value_N.max() - least).bit_length() + bits > 63:
        return np.argsort(value_N, kind="stable").astype(np.uint32)
    packed_N = (value_N - least).astype(np.int64)
    packed_N <<= bits
    packed_N |= np.arange(len(packed_N))
    packed_N.sort()
    packed_N &= 2**bits - 1
    return packed_N.astype(np.uint32)
