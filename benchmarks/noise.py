"""What noise in rewards changes: A-SFT's best temperature, and its gain beside methods that trust the reward model.

    python benchmarks/noise.py [--seeds 21 22 23] [--runs runs]

Simulated worlds of rising noise, the same seeds in each, read on validation by the truth. Each family (a method, or
A-SFT at one temperature) is read where it keeps 95 % of all/ndcg@10 on the mean of the worlds, on the line through its
rates, so that a longer step does not pass for a better method.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from ablation import CHAINS, Figures, add_kept, spread
from tables import SCHEMA, commit, markdown, save

from recalign.chain import GROUND, Chain, Plan
from recalign.chain.run import make_world
from recalign.chain.train import ground_of, train
from recalign.evaluation.claim import KEPT
from recalign.evaluation.methods import Cell
from recalign.evaluation.selection import validate
from recalign.reward import RewardData
from recalign.simulation import World

NOISES = (0.3, 1.05, 3.0)  # sd of a reward around what the user thinks; the ordinary world's is 1.05
TEMPERATURES = (0.1, 0.3, 1.0, 3.0)
RATES = {"asft": (2e-5, 5e-5, 1.5e-4), "ppo": (1e-5, 2e-5, 4e-5), "cql": (2e-5, 5e-5, 1.5e-4)}
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
VALUE, ALL = "value/true@10", "all/ndcg@10"
SHOWN = {
    f"diff_start/{VALUE}": "true value, over start",
    f"diff_start/{ALL}": "all/ndcg@10, over start",
    "kept": "kept of all/ndcg@10",
    "policy/kl": "KL",
}
Settings = dict[str, Any]
Key = tuple[str, float]  # a family, and its rate or strength


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--runs", default="runs")
    given = parser.parse_args()
    tables = []
    for noise in NOISES:
        measured: dict[int, dict[Key, Figures]] = {}
        for seed in given.seeds:
            measured[seed] = dict(of_seed(noise, seed, given.runs))
        tables.append(table(measured, f"noise {noise}"))
        print(f"\nnoise {noise}\n\n{markdown(tables[-1], SHOWN, digits=3)}", flush=True)
    print(f"\n{save(pl.concat(tables), 'noise')}")


def of_seed(noise: float, seed: int, runs: str) -> Iterator[tuple[Key, Figures]]:
    """Validation figures of every family at every rate, in one world."""
    world = World(noise=noise)
    chain = Chain("simulated", ["bc", *RATES], f"noise-{noise}", [seed], world=world, root=runs, keep=None)
    plan = Plan(chain, CHAINS / "simulated.yaml", {})
    data: RewardData = plan.parsed("reward", seed).datamodule()  # type: ignore[assignment]
    make_world(data, replace(world, seed=seed))
    ground = ground_of({stage: train(plan.parsed(stage, seed)) for stage in GROUND})
    cells: dict[Key, tuple[Path, Cell]] = {
        ("start", 0.0): (plan.trial_folder("start", seed, "s"), Cell("start", None, {}))
    }
    for strength in STRENGTHS:
        place = plan.trial_folder("rerank", seed, f"strength-{strength}")
        cells["rerank", strength] = place, Cell("rerank", None, {}, strength)
    for family, method, settings, rate in trials():
        run = train(plan.trial(method, seed, f"{family}-{rate}".replace(" ", "-"), settings | {"model.lr": rate}))
        cells[family, rate] = run.folder, run.cell(method)
    figures = dict(zip(cells, validate(dict(cells.values()), ground, data), strict=True))
    named = {f"{family} {rate}": each for (family, rate), each in figures.items()}
    add_kept(named)
    yield from figures.items()


def trials() -> Iterator[tuple[str, str, Settings, float]]:
    """Family, method, settings and rate of everything that is trained."""
    yield "bc", "bc", {}, 5e-5
    for method, rates in RATES.items():
        for rate in rates:
            if method != "asft":
                yield method, method, {}, rate
                continue
            for source, temperature in itertools.product(("observed", "predicted"), TEMPERATURES):
                settings: Settings = {"data.source": source, "model.temperature": temperature}
                yield f"asft, {source}, temperature {temperature:g}", method, settings, rate


def table(measured: dict[int, dict[Key, Figures]], log: str) -> pl.DataFrame:
    """Each family where it keeps 95 %: means over the worlds, and over the differences to the start within each."""
    rows = []
    seeds = " ".join(map(str, measured))
    for family, worlds in edges(measured).items():
        starts = (each["start", 0.0] for each in measured.values())
        shown = [
            figures | {f"diff_start/{metric}": figures[metric] - start[metric] for metric in (VALUE, ALL)}
            for figures, start in zip(worlds, starts, strict=True)
        ]
        rows += [(log, family, m, *spread([each[m] for each in shown]), seeds, commit()) for m in SHOWN]
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row")


def edges(measured: dict[int, dict[Key, Figures]]) -> dict[str, list[Figures]]:
    """Each family where it keeps 95 %, as figures in each world; where it keeps more at its last rate, there, and said.

    The mean of the worlds says which rate keeps enough; between it and the next the figures are drawn as lines, from
    `start` on, so that no family wins by where its rates happen to lie.
    """
    by_key = {key: [each[key] for each in measured.values()] for key in next(iter(measured.values()))}
    paths: dict[str, list[list[Figures]]] = {}
    for family, rate in sorted(by_key):
        paths.setdefault(family, [by_key["start", 0.0]]).append(by_key[family, rate])
    return dict(_edge(family, path) for family, path in paths.items())


def _edge(family: str, path: list[list[Figures]]) -> tuple[str, list[Figures]]:
    kept = [sum(world["kept"] for world in worlds) / len(worlds) for worlds in path]
    first = next((i for i, share in enumerate(kept) if share < KEPT), None)  # that keeps too little
    if first is None:
        return family if family == "start" else f"{family}, at its last rate", path[-1]
    if first == 0:  # continued cloning is that much better
        return family, path[0]
    share = (kept[first - 1] - KEPT) / (kept[first - 1] - kept[first])
    return family, [
        {metric: (1 - share) * before[metric] + share * after[metric] for metric in before}
        for before, after in zip(path[first - 1], path[first], strict=True)
    ]


if __name__ == "__main__":
    main()
