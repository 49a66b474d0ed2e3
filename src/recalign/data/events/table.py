"""The event table: one checked frame of events for any log, and a report on the rows left out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from recalign.data.events.expression import AS_NUMBER, as_bool, condition, evaluate, kind_of
from recalign.data.events.fields import index_ids, missing_as_null, read_ids, read_timestamps, refuse_rows
from recalign.data.events.log import HOW_READ, OWN_COLUMNS, LogMapping, data_root
from recalign.data.events.messages import SHOWN, SourceRows
from recalign.errors import InputError, printable
from recalign.files import digest, sha256

TIED = "tied with the one before"
"""A column of `EventTable.frame`, with a name that no file's column has."""


@dataclass(frozen=True)
class Note:
    """Rows that are left out, have no reward, or look wrong: why, how many, and the first row numbers."""

    reason: str
    count: int
    first: list[int]


@dataclass(frozen=True)
class Report:
    """What was read of a log, in plain values.

    Attributes:
        files: rows of each file.
        headed: the files that have a header row.
        used: number of events.
        notes: rows left out or suspect; every part of a log has the same notes, in the same order.
        tied: events at the same time as another of their user, at the file's own resolution.
        repeats: events whose row equals an earlier one in every column of the file.
    """

    files: dict[str, int]
    headed: list[str]
    used: int
    notes: list[Note]
    tied: int = 0
    repeats: int = 0

    def left_out(self) -> dict[str, int]:
        """Number of rows of each note, by reason and first rows; notes on no row are omitted."""
        rows = SourceRows(pl.Series([], dtype=pl.UInt32), self.files, self.headed)
        named = ((note, f": {rows.name(note.first, note.count)}" if note.first else "") for note in self.notes)
        return {note.reason + which: note.count for note, which in named if note.count}

    def __str__(self) -> str:
        counts = self.files
        if len(counts) > SHOWN:
            counts = {f"{len(counts):,} files, the first of them {next(iter(counts))}": sum(counts.values())}
        lines = [f"{count:,} rows read from {file}" for file, count in counts.items()]
        lines += [f"{count:,} rows {reason}" for reason, count in self.left_out().items()]
        return printable("\n".join([*lines, f"{self.used:,} events used"]))


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
            - ``tied with the one before`` (bool, `TIED`): whether the user's event before it has the same time, at the
              file's resolution;
            - the log's feedback columns under their own names.
        users: raw user ids by index, sorted: integers or strings.
        items: raw item ids by index, sorted.
        has_time: whether the log has timestamps.
        report: what was read and what was left out.
        fingerprint: hex digest of the identity of the files, the mapping and the reward's expression; if items have
            features, also of the item table.
        resolution: seconds to which times are floored.
        together: whether a user's events at one time are a set, none of them in another's history (``data.ties``).
        passed: rows that were shown and not chosen, in the order of `frame`; None without ``data.log.chosen``. It has
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
    passed: pl.DataFrame | None = None

    def of_sets(self, value: pl.Series) -> pl.Series:
        """The largest value in each event's set of ties; the event's own value unless `together`."""
        if not self.together:
            return value
        sets = pl.DataFrame({"value": value, TIED: self.frame[TIED]}).with_columns(set=(~pl.col(TIED)).cum_sum())
        return sets.select(pl.col("value").max().over("set")).to_series()


class LogReader:
    """Reads the files of a log, Parquet or CSV.

    `recalign.data.events.reading` sets `reader_class` to a subclass that also reads other text, wildcards, folders,
    object stores and published MovieLens, and names a file's rows in errors.
    """

    reader_class: ClassVar[type["LogReader"]]

    def __init__(self, log: LogMapping, root: Path | None) -> None:
        self.log, self.root = log, root or data_root(None)

    def digests(self) -> list[str]:
        """Digests of the files that figures depend on."""
        return [sha256(self.root / file) for file in self.log.files]

    def rows(self) -> tuple[pl.DataFrame, SourceRows]:
        """All rows, with the columns of all files, and where each row comes from."""
        paths = [self.root / file for file in self.log.files]
        frames = {path: (pl.read_parquet if path.suffix == ".parquet" else pl.read_csv)(path) for path in paths}
        raw = pl.concat(frames.values(), how="diagonal_relaxed")
        number = pl.int_range(1, raw.height + 1, dtype=pl.UInt32, eager=True)
        return raw, SourceRows(number, {str(path): frame.height for path, frame in frames.items()})


LogReader.reader_class = LogReader


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
    frame, users, items, report, passed = check_rows(raw, rows, log, reward)
    shown = frame["reward"] if passed is None else pl.concat([frame["reward"], passed["reward"]])
    if passed is not None and (frame.is_empty() or passed.is_empty()) and len(shown):
        which = "every" if len(frame) else "no"
        what = f"{log.chosen!r} is true for {which} row of {', '.join(report.files)}"
        remedy = "correct the condition; data.log.chosen: null is for a log in which every row is a choice"
        raise InputError(what, where="data.log.chosen", remedy=remedy)
    require_useful(report, shown, reward)
    return EventTable(
        frame, users, items, log.timestamp is not None, report, mark, log.time_resolution, together, passed
    )


def fingerprint(log: LogMapping, root: Path | None, reward: str | None, together: bool = False) -> str:
    """`EventTable.fingerprint`, without reading the events."""
    mapping = {key: value for key, value in asdict(log).items() if key not in HOW_READ}
    if log.query is None:  # logs of files keep the fingerprints of earlier versions
        del mapping["query"]
    items = mapping.pop("items")  # without features, the item table changes no figure
    features = [items] if items and items["features"] else []
    sets = ["together"] * together
    return digest(mapping, reward, LogReader.reader_class(log, root).digests(), *features, *sets)[:16]


def check_rows(
    raw: pl.DataFrame, rows: SourceRows, log: LogMapping, reward: str | None
) -> tuple[pl.DataFrame, pl.Series, pl.Series, Report, pl.DataFrame | None]:
    """Check rows of a log: all rows, or all rows of some users.

    Returns:
        ``frame``, ``users``, ``items``, ``report`` and ``passed`` as in `EventTable`, for these rows only.

    Raises:
        InputError: as `load_events`, except for checks of the whole log (`require_useful`).
    """
    notes: list[Note] = []

    def note(reason: str, mask: pl.Series, number: pl.Series) -> None:
        notes.append(Note(reason, int(mask.sum()), number.filter(mask).bottom_k(SHOWN).sort().to_list()))

    def leave_out(mask: pl.Series, reason: str) -> None:
        nonlocal raw, rows
        note(f"{reason} and are left out", mask, rows.number)
        if mask.any():
            raw, rows = raw.filter(~mask), rows.filter(~mask)

    raw = raw.with_columns(missing_as_null(raw[name]) for name in (log.user, log.item, log.timestamp) if name)
    leave_out(raw.select(pl.all_horizontal(pl.all().is_null())).to_series(), "are empty")
    if log.drop_repeats:
        repeated = ~raw.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        leave_out(repeated, "repeat another row in every column")
    if log.where is not None:
        leave_out(~condition(raw, log.where, "data.log.where", rows), f"do not meet {log.where!r}")
    if rows.headed:
        broken = pl.col(pl.String).str.contains("\n", literal=True).fill_null(False)
        several = raw.select(pl.any_horizontal(pl.repeat(False, pl.len()), broken)).to_series()
        note("hold a quoted field of several lines", several, rows.number)
    whole = raw
    raw = raw.with_columns(
        evaluate(raw, expression, f"data.log.columns.{name}", rows).alias(name)
        for name, expression in log.columns.items()
    )
    if log.chosen is not None:
        truth = evaluate(raw, log.chosen, "data.log.chosen", rows, null_safe=False)
        whole = whole.filter(truth.is_not_null())
        leave_out(truth.is_null(), f"are neither chosen nor passed over, as {log.chosen!r} is null there,")
        chosen = as_bool(truth.drop_nulls(), log.chosen, "data.log.chosen")
    user, users = index_ids(read_ids(raw[log.user], "data.log.user", rows))
    item, items = index_ids(read_ids(raw[log.item], "data.log.item", rows))
    if log.timestamp is None:
        time = second = rows.number.cast(pl.Int64)
    else:
        time, per_second = read_timestamps(raw[log.timestamp], log.time_unit, rows, log.time_format)
        second = time // (per_second * log.time_resolution) * log.time_resolution
    rewards = read_numbers(raw, rows, reward, "data.reward")
    own = dict(zip(OWN_COLUMNS, (user, item, second, rows.number, rewards), strict=True))
    if log.is_random is not None:
        own["is_random"] = condition(raw, log.is_random, "data.log.is_random", rows)
    if log.propensity is not None:
        own["propensity"] = chance = read_numbers(raw, rows, log.propensity, "data.log.propensity")
        why, remedy = ", which is not a probability", "give numbers above 0 and up to 1, and null where unknown"
        refuse_rows(chance, (chance <= 0) | (chance > 1), "data.log.propensity", rows, why, remedy)
    if log.chosen is not None:
        together = evaluate(raw, log.request, "data.log.request", rows) if log.request else None
        own |= {"chosen": chosen, "request": pl.repeat(None, raw.height, eager=True) if together is None else together}
    taken = {log.user, log.item, log.timestamp, *OWN_COLUMNS, *own}
    columns = [values.alias(name) for name, values in own.items()] + [one for one in raw if one.name not in taken]
    if (order := _sort_order(user, time)) is not None:  # gathering from a single chunk is faster
        columns, time = [column.rechunk().gather(order) for column in columns], time.gather(order)
    frame, passed = pl.DataFrame(columns), None
    if log.chosen is not None:
        frame, time, passed = _without_passed(frame, time, log.passed_reward)
    if log.collapse:
        by_strength = frame.select("user", "item", "reward").with_row_index("place")
        by_strength = by_strength.sort("reward", descending=True, nulls_last=True, maintain_order=True)
        strongest = by_strength.unique(["user", "item"], keep="first")["place"]
        weaker = ~pl.int_range(frame.height, dtype=pl.UInt32, eager=True).is_in(strongest.implode())
        note("are weaker events of the same user and item and are left out", weaker, frame["row"])
        frame, time = frame.filter(~weaker), time.filter(~weaker)
    if reward is not None:
        note("have no reward and stay in histories only", frame["reward"].is_null(), frame["row"])
    again = ((frame["user"] == frame["user"].shift()) & (time == time.shift())).fill_null(False)
    frame = frame.with_columns(again.alias(TIED))
    tied = (again | again.shift(-1)).fill_null(False)
    alike = whole.filter(rows.number.is_in(frame["row"].filter(tied).implode()))  # rows with other times are no repeats
    repeats = alike.height - alike.n_unique() if log.timestamp else 0
    return frame, users, items, Report(rows.files, rows.headed, frame.height, notes, int(tied.sum()), repeats), passed


def _without_passed(
    frame: pl.DataFrame, time: pl.Series, passed_reward: float | None
) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
    """Index requests, and return the chosen rows, their times at the file's resolution, and the passed rows."""
    alone = pl.when(pl.col("request").is_null()).then(time)  # then a request is the user's rows of one time
    frame = frame.with_columns(request=pl.struct("user", "request", alone.alias("time")).rank("dense"))
    began = pl.col("timestamp").min().over("request").alias("began")
    passed = frame.with_columns(began).filter(~pl.col("chosen")).drop("chosen")
    if passed_reward is not None:
        passed = passed.with_columns(pl.col("reward").fill_null(passed_reward))
    chosen = frame["chosen"]
    return frame.filter(chosen).drop("chosen"), time.filter(chosen), passed


def read_numbers(raw: pl.DataFrame, rows: SourceRows, expression: str | None, key: str) -> pl.Series:
    """Compute an expression, such as the reward, for each row: f64; null where it has no value.

    ``key`` is the setting that holds the expression, for errors; None for the expression: no row has a value.

    Raises:
        InputError: it cannot be computed, or gives no numbers.
    """
    if expression is None:
        return pl.repeat(None, raw.height, dtype=pl.Float64, eager=True)
    values = evaluate(raw, expression, key, rows)
    if values.count() and not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        what = f"{expression!r} gives {kind_of(values, rows)}, not a number"
        raise InputError(what, where=key, remedy=f"give a number or a comparison; {AS_NUMBER}")
    return values.cast(pl.Float64).alias(expression)


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


def _sort_order(user: pl.Series, time: pl.Series) -> pl.Series | None:
    user_N, time_N = user.to_numpy(), time.to_numpy()
    later_N = (user_N[1:] > user_N[:-1]) | ((user_N[1:] == user_N[:-1]) & (time_N[1:] >= time_N[:-1]))
    if later_N.all():
        return None
    by_time_N = _stable_order(time_N)
    return pl.Series(by_time_N[_stable_order(user_N[by_time_N])])


def _stable_order(value_N: np.ndarray) -> np.ndarray:
    """Stable argsort of non-negative integers. Shape: (N,) -> u32 (N,).

    Value and position are packed into one integer and sorted in place: ten times as fast as `argsort`.
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
