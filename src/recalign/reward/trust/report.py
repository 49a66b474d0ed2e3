"""trust.json: what is said of a reward model when its training or test has ended."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.metrics.bootstrap import CrossedBootstrap, Estimate
from recalign.reward.data import RewardData
from recalign.reward.trust.baselines import fitted_baselines
from recalign.reward.trust.errors import MEANS, trust_of
from recalign.reward.trust.measures import Table, later, measure, minus
from recalign.reward.trust.slices import by_group, calibration, spread_and_error, tenths
from recalign.reward.trust.verdict import IMPLICATION, best_average, noise, temperature, theory, verdict
from recalign.sequences.store import Part

FILE = "trust.json"
PREDICTORS = (*MEANS, "ridge", "factors")
LEVEL_FREE = {"item": "item", "user_item": "item", "ridge": "ridge_fixed", "factors": "factors_fixed"}
"""Columns in which the items of one user compare as they do for a predictor; for the others all are alike."""
DRAWS = 2000


@dataclass(frozen=True)
class Compared:
    """A reward model and its rivals on the events of one part.

    Attributes:
        events: what each of them predicts of each event, and what the events are cut by.
        table: their figures, with the draws of the bootstrap.
        bootstrap: of the part's users.
    """

    events: pl.DataFrame
    table: Table
    bootstrap: CrossedBootstrap


def compared(data: RewardData, predictions: Mapping[Part, pl.DataFrame]) -> tuple[dict[Part, Compared], dict[str, Any]]:
    """Measure a reward model and its rivals.

    Args:
        data: the log and the group of users that the model was trained on.
        predictions: by part (``validation``, ``test``), as `trust.predictions.predictions` gives them.

    Returns:
        By part, and the settings that validation chose for the rivals.
    """
    fitted, chosen = fitted_baselines(data.frame, data.num_items)
    rated, expected = data.rated, data.means.join(fitted, on="event")
    parts: dict[Part, Compared] = {}
    for part, predicted in predictions.items():
        events = _events(data, rated, predicted.join(expected, on="event", maintain_order="left"))
        bootstrap = CrossedBootstrap(int(events["person"].max()) + 1, DRAWS)  # type: ignore[arg-type]
        parts[part] = Compared(events, _table(events, bootstrap), bootstrap)
    return parts, chosen


def report(data: RewardData, parts: Mapping[Part, Compared], baselines: dict[str, Any]) -> dict[str, Any]:
    """What is said of a reward model: the verdict, what it implies, and the figures.

    The verdict, the reliability and all that follows from them are those of the first part measured, validation where
    there is one: a method must not be chosen by what the test says.

    Args:
        data: the log and the group of users that the model was trained on.
        parts, baselines: as `compared` gives them.
    """
    first, part = next(iter(parts.items()))
    head = _head(data, part, first)
    figures = {name: _part(part.events, part.table, part.bootstrap) for name, part in parts.items()}
    return _plain(head | {"baselines": baselines} | figures)


def write_trust(folder: Path, content: dict[str, Any]) -> None:
    """Write a report as trust.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(partial, folder / FILE)


def _events(data: RewardData, rated: pl.DataFrame, predicted: pl.DataFrame) -> pl.DataFrame:
    """The measured events with all that they are cut by, a user's together."""
    count = rated.group_by("item_id").agg(pl.len().alias("popularity"))
    person = pl.col("user").alias("person")  # `user` is the user's mean
    about = data.frame.select("event", person, "item_id", "high", "known").join(count, on="item_id", how="left")
    events = predicted.join(about, on="event").sort("event")
    dense = (pl.col("person").rank("dense") - 1).cast(pl.Int64)
    events = events.with_columns(dense, pl.col("popularity").fill_null(0))
    return events.with_columns(
        pl.when(pl.col("popularity") > 0).then(pl.lit("seen")).otherwise(pl.lit("unseen")).alias("met"),
        pl.Series("popularity_tenth", tenths(events["popularity"].to_numpy())),
        pl.Series("activity_fifth", tenths(events["known"].to_numpy(), 5)),
    )


def _table(events: pl.DataFrame, bootstrap: CrossedBootstrap) -> Table:
    predicted = {name: events[name].cast(pl.Float64).to_numpy() for name in ("model", *PREDICTORS)}
    person, reward, high = (events[name].to_numpy() for name in ("person", "reward", "high"))
    ahead_NC = events["ahead"].to_numpy()
    ahead = {"model": ahead_NC}
    for name in PREDICTORS:  # the user's level is the same for both items, and must not be taken at two moments
        level_free = events[LEVEL_FREE[name]].to_numpy() if name in LEVEL_FREE else np.zeros(len(events))
        ahead[name] = np.where(np.isnan(ahead_NC), np.nan, later(level_free, ahead_NC.shape[1]) - level_free[:, None])
    return measure(person, reward, high, predicted, ahead, bootstrap)


def _head(data: RewardData, part: Compared, name: str) -> dict[str, Any]:
    rated, said, reward = data.rated, verdict(part.table, minus(part.table)), data.rated["reward"].to_numpy()
    found = noise(rated, part.table, float(part.events["reward"].to_numpy().var()))
    advantage = (part.events["model"] - part.events["user"]).cast(pl.Float64).to_numpy()
    return {
        "verdict": said,
        "implication": IMPLICATION[said],
        "judged_on": name,
        "reliability": max(part.table["model"]["r2"].value, 0.0),
        "users": asdict(data.cohort),
        "noise": asdict(found),
        "theory": theory(found.sd, data.num_items, float(reward.max() - reward.min())),
        "recommended": temperature(advantage, data.moments()[1]),
    }


def _part(events: pl.DataFrame, table: Table, bootstrap: CrossedBootstrap) -> dict[str, Any]:
    best = best_average(table)
    groups = {"item": "met", "popularity": "popularity_tenth", "activity": "activity_fifth"}
    return {
        "events": len(events),
        **trust_of(events, events["model"].to_numpy()).figures(),
        "table": _with_intervals(table),
        "differences": _with_intervals(minus(table)),
        "best_average": best,
        "by": {name: by_group(events, column, best, bootstrap) for name, column in groups.items()},
        "calibration": calibration(events["model"].cast(pl.Float64).to_numpy(), events["reward"].to_numpy()),
        "spread": spread_and_error(events, bootstrap),
    }


def _with_intervals(table: Table) -> dict[str, dict[str, list[float]]]:
    def cell(estimate: Estimate) -> list[float]:
        return [estimate.value, *estimate.interval()]

    return {name: {figure: cell(estimate) for figure, estimate in row.items()} for name, row in table.items()}


def _plain(value: Any) -> Any:
    """The same with null for numbers that are none."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
