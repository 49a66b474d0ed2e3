"""Split events into training, validation and test, and users into groups."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import polars as pl

from recalign.data.events import EventTable
from recalign.data.events.expression import as_bool, evaluate, refuse_names
from recalign.data.events.log import PREPARED
from recalign.data.events.messages import did_you_mean
from recalign.errors import InputError, NonNegative, OpenUnit, Positive, check_ranges

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The splits, as numbers in the column ``split``."""
RESERVED = ("split",)
"""Columns made by splitting, which `High` and ranks of rewards must not read."""


class Split:
    """Splits the events of a log into training, validation and test."""

    def __repr__(self) -> str:
        """Class name and settings, a part of the cache key. Attributes that begin with ``_`` are omitted."""
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        settings = (f"{name}={value!r}" for name, value in plain.items() if not name.startswith("_"))
        return f"{type(self).__qualname__}({', '.join(settings)})"

    def assign(self, table: EventTable) -> pl.Series:
        """The split of each row of ``table.frame``: u8, `TRAIN`, `VALIDATION` or `TEST`."""
        raise NotImplementedError

    def of_rows(self, table: EventTable) -> Split | None:
        """The same split as a rule for single rows, so that it applies to rows shown but not chosen too.

        None if there is no such rule: a request without a choice is then in the split of the user's last choice before.
        """
        return None


@dataclass(frozen=True, repr=False)
class LeaveLast(Split):
    """Test on the last events of each user, validate on those before them, train on the rest.

    All events of a user with at most ``test + validation`` events are training. With tie groups, a part begins with the
    whole group of its first event; users with no events before validation and test are training.

    Attributes:
        test: test events per user.
        validation: validation events per user.
    """

    test: NonNegative[int] = 1
    validation: NonNegative[int] = 1

    def __post_init__(self) -> None:
        check_ranges(LeaveLast, vars(self), "data.split")

    def assign(self, table: EventTable) -> pl.Series:
        require_time(table, self)
        from_end = pl.len().over("user") - pl.int_range(pl.len()).over("user")  # 1: the user's last event
        frame = table.frame.select("user", from_end=from_end)
        test = table.tie_group_max(frame.select(pl.col("from_end") <= self.test).to_series())
        frame = frame.with_columns(test=test).with_columns(tested=pl.col("test").sum().over("user"))
        aside = table.tie_group_max(frame.select(pl.col("from_end") <= pl.col("tested") + self.validation).to_series())
        split = pl.col("aside").cast(pl.UInt8) + pl.col("test").cast(pl.UInt8)
        split = pl.when(pl.col("aside").all().over("user")).then(TRAIN).otherwise(split).cast(pl.UInt8)
        return frame.with_columns(aside=aside).select(split).to_series()


@dataclass(frozen=True)
class High:
    """Define high rewards, for the metrics ``high/*``. No loss reads it.

    Attributes:
        expression: Polars SQL condition over the log's columns and ``reward``.
        quantile: instead of an expression, the quantile of training rewards that a high reward exceeds.
        within: with ``quantile``, a column such as a video's duration: the quantile is taken in each of its bins.
        bins: number of bins of ``within``, of equal size on training rows.
    """

    expression: str | None = None
    quantile: OpenUnit | None = None
    within: str | None = None
    bins: Positive[int] = 10

    def __post_init__(self) -> None:
        if (self.expression is None) == (self.quantile is None):
            what, remedy = "needs an expression or a quantile", "give --data.high.expression or --data.high.quantile"
            if self.quantile is not None:
                what, remedy = f"{what}, not both", "set one to null: --data.high.expression null"
            raise InputError(what, where="data.high", remedy=remedy)
        check_ranges(High, vars(self), "data.high")

    def mark(self, frame: pl.DataFrame) -> pl.Series:
        """Mark the events whose reward is high; false if a column that this depends on is null.

        An expression that does not read the reward (as for simulated logs) may be true for a missing reward.
        """
        if self.expression is not None:
            return event_condition(frame, self.expression, "data.high.expression", (*PREPARED, *RESERVED)).alias("high")
        reward, in_training = pl.col("reward"), pl.col("split") == TRAIN
        limit = reward.filter(in_training).quantile(self.quantile or 0.0, "linear").over("bin")
        high = pl.col("bin").is_not_null() & (reward > limit).fill_null(False)
        bin_N = pl.repeat(0, len(frame), eager=True)
        if self.within is not None:
            refuse_names(self.within, RESERVED, "data.high.within")
            bin_N = training_bins(frame, self.within, self.bins, frame["split"] == TRAIN, "data.high.within")
        return frame.select("reward", "split").with_columns(bin=bin_N).select(high.alias("high")).to_series()


@dataclass(frozen=True)
class UserGroups:
    """Split users into disjoint groups, by a hash of the raw id.

    Reward models and post-training train on ``A``, and result tables are measured on it. Judges that select settings
    train on ``B1``, judges that report on ``B2``.

    Attributes:
        share: share of the users in A; B1 and B2 get half of the rest each.
    """

    share: float = 0.7

    def assign(self, raw_ids: pl.Series) -> pl.Series:
        """The group (``A``, ``B1``, ``B2``) of each user, in the order of ``raw_ids``."""
        edges = (self.share, self.share + (1 - self.share) / 2)
        return pl.Series("group", ["A", "B1", "B2"]).gather(np.searchsorted(edges, stable_hash(raw_ids), side="right"))


def event_condition(frame: pl.DataFrame, expression: str, where: str, taken: Collection[str] = PREPARED) -> pl.Series:
    """Whether each row meets a condition; false if a column in it is null. It must not read ``taken`` columns."""
    refuse_names(expression, taken, where)
    return as_bool(evaluate(frame, expression, where), expression, where)


def stable_hash(ids: pl.Series) -> np.ndarray:
    """A pseudo-random number in [0, 1) per id, which depends only on the id's text, on any machine. Shape: (N,)."""
    texts = ids.cast(pl.String).cast(pl.Binary).to_frame().iter_slices(2**20)
    parts = [b"".join([blake2b(text, digest_size=6).digest() for text in part.to_series().to_list()]) for part in texts]
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 6) @ 256.0 ** -np.arange(1, 7)


def require_time(table: EventTable, split: Split) -> None:
    """Refuse a log without times."""
    if not table.has_time:
        text = "the log has no timestamps, so it cannot be split by time"
        remedy = "map a timestamp column in data.log.timestamp, or use recalign.data.sequences.Where for reward models"
        raise InputError(text, where=f"data.split: {type(split).__name__}", remedy=remedy)


def training_bins(frame: pl.DataFrame, column: str, bins: int, in_training: pl.Series, where: str) -> pl.Series:
    """The bin of each event by a numeric column, from 0; null if the column is null or NaN.

    Bins are of equal size on the rows ``in_training``. ``where`` is the setting that names the column, for errors.
    """
    if column not in frame.columns:
        what, remedy = f"there is no column {column!r}", did_you_mean(column, frame.columns)
        raise InputError(what, where=where, remedy=remedy)
    values = frame[column]
    values = values.cast(pl.Float64).fill_nan(None) if values.dtype.is_numeric() else values.clear(len(values))
    present = values.filter(in_training).drop_nulls()
    if not len(present):
        remedy = "name a numeric column, such as a duration, or leave it out"
        raise InputError(f"the column {column} holds no numbers in the training split", where=where, remedy=remedy)
    edges = np.quantile(present.to_numpy(), np.arange(1, bins) / bins)
    return pl.Series(np.searchsorted(edges, values.to_numpy())).set(values.is_null(), None)
