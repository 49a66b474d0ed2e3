"""A split by a condition on events."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from recalign.data.events import EventTable
from recalign.data.sequences.splits import TEST, VALIDATION, Split, condition, stable_hash
from recalign.errors import ShareOrZero, check_ranges


@dataclass(frozen=True, repr=False)
class Where(Split):
    """Test on the events that meet a condition, such as those of random exposure.

    Attributes:
        test: Polars SQL condition over the log's columns.
        validation: share of the other events to validate on, chosen by a hash of their row.
    """

    test: str = "is_random"
    validation: ShareOrZero = 0.1

    def __post_init__(self) -> None:
        check_ranges(Where, vars(self), "data.split")

    def assign(self, table: EventTable) -> pl.Series:
        test = condition(table.frame, self.test, "data.split.test")
        drawn = pl.Series([stable_hash(str(row)) < self.validation for row in table.frame["row"]], dtype=pl.Boolean)
        return test.cast(pl.UInt8) * TEST + (~test & drawn).cast(pl.UInt8) * VALIDATION
