"""Choose the setting of a method by validation figures and the judges for selection, never by the test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from recalign.evaluation.comparison import ALL, HIGH, METRICS, RANKS
from recalign.evaluation.methods import BaseCheckpoints, LoadedNetworks, MethodRun
from recalign.evaluation.value import evaluate
from recalign.files import write_json
from recalign.reward import RewardData

KEPT = 0.95
"""Share of the better baseline's ``all/ndcg@10`` that a method must keep to be chosen, or to be called the best."""

SELECT = "value/select_judge@10"
MEASURED = (SELECT, ALL, HIGH, "policy/kl", "value/true@10")
FILE = "validation.json"
SEARCH = "search.csv"  # of a chain that searched: a row a trial

Figures = dict[str, float]
"""A method's validation figures by metric."""


def validate(
    places: Mapping[Path, MethodRun], base: BaseCheckpoints, data: RewardData, *, device: torch.device, code: str
) -> list[Figures]:
    """Validation figures of a method's settings; kept in their folders as long as nothing that they rest on changes.

    Args:
        places: a run for each folder in which its ``validation.json`` lies.
        base: what the runs rest on.
        data: the log, users A.
        device: where to work.
        code: digest of the code that evaluates, which goes into every key.

    Returns:
        The metrics of `MEASURED`, a dictionary for each run; the true value only where the truth is known.
    """
    digests = base.digests()
    keys = {place: run.key(digests, data, code) for place, run in places.items()}
    stale = [place for place in places if _read(place).get("key") != keys[place]]
    if stale:
        nets = LoadedNetworks(base, data, device)
        policies = {str(place): nets.policy(places[place]) for place in stale}
        scorers = replace(nets.scorers(), rewards={"select_judge@10": nets.rewards["select_judge@10"]})
        frames = evaluate(policies, scorers, data, "validation", device)
        for place in stale:
            write_json(place / FILE, {"key": keys[place], "figures": measured(frames[str(place)])})
    return [_read(place)["figures"] for place in places]


def measured(events: pl.DataFrame) -> Figures:
    """Means over the events of what `evaluate` gives; nan where a metric is about no event."""
    figures = {}
    for metric in MEASURED:
        column, flag = METRICS[metric]
        if column not in {*RANKS, *events.columns}:
            continue
        chosen = events.filter(pl.col(flag)) if flag else events
        values = RANKS[column](chosen["rank"].to_numpy()) if column in RANKS else chosen[column].drop_nulls().to_numpy()
        figures[metric] = float(values.mean()) if len(values) else float("nan")
    return figures


def choose(trials: Sequence[Figures], baseline: float, kept: float = KEPT) -> int:
    """The place of the setting with the highest value under the judges for selection.

    Only settings count that keep enough of a baseline's ``all/ndcg@10``; where none does, the closest is chosen. Of
    equals the first.

    Args:
        trials: validation figures of each setting.
        baseline: ``all/ndcg@10`` of the better baseline, on validation.
        kept: the share of it that is enough.
    """
    enough = [place for place, figures in enumerate(trials) if figures[ALL] >= kept * baseline]
    if not enough:
        return max(range(len(trials)), key=lambda place: trials[place][ALL])
    return max(enough, key=lambda place: trials[place][SELECT])


def choose_by_rank(trials: Sequence[Figures]) -> int:
    """The other rule: the place of the setting with the highest ``high/ndcg@10``."""
    return max(range(len(trials)), key=lambda place: trials[place][HIGH])


def _read(place: Path) -> dict:
    path = place / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
