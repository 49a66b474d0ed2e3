"""Check the rows of a log, and make events of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from recalign.data.events.expression import AS_NUMBER, as_bool, condition, evaluate, kind_of
from recalign.data.events.fields import index_ids, missing_as_null, read_ids, read_timestamps, refuse_rows
from recalign.data.events.log import OWN_COLUMNS, LogMapping
from recalign.data.events.messages import EXAMPLE_ROWS, SourceRows
from recalign.errors import InputError, printable

TIED = "recalign_tied"
"""A column of `EventTable.frame`: whether the user's event before it has the same time, at the file's resolution."""


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
        if len(counts) > EXAMPLE_ROWS:
            counts = {f"{len(counts):,} files, the first of them {next(iter(counts))}": sum(counts.values())}
        lines = [f"{count:,} rows read from {file}" for file, count in counts.items()]
        lines += [f"{count:,} rows {reason}" for reason, count in self.left_out().items()]
        return printable("\n".join([*lines, f"{self.used:,} events used"]))


@dataclass
class Usable:
    """The rows of a log that are still used, where each comes from, and notes on the others."""

    raw: pl.DataFrame
    rows: SourceRows
    notes: list[Note] = field(default_factory=list)

    def note(self, reason: str, mask: pl.Series, number: pl.Series) -> None:
        """Note the rows in a mask; ``number``: the row number of each."""
        self.notes.append(Note(reason, int(mask.sum()), number.filter(mask).bottom_k(EXAMPLE_ROWS).sort().to_list()))

    def leave_out(self, mask: pl.Series, reason: str) -> None:
        """Remove the rows in a mask."""
        self.note(f"{reason} and are left out", mask, self.rows.number)
        if mask.any():
            self.raw, self.rows = self.raw.filter(~mask), self.rows.filter(~mask)


def check_rows(
    raw: pl.DataFrame, rows: SourceRows, log: LogMapping, reward: str | None
) -> tuple[pl.DataFrame, pl.Series, pl.Series, Report, pl.DataFrame | None]:
    """Check rows of a log: all rows, or all rows of some users.

    Returns:
        ``frame``, ``users``, ``items``, ``report`` and ``skipped`` as in `EventTable`, for these rows only.

    Raises:
        InputError: as `load_events`, except for checks of the whole log (`require_useful`).
    """
    mapped = [name for name in (log.user, log.item, log.timestamp) if name]
    usable = Usable(raw.with_columns(missing_as_null(raw[name]) for name in mapped), rows)
    leave_out_rows(usable, log)
    written = usable.raw  # without ``log.columns``
    usable.raw = written.with_columns(
        evaluate(written, expression, f"data.log.columns.{name}", usable.rows).alias(name)
        for name, expression in log.columns.items()
    )
    chosen = None
    if log.chosen is not None:
        truth = evaluate(usable.raw, log.chosen, "data.log.chosen", usable.rows, null_safe=False)
        written = written.filter(truth.is_not_null())
        usable.leave_out(truth.is_null(), f"are neither chosen nor passed over, as {log.chosen!r} is null there,")
        chosen = as_bool(truth.drop_nulls(), log.chosen, "data.log.chosen")
    raw, rows = usable.raw, usable.rows
    user, users = index_ids(read_ids(raw[log.user], "data.log.user", rows))
    item, items = index_ids(read_ids(raw[log.item], "data.log.item", rows))
    time, second = read_times(raw, rows, log)
    rewards = read_numbers(raw, rows, reward, "data.reward")
    own = dict(zip(OWN_COLUMNS, (user, item, second, rows.number, rewards), strict=True))
    own |= optional_columns(raw, rows, log, chosen)
    taken = {log.user, log.item, log.timestamp, *OWN_COLUMNS, *own}
    columns = [values.alias(name) for name, values in own.items()] + [one for one in raw if one.name not in taken]
    if (order := _sort_order(user, time)) is not None:  # gathering from a single chunk is faster
        columns, time = [column.rechunk().gather(order) for column in columns], time.gather(order)
    frame, skipped = pl.DataFrame(columns), None
    if chosen is not None:
        frame, time, skipped = _without_skipped(usable, frame, time, log.passed_reward)
    if log.collapse:
        weaker = weaker_events(frame)
        usable.note("are weaker events of the same user and item and are left out", weaker, frame["row"])
        frame, time = frame.filter(~weaker), time.filter(~weaker)
    if reward is not None:
        usable.note("have no reward: only histories and cloning use them", frame["reward"].is_null(), frame["row"])
    again = ((frame["user"] == frame["user"].shift()) & (time == time.shift())).fill_null(False)
    frame = frame.with_columns(again.alias(TIED))
    tied = (again | again.shift(-1)).fill_null(False)
    tied_rows = written.filter(rows.number.is_in(frame["row"].filter(tied).implode()))  # others cannot be repeats
    repeats = tied_rows.height - tied_rows.n_unique() if log.timestamp else 0
    report = Report(rows.files, rows.headed, frame.height, usable.notes, int(tied.sum()), repeats)
    return frame, users, items, report, skipped


def leave_out_rows(usable: Usable, log: LogMapping) -> None:
    """Leave out rows that are empty, repeated, or do not meet ``log.where``."""
    usable.leave_out(usable.raw.select(pl.all_horizontal(pl.all().is_null())).to_series(), "are empty")
    if log.drop_repeats:
        repeated = ~usable.raw.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        usable.leave_out(repeated, "repeat another row in every column")
    if log.where is not None:
        meets = condition(usable.raw, log.where, "data.log.where", usable.rows)
        usable.leave_out(~meets, f"do not meet {log.where!r}")
    if usable.rows.headed:
        broken = pl.col(pl.String).str.contains("\n", literal=True).fill_null(False)
        several = usable.raw.select(pl.any_horizontal(pl.repeat(False, pl.len()), broken)).to_series()
        usable.note("hold a quoted field of several lines", several, usable.rows.number)


def read_times(raw: pl.DataFrame, rows: SourceRows, log: LogMapping) -> tuple[pl.Series, pl.Series]:
    """Times at the file's resolution, to sort by, and in seconds at the log's; row numbers if the log has no times."""
    if log.timestamp is None:
        time = rows.number.cast(pl.Int64)
        return time, time
    time, per_second = read_timestamps(raw[log.timestamp], log.time_unit, rows, log.time_format)
    return time, time // (per_second * log.time_resolution) * log.time_resolution


def optional_columns(
    raw: pl.DataFrame, rows: SourceRows, log: LogMapping, chosen: pl.Series | None
) -> dict[str, pl.Series]:
    """The columns ``is_random``, ``propensity``, ``chosen`` and ``request``, as far as the log maps them."""
    found = dict[str, pl.Series]()
    if log.is_random is not None:
        found["is_random"] = condition(raw, log.is_random, "data.log.is_random", rows)
    if log.propensity is not None:
        found["propensity"] = chance = read_numbers(raw, rows, log.propensity, "data.log.propensity")
        why, remedy = ", which is not a probability", "give numbers above 0 and up to 1, and null where unknown"
        refuse_rows(chance, (chance <= 0) | (chance > 1), "data.log.propensity", rows, why, remedy)
    if chosen is not None:
        nothing = pl.repeat(None, raw.height, eager=True)
        request = evaluate(raw, log.request, "data.log.request", rows) if log.request else nothing
        found |= {"chosen": chosen, "request": request}
    return found


def weaker_events(frame: pl.DataFrame) -> pl.Series:
    """Mark the events of a user and item except the one with the highest reward, the earliest of equal ones."""
    by_strength = frame.select("user", "item", "reward").with_row_index("place")
    by_strength = by_strength.sort("reward", descending=True, nulls_last=True, maintain_order=True)
    strongest = by_strength.unique(["user", "item"], keep="first")["place"]
    return ~pl.int_range(frame.height, dtype=pl.UInt32, eager=True).is_in(strongest.implode())


def _without_skipped(
    usable: Usable, frame: pl.DataFrame, time: pl.Series, passed_reward: float | None
) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
    """Index requests, and return the chosen rows, their times at the file's resolution, and the skipped rows.

    A log of event types has an item's impression beside its click: such an impression was not skipped.
    """
    alone = pl.when(pl.col("request").is_null()).then(time)  # then a request is the user's rows of one time
    frame = frame.with_columns(request=pl.struct("user", "request", alone.alias("time")).rank("dense"))
    began = pl.col("timestamp").min().over("request").alias("began")
    skipped = frame.with_columns(began).filter(~pl.col("chosen")).drop("chosen")
    if passed_reward is not None:
        skipped = skipped.with_columns(pl.col("reward").fill_null(passed_reward))
    chosen = frame["chosen"]
    clicked = skipped.join(frame.filter(chosen), ["request", "item"], "semi")["row"]
    was_clicked = skipped["row"].is_in(clicked.implode())
    usable.note("are impressions of items chosen in the same request and are left out", was_clicked, skipped["row"])
    skipped = skipped.filter(~was_clicked)
    return frame.filter(chosen).drop("chosen"), time.filter(chosen), skipped


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
