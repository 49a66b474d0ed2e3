"""Methods over their rates, on validation: the figures of every cell, and where each family has come equally far.

A longer step gains more value and loses more ranking, so a family (a method, or A-SFT in one form) is a path from the
start through its rates, and two are compared where they keep as much, or have moved as far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from forms import Figures, based, spread, valued
from tables import SCHEMA, commit

from recalign.chain import Plan
from recalign.chain.train import train
from recalign.evaluation.methods import MethodRun
from recalign.simulation import World

STRENGTHS = (0.5, 1.0, 2.0, 4.0)  # of reranking: its rates
Key = tuple[str, float]  # a family, and its rate or strength
START: Key = ("start", 0.0)
KEPT, KL = "kept", "policy/kl"


class Family(NamedTuple):
    """One method with the settings that make the family, and the rates at which it is trained."""

    name: str
    method: str
    settings: dict[str, Any]
    rates: tuple[float, ...]


def of_seed(plan: Plan, seed: int, world: World | None, families: Iterable[Family]) -> dict[Key, Figures]:
    """Validation figures of `start`, reranking at each strength, and every family at each of its rates."""
    base, data = based(plan, seed, world)
    cells: dict[Key, tuple[Path, MethodRun]] = {
        START: (plan.trial_folder("start", seed, "start"), MethodRun("start", None, {})),
    }
    for strength in STRENGTHS:
        place = plan.trial_folder("rerank", seed, f"strength-{strength}")
        cells["rerank", strength] = place, MethodRun("rerank", None, {}, strength)
    for name, method, settings, rates in families:
        for rate in rates:
            run = train(plan.trial(method, seed, f"{name}-{rate}".replace(" ", "-"), settings | {"model.lr": rate}))
            cells[name, rate] = run.folder, run.method_run(method)
    figures = dict(zip(cells, valued(plan, dict(cells.values()), base, data), strict=True))
    baseline = max(each["all/ndcg@10"] for (name, _), each in figures.items() if name in ("start", "bc"))
    for each in figures.values():
        each[KEPT] = each["all/ndcg@10"] / baseline
    return figures


def by_cell(measured: Mapping[int, Mapping[Key, Figures]]) -> dict[Key, list[Figures]]:
    """Each cell's figures in every world."""
    return {key: [each[key] for each in measured.values()] for key in next(iter(measured.values()))}


def paths(measured: Mapping[int, Mapping[Key, Figures]]) -> dict[str, list[list[Figures]]]:
    """Each family's way: its figures in every world, at the start and then rate by rate."""
    cells = by_cell(measured)
    found: dict[str, list[list[Figures]]] = {}
    for name, rate in sorted(cells.keys() - {START}):
        found.setdefault(name, [cells[START]]).append(cells[name, rate])
    return found


def where(name: str, path: list[list[Figures]], metric: str, level: float) -> tuple[str, list[Figures]]:
    """A family where it comes to a level, as figures in each world; if it does not, at its last rate, and said.

    The mean of the worlds says between which rates that is; there the figures are drawn as lines, so that no family
    wins by where its rates happen to lie.

    Args:
        name: the family's.
        path: its way, of `paths`.
        metric: `KEPT`, which falls along the way, or `KL`, which rises.
        level: the share that is still kept, or the nats that are gone.
    """
    means = [sum(world[metric] for world in worlds) / len(worlds) for worlds in path]
    past = (lambda mean: mean < level) if metric == KEPT else (lambda mean: mean > level)
    first = next((place for place, mean in enumerate(means) if past(mean)), None)
    if first is None:
        return f"{name}, at its last rate", path[-1]
    if first == 0:  # continued cloning is that much better
        return name, path[0]
    share = (means[first - 1] - level) / (means[first - 1] - means[first])
    return name, [
        {figure: (1 - share) * before[figure] + share * after[figure] for figure in before}
        for before, after in zip(path[first - 1], path[first], strict=True)
    ]


def over_start(worlds: list[Figures], starts: list[Figures], metrics: Iterable[str]) -> list[Figures]:
    """Figures in each world, with their differences to the start as `diff_start/<metric>`."""
    return [
        figures | {f"diff_start/{metric}": figures[metric] - start[metric] for metric in metrics}
        for figures, start in zip(worlds, starts, strict=True)
    ]


def rows(log: str, name: str, worlds: list[Figures], metrics: Iterable[str], seeds: Iterable[int]) -> pl.DataFrame:
    """A family's figures as results are saved: mean, deviation and interval over the worlds."""
    of_seeds = " ".join(map(str, seeds))
    found = [(log, name, metric, *spread([each[metric] for each in worlds]), of_seeds, commit()) for metric in metrics]
    return pl.DataFrame(found, schema=list(SCHEMA), orient="row", infer_schema_length=None)
