"""The trust report: the quality of a reward model after training or test, written to trust.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.artifacts import verify
from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.sequences import Windows
from recalign.data.sequences.means import with_sums_before
from recalign.data.sequences.splits import TRAIN
from recalign.data.sequences.store import SplitName
from recalign.data.sequences.windows import training_windows
from recalign.files import read_json
from recalign.reward.data import RewardData
from recalign.reward.matrix_factorization import fit_variational_mf
from recalign.reward.trust.measures import (
    MEANS,
    Table,
    calibration,
    differences,
    estimate,
    following,
    measure,
    ordered_pairs,
    prediction_errors,
    ratios,
    variance,
    with_interval,
)
from recalign.reward.trust.verdict import IMPLICATION, best_average, noise, repeated_share, verdict

PREDICTORS = (*MEANS, "ridge", "factors")
WITHOUT_USER_BIAS = {"item": "item", "user_item": "item", "ridge": "ridge_fixed", "factors": "factors_fixed"}
"""For each predictor, the column that orders one user's items as it does; the other predictors order none."""
DRAWS = 2000
MIN_USERS, ENOUGH_USERS = 50, 200
"""Fewest users with a pair to measure ``pairwise`` at all (with fewer, bootstrap intervals are too narrow), and to
measure it on validation alone (with fewer, the intervals are at least about ten points wide).
"""
MOST_OTHERS = 2000
"""Largest number of other users whose training rows are ordered: enough for an error of about two points."""
OTHERS = "training rows of other users"
NEXT = 10
"""An event is paired with up to this many of the user's next events."""
TRUST = "trust.json"
"""The report in a run folder."""


def read_trust(run: Path) -> dict[str, Any]:
    """The trust report in a run folder; {} if there is none.

    Raises:
        InputError: the file was changed after the run.
    """
    if (run / TRUST).is_file():
        verify(run / TRUST, f"`recalign test --config {run / 'config.yaml'}` writes it anew")
    return read_json(run / TRUST)


@dataclass(frozen=True)
class PredictionComparison:
    """A reward model and simpler predictors (`PREDICTORS`) on the events of one split.

    ``events`` has all predictions and the columns to group by. ``ordered_on`` says where ``pairwise`` was measured: on
    the split or on `OTHERS`; None if too few users have a pair, and ``pairwise`` is then nan.
    """

    events: pl.DataFrame
    table: Table
    bootstrap: CrossedBootstrap
    ordered_on: str | None


def compare_predictions(
    data: RewardData, predicted: Callable[[Windows], pl.DataFrame], splits: Sequence[SplitName]
) -> dict[SplitName, PredictionComparison]:
    """Measure a reward model beside simpler predictors (`PREDICTORS`).

    If fewer than `ENOUGH_USERS` users of the first split have a pair, and more users outside the group have one, its
    ``pairwise`` is measured on the latter's training rows. The model was not trained on their rewards; it reads only
    those before a pair. The user's level cancels within a pair. (Comparing reward minus the user's earlier mean across
    users would not do: the prediction reads the same few rewards as the mean, so their noise alone correlates the two.)

    Args:
        data: the log and the group of users that the model was trained on.
        predicted: returns the output of `recalign.reward.trust.callback.predict` for the targets of windows.
        splits: ``validation``, ``test``; each must have a reward.

    Returns:
        By split.
    """
    expected = data.means.join(fit_ridge_and_factors(data.target_events, data.num_items), on="event")
    measured: dict[SplitName, PredictionComparison] = {}
    for split in splits:
        events = _events(data, predicted(data.windows(split)).join(expected, on="event", maintain_order="left"))
        values = {name: events[name].cast(pl.Float64).to_numpy() for name in ("model", *PREDICTORS)}
        person, reward, high = (events[name].to_numpy() for name in ("person", "reward", "high"))
        bootstrap = _bootstrap(events)
        table = measure(person, reward, high, values, _ahead(events), bootstrap)
        measured[split] = PredictionComparison(events, table, bootstrap, split)
    first = splits[0]
    if (pairs := _users_with_pairs(measured[first].events)) < ENOUGH_USERS:
        measured[first] = _ordered_by_others(data, predicted, measured[first], pairs)
    return measured


def report(
    data: RewardData, measured: Mapping[SplitName, PredictionComparison], shown: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The verdict, its implication and the figures, as JSON values.

    Verdict and reliability come from the first split, validation if available: the test split must not choose a method.

    Args:
        data: the log and the group of users that the model was trained on.
        measured: from `compare_predictions`.
        shown: how the model ranks the items of a request of the first split, if the log has skipped rows.
    """
    first, comparison = next(iter(measured.items()))
    judged, reward = verdict(comparison.table), comparison.events["reward"].to_numpy()
    repeated = repeated_share(data.sequences.frame, data.report.repeats)
    found: dict[str, Any] = {
        "verdict": judged,
        "implication": IMPLICATION[judged],
        "judged_on": first,
        "ordered_on": comparison.ordered_on,
        "reliability": max(0.0, comparison.table["model"]["r2"].value),  # 0 where it is nan
        "users": asdict(data.cohort),
        "noise": noise(data.rated_events, comparison.table, variance(reward), repeated),
        **{name: _figures(of) for name, of in measured.items()},
        **({"shown": dict(shown)} if shown else {}),
    }
    return json.loads(json.dumps(found), parse_constant=lambda _: None)


PERSON = (pl.col("person").rank("dense") - 1).cast(pl.Int64)
"""Users numbered from 0."""


def _bootstrap(events: pl.DataFrame) -> CrossedBootstrap:
    return CrossedBootstrap(events["person"].n_unique(), DRAWS)


def _users_with_pairs(events: pl.DataFrame) -> int:
    person, reward, ahead = (events[name].to_numpy() for name in ("person", "reward", "ahead"))
    return int(np.count_nonzero(ordered_pairs(person, reward, ahead, events["person"].n_unique())[1]))


def _ordered_by_others(
    data: RewardData, predicted: Callable[[Windows], pl.DataFrame], comparison: PredictionComparison, pairs: int
) -> PredictionComparison:
    """Measure ``pairwise`` on the training rows of users outside the group, if more of them have a pair.

    Otherwise the comparison stays, or ``pairwise`` becomes nan if ``pairs`` is below `MIN_USERS`. Ridge and
    factorisation were not fitted to other users, so theirs is nan.
    """
    windows, found, ordered_on = training_of_others(data), {}, None
    if len(windows) >= MIN_USERS and not np.isnan(windows.reward).all():
        about = data.sequences.frame.select("event", "item_id", "reward", person="user")
        events = predicted(windows).join(about, on="event", maintain_order="left").with_columns(PERSON)
        item = pl.Series(data.reward_moments().item_mean_V).gather(events["item_id"] - 1)
        events = events.with_columns(item=item, ridge_fixed=pl.lit(math.nan), factors_fixed=pl.lit(math.nan))
        if _users_with_pairs(events) >= max(MIN_USERS, pairs + 1):
            person, reward = (events[name].to_numpy() for name in ("person", "reward"))
            bootstrap = _bootstrap(events)
            sums = {name: ordered_pairs(person, reward, of, bootstrap.users) for name, of in _ahead(events).items()}
            found = {name: estimate(value_D1) for name, value_D1 in ratios(sums, bootstrap).items()}
            ordered_on = OTHERS
    if ordered_on is None and pairs >= MIN_USERS:
        return comparison
    unknown = Estimate(math.nan, np.full(DRAWS, math.nan))
    table = {name: figures | {"pairwise": found.get(name, unknown)} for name, figures in comparison.table.items()}
    return replace(comparison, table=table, ordered_on=ordered_on)


def training_of_others(data: RewardData) -> Windows:
    """Training windows of at most `MOST_OTHERS` users outside the group: the model was not trained on them."""
    windows = training_windows(data.sequences, ~data.sequences.users_in(data.users), data.max_length)
    return windows.take(np.arange(0, len(windows), max(1, -(-len(windows) // MOST_OTHERS))))


def _events(data: RewardData, predicted: pl.DataFrame) -> pl.DataFrame:
    """The measured events with what is known of them, ordered by user."""
    person = pl.col("user").alias("person")  # in `predicted`, `user` is the user's mean
    about = data.target_events.select("event", person, "item_id", "high")
    return predicted.join(about, on="event").sort("event").with_columns(PERSON)


def _ahead(events: pl.DataFrame) -> dict[str, np.ndarray]:
    """By predictor, predictions for the following events minus that for the event itself, as in `measure`."""
    ahead_NC = events["ahead"].to_numpy()
    ahead = {"model": ahead_NC}
    for name in PREDICTORS:  # without user biases: they cancel in a pair, but here each event has its own
        value_N = events[WITHOUT_USER_BIAS[name]].to_numpy() if name in WITHOUT_USER_BIAS else np.zeros(len(events))
        ahead[name] = np.where(np.isnan(ahead_NC), np.nan, following(value_N, ahead_NC.shape[1]) - value_N[:, None])
    return ahead


def _figures(comparison: PredictionComparison) -> dict[str, Any]:
    events, table = comparison.events, comparison.table
    return {
        "events": len(events),
        **prediction_errors(events, events["model"]),
        "table": _with_intervals(table),
        "differences": _with_intervals(differences(table)),
        "best_average": best_average(table),
        "calibration": calibration(events["model"].cast(pl.Float64).to_numpy(), events["reward"].to_numpy()),
    }


def _with_intervals(table: Table) -> dict[str, dict[str, list[float]]]:
    return {name: {figure: with_interval(value) for figure, value in row.items()} for name, row in table.items()}


RANK = 8


def fit_ridge_and_factors(frame: pl.DataFrame, num_items: int) -> pl.DataFrame:
    """Predict rewards by ridge regression and by matrix factorisation.

    Args:
        frame: the events of a group of users in order, with ``event``, ``user``, ``item_id``, ``split``, ``reward``.
        num_items: V.

    Returns:
        ``event``, ``ridge`` and ``factors`` (f64), a row per event: the user's bias is updated by the shrunk mean of
        the user's earlier residuals since training. ``ridge_fixed`` and ``factors_fixed``: without that update.
    """
    user_N = np.unique(frame["user"].to_numpy(), return_inverse=True)[1]
    item_N, size = frame["item_id"].to_numpy(), (int(user_N.max()) + 1, num_items + 1)
    fit_N = ((frame["split"] == TRAIN) & frame["reward"].is_not_null()).to_numpy()
    rated = user_N[fit_N], item_N[fit_N], frame["reward"].cast(pl.Float64).to_numpy()[fit_N]
    reward, columns = pl.col("reward"), ["event"]
    for name, rank in (("ridge", 0), ("factors", RANK)):
        fitted, fixed = fit_variational_mf(*rated, size, rank), pl.col(f"{name}_fixed")
        since = reward.is_not_null() & (pl.col("split") > TRAIN)
        frame = frame.with_columns(pl.Series(f"{name}_fixed", fitted.expected(user_N, item_N)))
        residual, known = pl.when(since).then(reward - fixed).otherwise(0.0), reward.is_not_null().cast(pl.Float64)
        frame = with_sums_before(frame, residual=residual, known=known)
        bias = pl.col("residual") / (pl.col("known") + float(fitted.ridge_F[0]))
        frame = frame.with_columns((fixed + bias).alias(name))
        columns += [f"{name}_fixed", name]
    return frame.select(columns)
