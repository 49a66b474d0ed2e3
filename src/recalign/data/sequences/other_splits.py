"""Splits by two times, or by a condition on events."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from recalign.data.events import EventTable
from recalign.data.sequences.splits import TEST, VALIDATION, Split, event_condition, require_time, stable_hash
from recalign.errors import ClosedUnit, InputError, check_ranges


@dataclass(frozen=True, repr=False)
class Where(Split):
    """Test on the events that meet a condition, such as those of random exposure.

    Attributes:
        test: Polars SQL condition over the log's columns.
        validation: share of the other events to validate on, chosen by a hash of the row number.
    """

    test: str = "is_random"
    validation: ClosedUnit = 0.1

    def __post_init__(self) -> None:
        check_ranges(Where, vars(self), "data.split")

    def assign(self, table: EventTable) -> pl.Series:
        test = event_condition(table.frame, self.test, "data.split.test")
        drawn = pl.Series(stable_hash(table.frame["row"]) < self.validation)
        return test.cast(pl.UInt8) * TEST + (~test & drawn).cast(pl.UInt8) * VALIDATION

    def of_rows(self, table: EventTable) -> Split:
        return self


@dataclass(frozen=True, repr=False)
class TimeSplit(Split):
    """Cut at the same two times for all users: training before the first, validation between, test from the second on.

    Attributes:
        cuts: two shares of the events (0.8, 0.9), or two times as ISO 8601 strings with a UTC offset. Events at the
            time of a cut belong to the later split, so that simultaneous events stay together.
    """

    cuts: tuple[float | str, float | str] = (0.8, 0.9)

    def assign(self, table: EventTable) -> pl.Series:
        require_time(table, self)
        time = table.frame["timestamp"]
        first, second = (self._time_of(cut, time, table.resolution) for cut in self.cuts)
        if first > second:
            text = f"the first cut ({self.cuts[0]}) is after the second ({self.cuts[1]})"
            remedy = "give the end of training first, then the end of validation"
            raise InputError(text, where="data.split.cuts", remedy=remedy)
        return (time >= first).cast(pl.UInt8) + (time >= second).cast(pl.UInt8)

    def of_rows(self, table: EventTable) -> Split:
        times = (self._time_of(cut, table.frame["timestamp"], table.resolution) for cut in self.cuts)
        first, second = (datetime.fromtimestamp(time, UTC).isoformat() for time in times)
        return TimeSplit((first, second))

    def _time_of(self, cut: float | str, time: pl.Series, resolution: int) -> int:
        if isinstance(cut, str):
            with suppress(ValueError):
                moment = datetime.fromisoformat(cut)
                if moment.tzinfo is not None:
                    return int(moment.timestamp()) // resolution * resolution  # floored like the events' times
        elif 0 < cut < 1:
            middle = int(len(time) * cut)
            return int(np.partition(time.to_numpy(), middle)[middle])
        remedy = 'give a share between 0 and 1, or a time with an offset ("2022-05-05T00:00:00+08:00")'
        raise InputError(f"cannot use the cut {cut!r}", where="data.split.cuts", remedy=remedy)
