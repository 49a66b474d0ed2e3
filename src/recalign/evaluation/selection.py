"""Choose the setting of a method by validation metrics and the judges for selection, never by the test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from recalign import seals
from recalign.evaluation.comparison import METRICS, NDCG_ALL, NDCG_HIGH
from recalign.evaluation.evaluated_runs import with_rank_metrics
from recalign.evaluation.methods import BaseCheckpoints, MethodRun
from recalign.evaluation.networks import LoadedNetworks
from recalign.evaluation.seed_evaluation import digests_of, key_of
from recalign.evaluation.value import evaluate_policies
from recalign.files import read_json, write_json
from recalign.recommender.interpolation import TOLERANCE, Retention
from recalign.reward import RewardData

SELECT = "value/select_judge@10"
POPULARITY = "policy/popularity@10"
RETAINED, ERROR = "policy/ndcg_retained", "policy/ndcg_retained_se"
MEASURED = (SELECT, NDCG_ALL, NDCG_HIGH, "policy/kl", POPULARITY, "value/true@10")
FOLDER, FILE = "validation", "figures.json"
SEARCH = "search.csv"  # of a chain that searched: a row a trial

Metrics = dict[str, float]
"""Validation metrics of a method with some settings, by name."""


def validate(
    places: Mapping[Path, MethodRun], base: BaseCheckpoints, data: RewardData, *, device: torch.device, code: str
) -> list[Metrics]:
    """Validation metrics of a method's settings, cached in their folders until anything they depend on changes.

    ``places`` maps the folder that gets a ``validation/`` to its run; the other arguments are as in `SeedEvaluation`.

    Returns:
        The metrics of `MEASURED` for each run, the true value only where the truth is known, and of
        `LoadedNetworks.retained`.
    """
    digests = digests_of(base)
    keys = {place: key_of(run, digests, data, code) for place, run in places.items()}
    stale = [place for place in places if not seals.check(place / FOLDER, keys[place]).fresh]
    if stale:
        nets = LoadedNetworks(base, data, device)
        policies = {str(place): nets.policy(places[place]) for place in stale}
        select = {"select_judge@10": nets.scorers.rewards["select_judge@10"]}
        scorers = replace(nets.scorers, rewards=select)
        frames = evaluate_policies(policies, scorers, data, "validation", device)
        for place in stale:
            metrics = measured(frames[str(place)]) | nets.retained(places[place], policies[str(place)])
            with seals.publish(place / FOLDER, keys[place]) as part:
                write_json(part / FILE, metrics)
    return [read_json(place / FOLDER / FILE) for place in places]


def measured(events: pl.DataFrame) -> Metrics:
    """Means over events of the metrics of `evaluate_policies`; nan for a metric without events."""
    events, metrics = with_rank_metrics(events), {}
    for metric in MEASURED:
        column, flag = METRICS[metric]
        if column in events.columns:
            values = (events.filter(flag) if flag else events)[column].drop_nulls().to_numpy()
            metrics[metric] = float(values.mean()) if len(values) else float("nan")
    return metrics


def choose(trials: Mapping[int, Metrics], keep: float) -> int:
    """The number of the trial with the highest value under the judges for selection; on a tie the first.

    Only trials within the NDCG budget count (`Retention.enough`, to within `TOLERANCE`). If there is none, the trial
    that retains most is chosen.
    """
    kept = {number: Retention(metrics[RETAINED], metrics[ERROR]) for number, metrics in trials.items()}
    enough = [number for number, of in kept.items() if of.enough(keep - TOLERANCE)]
    best = max(enough, key=lambda number: trials[number][SELECT], default=None)
    return max(kept, key=lambda number: kept[number].share) if best is None else best
