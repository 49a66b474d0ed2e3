"""Compare candidate rewards: coverage, moments, reliability, and whether they agree in ranking items."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import polars as pl
import polars.selectors as cs

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.events.log import OWN_COLUMNS
from recalign.data.events.messages import did_you_mean
from recalign.data.sequences import EventDataModule
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION
from recalign.data.sequences.store import ADDED
from recalign.errors import InputError
from recalign.reward.candidates.statistics import (
    agreement_with,
    errors_of_means,
    training_figures,
    training_means,
)
from recalign.reward.candidates.values import Candidate, candidate_values, with_own_reward
from recalign.reward.trust.measures import with_interval
from recalign.reward.trust.verdict import repeated_share

DRAWS = 1000
SIZES = ("training events", "validation events", "validation users")
"""Figures of the log itself. Validation events are those with an item known from training; users are theirs."""
SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("reward", "figure", "other"), pl.String),
    **dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64),
}


def compare_rewards(
    frame: pl.DataFrame, candidates: Mapping[str, Candidate], against: str | None = None, *, repeated: float = 0.0
) -> pl.DataFrame:
    """Compare rewards on training and validation events; test events are dropped first.

    Args:
        frame: the events as in `recalign.data.sequences.Sequences`.
        candidates: by name.
        against: a numeric column, such as a video's duration, to correlate each candidate with.
        repeated: as in `recalign.reward.trust.verdict.repeat_variance`.

    Returns:
        A row per figure: ``reward`` (null for `SIZES`), ``figure``, ``other`` (the judge, or the reward or column that
        it is correlated with), ``value``, and ``ci_low``, ``ci_high`` if it was bootstrapped. Values are shares,
        correlations, counts, or moments in the reward's unit.

    Raises:
        InputError: a candidate or the column cannot be used, or no validation event has an item known from training.
    """
    frame = frame.filter(pl.col("split") != TEST)
    train, measured = frame["split"] == TRAIN, (frame["split"] == VALIDATION) & (frame["item_id"] > 0)
    if not measured.any():
        remedy = "choose other cuts, so that rewards can be compared on validation"
        raise InputError("no validation event has an item that occurs in training", where="data.split", remedy=remedy)
    values = candidate_values(frame, candidates)
    means = {column.name: training_means(frame, column) for column in values}
    sizes = int(train.sum()), int(measured.sum()), frame["user"].filter(measured).n_unique()
    found: dict[tuple[str | None, str, str | None], Any] = {
        (None, figure, None): size for figure, size in zip(SIZES, sizes, strict=True)
    }
    events, trained = frame.filter(train), values.filter(train)
    for column in trained:
        figures = training_figures(events.select("user", "item", "timestamp", reward=column), repeated)
        found |= {(column.name, figure, None): value for figure, value in figures.items()}
    of_item = pl.DataFrame([mean["item"].filter(train).alias(name) for name, mean in means.items()])
    for kind, columns in (("event", trained), ("item", of_item)):
        for first, second in combinations(columns, 2):
            rho, figure = _spearman(first, second), f"correlation/{kind}"
            found |= {(first.name, figure, second.name): rho, (second.name, figure, first.name): rho}
        if against is not None:
            column = _numeric(events, against)
            found |= {(of.name, f"against/{kind}", against): _spearman(of, column) for of in columns}
    person = frame["user"].filter(measured).rank("dense").cast(pl.Int64) - 1
    bootstrap = CrossedBootstrap(person.n_unique(), DRAWS)
    for column in values.filter(measured):
        name, rated = column.name, column.is_not_null()
        person_N, value_N = person.filter(rated).to_numpy(), column.drop_nulls().to_numpy()
        at = {other: mean.filter(measured).filter(rated) for other, mean in means.items()}
        found[name, "measured events", None] = len(value_N)
        errors = errors_of_means(person_N, value_N, at[name], bootstrap)
        found |= {(name, figure, None): estimate for figure, estimate in errors.items()}
        for figure, by_reward in agreement_with(name, person_N, value_N, at, bootstrap).items():
            found |= {(ranked, figure, name): estimate for ranked, estimate in by_reward.items()}
    drawn = {key: with_interval(of) if isinstance(of, Estimate) else [of, None, None] for key, of in found.items()}
    return pl.DataFrame([(*key, *figures) for key, figures in drawn.items()], SCHEMA, orient="row", strict=False)


def _numeric(events: pl.DataFrame, name: str) -> pl.Series:
    """The log's numeric column of that name."""
    raw = events.drop(*ADDED, *OWN_COLUMNS, strict=False).select(cs.numeric())
    if name not in raw.columns:
        what = f"{name!r} is not a numeric column of the log, or is a name reserved by recalign"
        raise InputError(what, where="against", remedy=did_you_mean(name, raw.columns))
    return raw[name]


def _spearman(first: pl.Series, second: pl.Series) -> float:
    """Rank correlation over the rows that have both; NaN with fewer than three rows, or if one is constant."""
    both = pl.DataFrame([first.alias("first"), second.cast(pl.Float64).fill_nan(None).alias("second")]).drop_nulls()
    return both.select(pl.corr("first", "second", method="spearman")).item() if len(both) > 2 else float("nan")


def compare_log_rewards(data: EventDataModule, rewards: Mapping[str, Any], against: str | None = None) -> pl.DataFrame:
    """Run `compare_rewards` on a log's events, with the log's own reward as a further candidate.

    Args:
        data: the log; only events of its ``users`` are compared, and rewards are ranked among them.
        rewards: the candidates by name: an expression, or the settings of a `Candidate`.
        against: a numeric column; None: the first ``relative_to`` column, else ``data.high.within``, else none.

    Raises:
        InputError: as in `compare_rewards` and `recalign.reward.candidates.values.with_own_reward`.
    """
    candidates = with_own_reward(rewards, None if data.reward is None else Candidate(data.reward, data.relative_to))
    columns = [candidate.relative_to.column for candidate in candidates.values() if candidate.relative_to]
    against = against or next(iter(columns), data.high.within if data.high else None)
    sequences = data.sequences
    frame = sequences.frame.filter(pl.Series(sequences.users_in(data.users)).gather(sequences.frame["user"]))
    cold = pl.col("item_id") > sequences.num_warm  # cold items: features, but too few training events
    frame = frame.with_columns(item_id=pl.when(~cold).then("item_id").otherwise(0))
    repeated = repeated_share(sequences.frame, sequences.report.repeats)
    return compare_rewards(frame, candidates, against, repeated=repeated)
