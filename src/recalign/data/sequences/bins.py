"""Bins of a numeric column, of equal size on training rows."""

from __future__ import annotations

import numpy as np
import polars as pl

from recalign.data.events.messages import did_you_mean
from recalign.errors import InputError


def training_bins(frame: pl.DataFrame, column: str, bins: int, trained: pl.Series, where: str) -> pl.Series:
    """The bin of each event by a column, from 0; null where the column is null or NaN.

    Args:
        frame: the events.
        column: numeric, such as a video's duration.
        bins: how many, of equal size on training rows.
        trained: bool, the training rows.
        where: the setting that names the column, for errors.

    Raises:
        InputError: there is no such column, or it holds no numbers in the training part.
    """
    if column not in frame.columns:
        what, remedy = f"there is no column {column!r}", did_you_mean(column, frame.columns)
        raise InputError(what, where=where, remedy=remedy)
    values = frame[column]
    values = values.cast(pl.Float64).fill_nan(None) if values.dtype.is_numeric() else values.clear(len(values))
    known = values.filter(trained).drop_nulls()
    if not len(known):
        remedy = "name a numeric column, such as a duration, or leave it out"
        raise InputError(f"the column {column} holds no numbers in the training part", where=where, remedy=remedy)
    edges = np.quantile(known.to_numpy(), np.arange(1, bins) / bins)
    return pl.Series(np.searchsorted(edges, values.to_numpy())).set(values.is_null(), None)
