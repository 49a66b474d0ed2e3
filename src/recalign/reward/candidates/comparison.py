"""Compare candidate rewards: what each holds, how reliable it is, and what each says of what the others rank high."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from recalign.bootstrap import CrossedBootstrap
from recalign.data.events.log import OWN_COLUMNS
from recalign.data.events.messages import did_you_mean
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION
from recalign.data.sequences.store import ADDED
from recalign.errors import InputError
from recalign.reward.candidates.statistics import (
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

Row = tuple[str | None, str, str | None, Any, float | None, float | None]
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
        *((None, figure, None, size, None, None) for figure, size in zip(SIZES, sizes, strict=True)),
        *_contents(*of_train),
        *_reliability(*of_train, repeated),
        *_correlations(of_train[1], "correlation/event"),
        *_correlations(item_means, "correlation/item"),
        *([] if against is None else _against(of_train[0], of_train[1], item_means, against)),
        *_on_validation(frame, values, means, measured),
    ]
    return pl.DataFrame(rows, SCHEMA, orient="row", strict=False)


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
        yield from ((column.name, figure, None, value, None, None) for figure, value in found.items())


def _reliability(train: pl.DataFrame, values: pl.DataFrame, repeated: float) -> Iterator[Row]:
    for column in values:
        rated = train.select("user", "item", "timestamp", reward=column).drop_nulls("reward")
        user_N, item_N, value_N = (rated[name].to_numpy() for name in ("user", "item", "reward"))
        components = np.maximum(variance_components(user_N, item_N, value_N), 0)
        with np.errstate(invalid="ignore"):
            user_share, item_share, _ = components / components.sum()
        noise = repeat_variance(rated, repeated)
        yield column.name, "variance/item", None, item_share, None, None
        yield column.name, "variance/user", None, user_share, None, None
        yield column.name, "reliability", None, split_half_reliability(user_N, item_N, value_N), None, None
        yield column.name, "noise", None, np.nan if noise is None else noise / float(value_N.var()), None, None


def _correlations(values: pl.DataFrame, figure: str) -> Iterator[Row]:
    """Rank correlation of each two columns, over the rows that have both."""
    for one, other in combinations(values, 2):
        rho = _spearman(one, other)
        yield one.name, figure, other.name, rho, None, None
        yield other.name, figure, one.name, rho, None, None


def _against(train: pl.DataFrame, values: pl.DataFrame, item_means: pl.DataFrame, column: str) -> Iterator[Row]:
    """Rank correlation of each reward, and of its items' means, with a column."""
    raw = train.drop(*ADDED, *OWN_COLUMNS, strict=False).select(cs.numeric())
    if column not in raw.columns:
        what = f"the log has no numeric column {column!r}, or recalign has one of that name"
        raise InputError(what, where="against", remedy=did_you_mean(column, raw.columns))
    for figure, of in (("against/event", values), ("against/item", item_means)):
        yield from ((one.name, figure, column, _spearman(one, raw[column]), None, None) for one in of)


def _spearman(one: pl.Series, other: pl.Series) -> float:
    """NaN of fewer than three rows, or where one of the two is the same in all."""
    both = pl.DataFrame([one.alias("one"), other.cast(pl.Float64).fill_nan(None).alias("other")]).drop_nulls()
    return both.select(pl.corr("one", "other", method="spearman")).item() if len(both) > 2 else float("nan")


def _on_validation(
    frame: pl.DataFrame, values: pl.DataFrame, means: Mapping[str, pl.DataFrame], measured: pl.Series
) -> Iterator[Row]:
    person = frame["user"].filter(measured).rank("dense").cast(pl.Int64) - 1
    bootstrap = CrossedBootstrap(person.n_unique(), DRAWS)
    for column in values.filter(measured):
        name, rated = column.name, column.is_not_null()
        person_N, value_N = person.filter(rated).to_numpy(), column.drop_nulls().to_numpy()
        found = {other: one.filter(measured).filter(rated) for other, one in means.items()}
        yield name, "measured events", None, len(value_N), None, None
        for figure, estimate in own_errors(person_N, value_N, found[name], bootstrap).items():
            yield name, figure, None, estimate.value, *estimate.interval()
        for figure, by in judged_by(name, person_N, value_N, found, bootstrap).items():
            yield from ((ranked, figure, name, one.value, *one.interval()) for ranked, one in by.items())


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
