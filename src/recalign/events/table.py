"""The event table: one checked frame of events, whatever the log looked like."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recalign.errors import InputError
from recalign.events import fetch, files, reading
from recalign.events.exposure import COLUMNS as EXPOSURE
from recalign.events.exposure import read_is_random, read_propensity
from recalign.events.expression import compute, condition, kind_of
from recalign.events.fields import index_ids, read_ids, read_moments
from recalign.events.log import OWN_COLUMNS, Log, data_root
from recalign.events.messages import Rows, nearest


@dataclass(frozen=True)
class Note:
    """Rows that cannot be used as others are: why, how many, and which.

    Attributes:
        reason: what is wrong with them and what becomes of them.
        count: how many.
        rows: the first of them, in words.
    """

    reason: str
    count: int
    rows: str


@dataclass(frozen=True)
class Report:
    """What was read of a log.

    Attributes:
        files: rows of each file.
        used: events in the table.
        notes: the rows that are not in the table, or not in every loss.
    """

    files: dict[str, int]
    used: int
    notes: tuple[Note, ...]

    def __str__(self) -> str:
        lines = [f"{count:,} rows read from {file}" for file, count in self.files.items()]
        lines += [f"{note.count:,} rows {note.reason}: {note.rows}" for note in self.notes]
        return "\n".join([*lines, f"{self.used:,} events used"])


@dataclass(frozen=True)
class EventTable:
    """A checked log.

    Attributes:
        frame: an event a row, sorted by (user, moment as fine as the file has it, row of the file): ``user`` and
            ``item`` (u32, index into ``users`` and ``items``), ``timestamp`` (i64, seconds since 1970 floored to the
            log's resolution; the row number where there is no time), ``row`` (u32, counted from 1 through the files),
            ``reward`` (f64, finite; null where there is none), where the log maps them ``is_random`` (bool) and
            ``propensity`` (f64 above 0 and up to 1, null where it is not known), and the log's feedback columns under
            their own names.
        users: raw user ids by index, sorted: integers or strings.
        items: raw item ids by index, sorted.
        has_time: whether the log says when its events happened.
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
        log: where it lies and what its columns mean.
        root: the data root; null: as `data_root` says.
        reward: Polars SQL over the columns of the files and ``log.columns``; null: no event has a reward.

    Raises:
        InputError: something in the log cannot be used, with the file, row, column or key, and what to do.
    """
    sources = _sources(log, root)
    raw, rows = _read(log, sources)
    read = dict(rows.files)
    raw, rows, notes = _usable(raw, rows, log)
    raw = raw.with_columns(
        compute(raw, expression, f"data.log.columns.{name}", rows).alias(name)
        for name, expression in log.columns.items()
    )
    rewards = _rewards(raw, rows, reward)
    if reward is not None and rewards.null_count():
        without = rewards.is_null()
        notes.append(Note("have no reward and stay in histories only", int(without.sum()), rows.name(without)))
    frame, users, items = _ordered(raw, rows, log, rewards)
    report = Report(read, frame.height, tuple(notes))
    return EventTable(frame, users, items, log.timestamp is not None, report, _digest(log, sources, reward))


def fingerprint(log: Log, root: Path | None, reward: str | None) -> str:
    """`EventTable.fingerprint` without reading the events."""
    return _digest(log, _sources(log, root), reward)


def _sources(log: Log, root: Path | None) -> list[files.Source]:
    root = data_root(None) if root is None else root
    found = [files.find(root, entry) for entry in log.files]
    if log.fetch == log.name and not all(found):
        root = fetch.ml_100k()
        found = [files.find(root, entry) for entry in log.files]
    for entry, sources in zip(log.files, found, strict=True):
        if not sources:
            raise files.missing(root, entry, "data.log.files")
    return [source for sources in found for source in sources]


def _digest(log: Log, sources: list[files.Source], reward: str | None) -> str:
    digest = hashlib.sha256(repr((sorted(asdict(log).items()), reward)).encode())
    for source in sources:
        with source.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read(log: Log, sources: list[files.Source]) -> tuple[pl.DataFrame, Rows]:
    frames = {str(source): reading.read(source, (log.user, log.item), log.header, log.separator) for source in sources}
    mapped = {
        "user": log.user,
        "item": log.item,
        "timestamp": log.timestamp,
        "is_random": log.is_random,
        "propensity": log.propensity,
    }
    for file, frame in frames.items():
        for key, column in mapped.items():
            made = key in EXPOSURE and column in log.columns  # later, from the raw ones
            if column is not None and not made and column not in frame.columns:
                raise _no_column(f"data.log.{key}", column, file, frame.columns)
    try:
        frame = pl.concat(frames.values(), how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"the files do not fit together: {str(error).splitlines()[0]}",
            where=", ".join(frames),
            remedy="give columns of one name one type in all files",
        ) from error
    if not frame.height:
        raise InputError("the log is empty", where=", ".join(frames), remedy="name files with events in data.log.files")
    number = pl.int_range(1, frame.height + 1, dtype=pl.UInt32, eager=True)
    headed = frozenset(str(source) for source in sources if reading.has_header(source, log.header))
    return frame, Rows(number, {file: part.height for file, part in frames.items()}, headed)


def _no_column(key: str, column: str, file: str, found: list[str]) -> InputError:
    if reading.looks_like_data(found):
        return InputError(
            f"there is no column {column!r} in {file}, whose first row looks like data, not names: {', '.join(found)}",
            where=key,
            remedy="name its columns in order, data.log.header: [user, item, ...], or let `recalign init FILE` do it",
        )
    return InputError(f"there is no column {column!r} in {file}", where=key, remedy=nearest(column, found))


def _usable(raw: pl.DataFrame, rows: Rows, log: Log) -> tuple[pl.DataFrame, Rows, list[Note]]:
    """The rows that are events, and a note of each reason why others are not."""
    notes = []
    if all(column.null_count() for column in raw):
        blank = raw.select(pl.all_horizontal(pl.all().is_null())).to_series()
        raw, rows, note = _without(raw, rows, blank, "are empty and are left out")
        notes += note
    if log.where is not None:
        unmet = ~condition(raw, log.where, "data.log.where", rows)
        raw, rows, note = _without(raw, rows, unmet, f"do not meet {log.where!r} and are left out")
        notes += note
    if not raw.height:
        raise InputError(
            f"no row of {', '.join(rows.files)} can be used: {'; '.join(note.reason for note in notes)}",
            where="data.log.where",
            remedy="mend the condition, or the file",
        )
    return raw, rows, notes


def _without(raw: pl.DataFrame, rows: Rows, mask: pl.Series, reason: str) -> tuple[pl.DataFrame, Rows, list[Note]]:
    if not mask.any():
        return raw, rows, []
    return raw.filter(~mask), rows.filter(~mask), [Note(reason, int(mask.sum()), rows.name(mask))]


def _rewards(raw: pl.DataFrame, rows: Rows, reward: str | None) -> pl.Series:
    """The reward of each row: f64, null where there is none."""
    if reward is None:
        return pl.repeat(None, raw.height, dtype=pl.Float64, eager=True)
    values = compute(raw, reward, "data.reward", rows)
    present = values.drop_nulls()
    if len(present) and not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise InputError(
            f"{reward!r} gives {kind_of(values, rows)}, not a number",
            where="data.reward",
            remedy="give a number or a comparison; TRY_CAST(x AS DOUBLE) makes numbers of text, and null of the rest",
        )
    if present.is_empty() or present.min() == present.max():
        raise InputError(
            f"{reward!r} is {present[0] if len(present) else 'null'} for every event of {', '.join(rows.files)}",
            where="data.reward",
            remedy="name a column that tells good events from bad ones, or set data.reward to null for a log without",
        )
    return values.cast(pl.Float64)


def _ordered(raw: pl.DataFrame, rows: Rows, log: Log, rewards: pl.Series) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """The event table's frame, and the raw ids of its users and items."""
    user, users = index_ids(read_ids(raw[log.user], "data.log.user", rows))
    item, items = index_ids(read_ids(raw[log.item], "data.log.item", rows))
    if log.timestamp is None:
        moment = second = rows.number.cast(pl.Int64)
    else:
        moment, per_second = read_moments(raw[log.timestamp], log.time_unit, rows)
        second = moment // (per_second * log.time_resolution) * log.time_resolution
    own = dict(zip(OWN_COLUMNS, (user, item, second, rows.number, rewards), strict=True))
    if log.is_random is not None:
        own["is_random"] = read_is_random(raw[log.is_random], rows)
    if log.propensity is not None:
        own["propensity"] = read_propensity(raw[log.propensity], rows)
    mapped = {log.user, log.item, log.timestamp, *OWN_COLUMNS, *own}
    feedback = [column for column in raw if column.name not in mapped]
    order = _order(user, moment)
    columns = [*(values.alias(name) for name, values in own.items()), *feedback]
    if order is not None:  # one piece each, where rows are found at once
        columns = [column.rechunk().gather(order) for column in columns]
    return pl.DataFrame(columns), users, items


def _order(user: pl.Series, moment: pl.Series) -> pl.Series | None:
    """The stable order by (user, moment); null where the rows stand in it."""
    user_N, moment_N = user.to_numpy(), moment.to_numpy()
    later = (user_N[1:] > user_N[:-1]) | (user_N[1:] == user_N[:-1]) & (moment_N[1:] >= moment_N[:-1])
    if later.all():
        return None
    if (moment_N[1:] >= moment_N[:-1]).all():
        return pl.Series(_stable_order(user_N))
    by_moment_N = _stable_order(moment_N)
    return pl.Series(by_moment_N[_stable_order(user_N[by_moment_N])])


def _stable_order(value_N: np.ndarray) -> np.ndarray:
    """The stable order of integers that are not negative. Shape: (N,) -> u32 (N,).

    Value and place in one integer sort ten times faster than places by value.
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
