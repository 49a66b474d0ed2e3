"""Compare candidate rewards: what each holds, how reliable it is, and what each says of what the others rank high."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap
from recalign.data.events.log import OWN_COLUMNS
from recalign.data.events.messages import did_you_mean
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION
from recalign.data.sequences.store import ADDED
from recalign.errors import InputError
from recalign.reward.candidates.statistics import (
    ValidationEvents,
    judged_by,
    own_errors,
    split_half_reliability,
    training_means,
    variance_components,
)
from recalign.reward.candidates.values import Candidate, candidate_values, with_own
from recalign.reward.trust.verdict import repeat_variance, repeated_share

DRAWS = 1000
QUANTILES = {"min": 0.0, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}
SIZES = ("training events", "validation events", "validation users")
"""Figures of the log, of no reward: events of training, those of validation with an item known from it, their users."""
SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("reward", "figure", "other"), pl.String),
    **dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64),
}

Row = tuple[str | None, str, str | None, float, float | None, float | None]
"""Reward, figure, what else it is about, value and ends of its interval."""


def compare_rewards(
    frame: pl.DataFrame, candidates: Mapping[str, Candidate], against: str | None = None, *, repeated: float = 0.0
) -> pl.DataFrame:
    """Compare rewards on training and validation events. Those of the test are put aside first.

    Args:
        frame: the events as in `recalign.data.sequences.Sequences`.
        candidates: by name.
        against: a numeric column, such as a video's duration, that each is correlated with.
        repeated: as in `recalign.reward.trust.verdict.repeat_variance`.

    Returns:
        A row a figure: ``reward`` (null for `SIZES`), ``figure``, ``other`` (the judge, the second of a correlation, or
        the column), ``value``, and ``ci_low``, ``ci_high`` where it was drawn. Values are shares, correlations, numbers
        of events, moments in the reward's unit, or, for ``lift``, standard deviations of the judge.

    Raises:
        InputError: a candidate or the column cannot be used, or no validation event has an item known from training.
    """
    frame = frame.filter(pl.col("split") != TEST)
    train, measured = frame["split"] == TRAIN, (frame["split"] == VALIDATION) & (frame["item_id"] > 0)
    if not measured.any():
        remedy = "choose other cuts, so that rewards can be compared on validation"
        raise InputError("no validation event has an item that training has seen", where="data.split", remedy=remedy)
    values = candidate_values(frame, candidates)
    means = {name: training_means(frame, values[name]) for name in values.columns}
    of_train = frame.filter(train), values.filter(train)
    item_means = pl.DataFrame([one["item"].filter(train).alias(name) for name, one in means.items()])
    sizes = int(train.sum()), int(measured.sum()), frame["user"].filter(measured).n_unique()
    rows: list[Row] = [
        *((None, figure, None, float(size), None, None) for figure, size in zip(SIZES, sizes, strict=True)),
        *_contents(*of_train),
        *_reliability(*of_train, repeated),
        *_correlations(of_train[1], "correlation/event"),
        *_correlations(item_means, "correlation/item"),
        *([] if against is None else _against(of_train[0], of_train[1], item_means, against)),
        *_on_validation(frame, values, means, measured),
    ]
    return pl.DataFrame(rows, SCHEMA, orient="row")


def _contents(train: pl.DataFrame, values: pl.DataFrame) -> Iterator[Row]:
    """Coverage and moments on training rows."""
    users = train["user"].n_unique()
    for column in values:
        present = column.drop_nulls()
        of_user = train["user"].filter(column.is_not_null()).value_counts()["count"]
        found = {
            "coverage/events": len(present) / len(column),
            "coverage/users": int((of_user >= 2).sum()) / users,
            "mean": present.mean(),
            "sd": present.std(),
            **{name: present.quantile(share, "nearest") for name, share in QUANTILES.items()},
            "distinct": present.n_unique(),
            "most frequent": present.value_counts()["count"].max() / len(present),  # type: ignore[operator]
        }
        for figure, value in found.items():
            yield column.name, figure, None, float(value), None, None  # type: ignore[arg-type]


def _reliability(train: pl.DataFrame, values: pl.DataFrame, repeated: float) -> Iterator[Row]:
    for column in values:
        rated = train.select("user", "item", "timestamp", reward=column).filter(pl.col("reward").is_not_null())
        user_N, item_N, value_N = (rated[name].to_numpy() for name in ("user", "item", "reward"))
        user_share, item_share = variance_components(user_N, item_N, value_N).shares
        noise = repeat_variance(rated, repeated)
        found = {
            "variance/item": item_share,
            "variance/user": user_share,
            "reliability": split_half_reliability(user_N, item_N, value_N),
            "noise": np.nan if noise is None else noise / float(value_N.var()),
        }
        for figure, value in found.items():
            yield column.name, figure, None, value, None, None


def _correlations(values: pl.DataFrame, figure: str) -> Iterator[Row]:
    """Rank correlation of each two columns, over the rows that have both."""
    for one, other in combinations(values.columns, 2):
        rho = _spearman(values[one], values[other])
        yield one, figure, other, rho, None, None
        yield other, figure, one, rho, None, None


def _against(train: pl.DataFrame, values: pl.DataFrame, item_means: pl.DataFrame, column: str) -> Iterator[Row]:
    """Rank correlation of each reward, and of its items' means, with a column."""
    own = {*ADDED, *OWN_COLUMNS}
    if column in own or column not in train.columns or not train[column].dtype.is_numeric():
        what = f"the log has no numeric column {column!r}, or recalign has one of that name"
        numeric = [one.name for one in train if one.dtype.is_numeric() and one.name not in own]
        raise InputError(what, where="against", remedy=did_you_mean(column, numeric))
    for figure, of in (("against/event", values), ("against/item", item_means)):
        for one in of:
            yield one.name, figure, column, _spearman(one, train[column]), None, None


def _spearman(one: pl.Series, other: pl.Series) -> float:
    """NaN of fewer than three rows, or where one of the two is the same in all."""
    both = pl.DataFrame([one.alias("one"), other.cast(pl.Float64).fill_nan(None).alias("other")]).drop_nulls()
    return both.select(pl.corr("one", "other", method="spearman")).item() if len(both) > 2 else float("nan")


def _on_validation(
    frame: pl.DataFrame, values: pl.DataFrame, means: Mapping[str, pl.DataFrame], measured: pl.Series
) -> Iterator[Row]:
    person = frame.filter(measured).select(pl.col("user").rank("dense").cast(pl.Int64) - 1).to_series()
    events = ValidationEvents(
        person.to_numpy(),
        {one.name: one.filter(measured).fill_null(float("nan")).to_numpy() for one in values},
        {name: one.filter(measured) for name, one in means.items()},
    )
    bootstrap = CrossedBootstrap(int(person.max()) + 1, DRAWS)  # type: ignore[arg-type]
    for name in events.values:
        rated = int((~np.isnan(events.values[name])).sum())
        yield name, "measured events", None, float(rated), None, None
        for figure, estimate in own_errors(events, name, bootstrap).items():
            yield name, figure, None, estimate.value, *estimate.interval()
        for figure, by in judged_by(events, name, bootstrap).items():
            for ranked, estimate in by.items():
                yield ranked, figure, name, estimate.value, *estimate.interval()


def compare_log_rewards(data: EventDataModule, rewards: Mapping[str, Any], against: str | None = None) -> pl.DataFrame:
    """`compare_rewards` of a log's events and of its own reward, which is a candidate too.

    Args:
        data: the log; its ``users`` are those whose events are compared, and among whom rewards are ranked.
        rewards: the candidates by name: an expression, a `Candidate`, or its settings.
        against: a numeric column; None: the one that a candidate is relative to, else ``data.high.within``, else none.

    Raises:
        InputError: as `compare_rewards` and `recalign.reward.candidates.values.with_own`.
    """
    own = None if data.reward is None else Candidate(data.reward, data.relative_to)
    candidates = with_own(rewards, own)
    columns = [one.relative_to.column for one in candidates.values() if one.relative_to]
    within = data.high.within if data.high else None
    sequences = data.sequences
    frame = sequences.frame.filter(pl.Series(sequences.users_in(data.users)).gather(sequences.frame["user"]))
    cold = pl.col("item_id") > sequences.num_warm  # known by their features, and no training event says how they are
    frame = frame.with_columns(item_id=pl.when(~cold).then("item_id").otherwise(0))
    repeated = repeated_share(sequences.frame, sequences.report.repeats)
    return compare_rewards(frame, candidates, against or next(iter(columns), within), repeated=repeated)
