"""What noise in rewards changes: A-SFT's best temperature, and its gain beside methods that trust the reward model.

    python benchmarks/noise.py [--seeds 1 2 3] [--runs runs]

Simulated worlds of rising noise, the same seeds in each, read on validation by the truth. Of each family (a method, or
A-SFT at one temperature) the rate that counts is the one with the highest true value among those that keep 95 % of
all/ndcg@10 on the mean of the worlds, so that a longer step does not pass for a better method.
"""

from __future__ import annotations

import argparse
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
RATES = {"asft": (2.5e-5, 5e-5, 1e-4), "ppo": (5e-6, 1e-5, 2e-5), "cql": (2.5e-5, 5e-5, 1e-4)}
STRENGTHS = (0.5, 1.0, 2.0)
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
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
    chain = Chain("simulated", ["bc", *RATES], f"noise-{noise}", [seed], world=world, root=runs)
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
            yield "asft, shrunk", method, {}, rate
            for temperature in TEMPERATURES:
                settings: Settings = {"data.source": "observed", "model.temperature": temperature}
                yield f"asft, observed, temperature {temperature:g}", method, settings, rate


def table(measured: dict[int, dict[Key, Figures]], log: str) -> pl.DataFrame:
    """Each family at its best rate: means over the worlds, and over the differences to the start within each."""
    rows = []
    seeds = " ".join(map(str, measured))
    for (family, rate), worlds in best(measured).items():
        for figures, start in zip(worlds, (each["start", 0.0] for each in measured.values()), strict=True):
            figures |= {f"diff_start/{metric}": figures[metric] - start[metric] for metric in (VALUE, ALL)}
        name = f"{family}, {rate:g}" if rate else family
        rows += [(log, name, m, *spread([each[m] for each in worlds]), seeds, commit()) for m in SHOWN]
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row")


def best(measured: dict[int, dict[Key, Figures]]) -> dict[Key, list[Figures]]:
    """The rate of each family, with its figures in each world."""
    by_key = {key: [each[key] for each in measured.values()] for key in next(iter(measured.values()))}
    mean = {
        key: {m: sum(w[m] for w in worlds) / len(worlds) for m in (VALUE, "kept")} for key, worlds in by_key.items()
    }
    chosen: dict[str, Key] = {}
    for key in by_key:
        order = [(min(mean[k]["kept"], KEPT), mean[k][VALUE]) for k in (key, chosen.get(key[0], key))]
        if order[0] >= order[1]:
            chosen[key[0]] = key
    return {key: by_key[key] for key in chosen.values()}


if __name__ == "__main__":
    main()
