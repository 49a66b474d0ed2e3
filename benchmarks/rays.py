"""Methods along their rays, on validation: the figures of every cell, and where each family has come equally far.

A longer step gains more value and loses more ranking, so a family (a method, or A-SFT in one form) is a path from the
start along its ray, and two are compared where they keep as much, or have moved as far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from forms import Figures, based, spread, valued
from scipy.interpolate import PchipInterpolator
from tables import SCHEMA, commit

from recalign.chain import Plan
from recalign.chain.train import train
from recalign.evaluation.methods import MethodRun
from recalign.files import replacing
from recalign.recommender.checkpoint import read_checkpoint
from recalign.simulation import World

REACHES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
STRENGTHS = (0.5, 1.0, 2.0, 4.0)  # of reranking: its reaches
Key = tuple[str, float]  # a family, and its reach or strength
START: Key = ("start", 0.0)
KEPT, KL = "kept", "policy/kl"


class Family(NamedTuple):
    """One method with the settings that make the family."""

    name: str
    method: str
    settings: dict[str, Any]


def of_seed(plan: Plan, seed: int, world: World | None, families: Iterable[Family]) -> dict[Key, Figures]:
    """Validation figures of `start`, reranking at each strength, and every family at each of `REACHES`.

    The plan's chain has ``keep`` null, so that checkpoints hold the trained weights.
    """
    assert plan.chain.keep is None, "a checkpoint at the price is no trained end of a ray"
    base, data = based(plan, seed, world)
    cells: dict[Key, tuple[Path, MethodRun]] = {
        START: (plan.trial_folder("start", seed, "start"), MethodRun("start", None, {})),
    }
    for strength in STRENGTHS:
        place = plan.trial_folder("rerank", seed, f"strength-{strength}")
        cells["rerank", strength] = place, MethodRun("rerank", None, {}, strength)
    for name, method, settings in families:
        trained = train(plan.trial(method, seed, name.replace(" ", "-"), settings)).method_run(method)
        for reach in REACHES:
            place = plan.trial_folder(method, seed, f"{name}-reach-{reach}".replace(" ", "-"))
            cells[name, reach] = place, replace(trained, checkpoint=at_reach(trained, base.start, reach, place))
    figures = dict(zip(cells, valued(plan, dict(cells.values()), base, data), strict=True))
    for each in figures.values():
        each[KEPT] = each["policy/kept"]
    return figures


def at_reach(run: MethodRun, start: Path, reach: float, folder: Path) -> Path:
    """Write the checkpoint of start + reach (trained - start), as `KeepRanking` would."""
    assert run.checkpoint, "a trained method has a checkpoint"
    trained, first = read_checkpoint(run.checkpoint), read_checkpoint(start)["state_dict"]
    moved = {
        name: torch.lerp(first[name], value, reach)
        for name, value in trained["state_dict"].items()
        if name.startswith("policy.") and value.is_floating_point() and name in first
    }
    with replacing(folder / "reach.ckpt") as temporary:
        torch.save(trained | {"state_dict": trained["state_dict"] | moved}, temporary)
    return folder / "reach.ckpt"


def by_cell(measured: Mapping[int, Mapping[Key, Figures]]) -> dict[Key, list[Figures]]:
    """Each cell's figures in every world."""
    return {key: [each[key] for each in measured.values()] for key in next(iter(measured.values()))}


def paths(measured: Mapping[int, Mapping[Key, Figures]]) -> dict[str, dict[float, list[Figures]]]:
    """Each family's way: by reach, from 0 (the start) on, its figures in every world."""
    cells = by_cell(measured)
    found: dict[str, dict[float, list[Figures]]] = {}
    for name, reach in sorted(cells.keys() - {START}):
        found.setdefault(name, {0.0: cells[START]})[reach] = cells[name, reach]
    return found


def where(name: str, path: Mapping[float, list[Figures]], metric: str, level: float) -> tuple[str, list[Figures]]:
    """A family where it first comes to a level in each world, by its figures there.

    Between reaches, figures are interpolated by a monotone cubic (of the KL, its root, because the KL grows with the
    square of a step). A world that does not come to the level is read at its last reach; the name then says so.

    Args:
        name: the family's.
        path: its way, of `paths`.
        metric: `KEPT`, which falls along the way, or `KL`, which rises.
        level: the share that is still kept, or the nats that are gone.
    """
    reaches = np.array(list(path))
    fine = np.linspace(0.0, reaches[-1], 4001)
    found, short = [], 0
    for world in zip(*path.values(), strict=True):
        curves = {figure: _curve(figure, reaches, world)(fine) for figure in world[0]}
        if KL in curves:
            curves[KL] = np.square(curves[KL])
        past = curves[metric] <= level if metric == KEPT else curves[metric] >= level
        short += not past.any()
        place = int(past.argmax()) if past.any() else -1
        found.append({figure: float(curve[place]) for figure, curve in curves.items()})
    return name + f", {short} at the last reach" * bool(short), found


def _curve(figure: str, reaches: np.ndarray, world: Sequence[Figures]) -> PchipInterpolator:
    """A figure over the reaches in one world; of the KL, its root."""
    values = np.array([cell[figure] for cell in world])
    return PchipInterpolator(reaches, np.sqrt(values.clip(min=0)) if figure == KL else values)


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
