"""Check the rows of a log and sort them into events."""

from dataclasses import replace

import numpy as np
import polars as pl

from recalign.data.events.expression import condition, evaluate, kind_of
from recalign.data.events.fields import (
    index_ids,
    missing_as_null,
    read_ids,
    read_is_random,
    read_propensity,
    read_timestamps,
)
from recalign.data.events.log import OWN_COLUMNS, LogMapping
from recalign.data.events.messages import SourceRows
from recalign.data.events.report import CheckResult, LeftOut, count_rows
from recalign.errors import InputError


def check_rows(
    raw: pl.DataFrame, rows: SourceRows, log: LogMapping, reward: str | None
) -> tuple[pl.DataFrame, pl.Series, pl.Series, CheckResult]:
    """Check rows of a log: all rows, or all rows of some users.

    Args:
        raw: the rows, with the columns of all files.
        rows: where they come from.
        log: its settings.
        reward: as in `load_events`.

    Returns:
        ``frame``, ``users`` and ``items`` as in `EventTable`, for these rows only, and what the check found.

    Raises:
        InputError: as `load_events`. `make_report` checks what needs the whole log.
    """
    raw = raw.with_columns(missing_as_null(raw[name]) for name in (log.user, log.item, log.timestamp) if name)
    raw, rows, left_out = _drop_unusable(raw, rows, log)
    whole = raw
    raw = raw.with_columns(
        evaluate(raw, expression, f"data.log.columns.{name}", rows).alias(name)
        for name, expression in log.columns.items()
    )
    rewards = read_rewards(raw, rows, reward)
    frame, users, items, time = _to_events(raw, rows, log, rewards)
    if log.collapse:
        weaker = ~_strongest(frame)
        reason = "are weaker events of the same user and item and are left out"
        left_out.append(count_rows(reason, weaker, replace(rows, number=frame["row"])))
        frame, time = frame.filter(~weaker), time.filter(~weaker)
    if reward is not None:
        reason, numbers = "have no reward and stay in histories only", replace(rows, number=frame["row"])
        left_out.append(count_rows(reason, frame["reward"].is_null(), numbers))
    ends = rewards.min(), rewards.max()
    tied = _tied(frame["user"], time)
    repeats = _count_repeats(whole, rows, frame["row"].filter(tied)) if log.timestamp else 0
    return frame, users, items, CheckResult(frame.height, left_out, ends, int(tied.sum()), repeats)  # type: ignore[arg-type]


def _drop_unusable(
    raw: pl.DataFrame, rows: SourceRows, log: LogMapping
) -> tuple[pl.DataFrame, SourceRows, list[LeftOut]]:
    """Drop rows that are empty, repeated or fail ``log.where``. Also return why rows were dropped."""
    empty = raw.select(pl.all_horizontal(pl.all().is_null())).to_series()
    left_out = [count_rows("are empty and are left out", empty, rows)]
    if empty.any():
        raw, rows = raw.filter(~empty), rows.filter(~empty)
    if log.drop_repeats:
        repeated = ~raw.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        left_out.append(count_rows("repeat another row in every column and are left out", repeated, rows))
        raw, rows = raw.filter(~repeated), rows.filter(~repeated)
    if log.where is not None:
        unmet = ~condition(raw, log.where, "data.log.where", rows)
        left_out.append(count_rows(f"do not meet {log.where!r} and are left out", unmet, rows))
        raw, rows = raw.filter(~unmet), rows.filter(~unmet)
    if rows.headed:
        broken = pl.col(pl.String).str.contains("\n", literal=True).fill_null(False)
        broken_N = raw.select(pl.any_horizontal(pl.repeat(False, pl.len()), broken)).to_series()
        left_out.append(count_rows("hold a quoted field of several lines", broken_N, rows))
    return raw, rows, left_out


def read_rewards(raw: pl.DataFrame, rows: SourceRows, reward: str | None, where: str = "data.reward") -> pl.Series:
    """Compute the reward of each row: f64, null where it has none.

    Arguments as in `check_rows`; ``where`` is the setting that holds the expression, for errors.

    Raises:
        InputError: the reward cannot be computed, or is no number.
    """
    if reward is None:
        return pl.repeat(None, raw.height, dtype=pl.Float64, eager=True)
    values = evaluate(raw, reward, where, rows)
    present = values.drop_nulls()
    if len(present) and not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        remedy = "give a number or a comparison; TRY_CAST(x AS DOUBLE) turns text into numbers or null"
        raise InputError(f"{reward!r} gives {kind_of(values, rows)}, not a number", where=where, remedy=remedy)
    return values.cast(pl.Float64)


def _to_events(
    raw: pl.DataFrame, rows: SourceRows, log: LogMapping, rewards: pl.Series
) -> tuple[pl.DataFrame, pl.Series, pl.Series, pl.Series]:
    """Build the event table's frame, the raw ids of its users and items, and the events' times as the file has them."""
    user, users = index_ids(read_ids(raw[log.user], "data.log.user", rows))
    item, items = index_ids(read_ids(raw[log.item], "data.log.item", rows))
    if log.timestamp is None:
        time = second = rows.number.cast(pl.Int64)
    else:
        time, per_second = read_timestamps(raw[log.timestamp], log.time_unit, rows, log.time_format)
        second = time // (per_second * log.time_resolution) * log.time_resolution
    own = dict(zip(OWN_COLUMNS, (user, item, second, rows.number, rewards), strict=True))
    if log.is_random is not None:
        own["is_random"] = read_is_random(raw[log.is_random], rows)
    if log.propensity is not None:
        own["propensity"] = read_propensity(raw[log.propensity], rows)
    mapped = {log.user, log.item, log.timestamp, *OWN_COLUMNS, *own}
    feedback = [column for column in raw if column.name not in mapped]
    order = _sort_order(user, time)
    columns = [*(values.alias(name) for name, values in own.items()), *feedback]
    if order is not None:  # gathering from a single chunk is faster
        columns = [column.rechunk().gather(order) for column in columns]
        time = time.gather(order)
    return pl.DataFrame(columns), users, items, time


def _tied(user: pl.Series, time: pl.Series) -> pl.Series:
    """Mark the events at the same time as another of their user. Both are sorted by (user, time)."""
    user_N, time_N = user.to_numpy(), time.to_numpy()
    same = np.concatenate([[False], (user_N[1:] == user_N[:-1]) & (time_N[1:] == time_N[:-1]), [False]])
    return pl.Series(same[1:] | same[:-1])


def _count_repeats(raw: pl.DataFrame, rows: SourceRows, tied: pl.Series) -> int:
    """Count the rows that equal an earlier one, among those with the numbers ``tied``: others differ in their time."""
    same = raw.filter(rows.number.is_in(tied.implode()))
    return same.height - same.n_unique()


def _strongest(frame: pl.DataFrame) -> pl.Series:
    """Mark the event with the highest reward of each user and item; on ties, the first one.

    An event without a reward ranks below all others. Events are sorted by user and time.
    """
    place = frame.select("user", "item", "reward").with_row_index("place")
    by_strength = place.sort("reward", descending=True, nulls_last=True, maintain_order=True)
    kept = by_strength.unique(["user", "item"], keep="first")["place"]
    return place["place"].is_in(kept.implode())


def _sort_order(user: pl.Series, time: pl.Series) -> pl.Series | None:
    """Stable sort order by (user, time); None if the rows are already sorted."""
    user_N, time_N = user.to_numpy(), time.to_numpy()
    no_earlier_N = time_N[1:] >= time_N[:-1]
    if ((user_N[1:] > user_N[:-1]) | (user_N[1:] == user_N[:-1]) & no_earlier_N).all():
        return None
    if no_earlier_N.all():
        return pl.Series(_stable_order(user_N))
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
