"""What noise in rewards changes: A-SFT's best temperature, and its gain beside methods that trust the reward model.

    python benchmarks/noise.py [--seeds 21 22 23] [--runs runs]

Simulated worlds of rising noise, the same seeds in each, read on validation by the truth. Each family (a method, or
A-SFT at one temperature) is read where it keeps 95 % of all/ndcg@10 on the mean of the worlds, on the line through its
rates, so that a longer step does not pass for a better method.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import polars as pl
from forms import CHAINS, Figures
from rates import KEPT, KL, START, Family, Key, of_seed, over_start, paths, rows, where
from tables import markdown, save

from recalign.chain import Chain, Plan
from recalign.evaluation.selection import KEPT as ENOUGH
from recalign.simulation import World

NOISES = (0.3, 1.05, 3.0)  # sd of a reward around what the user thinks; the ordinary world's is 1.05
TEMPERATURES = (0.1, 0.3, 1.0, 3.0)
FAMILIES = [
    Family("bc", "bc", {}, (5e-5,)),
    *(
        Family(f"asft, {source}, temperature {beta:g}", "asft", settings, (2e-5, 5e-5, 1.5e-4))
        for source, beta in itertools.product(("observed", "predicted"), TEMPERATURES)
        for settings in [{"data.source": source, "model.temperature": beta}]
    ),
    Family("ppo", "ppo", {}, (1e-5, 2e-5, 4e-5)),
    Family("cql", "cql", {}, (2e-5, 5e-5, 1.5e-4)),
]
VALUE, ALL = "value/true@10", "all/ndcg@10"
SHOWN = {
    f"diff_start/{VALUE}": "true value, over start",
    f"diff_start/{ALL}": "all/ndcg@10, over start",
    KEPT: "kept of all/ndcg@10",
    KL: "KL",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--runs", default="runs")
    given = parser.parse_args()
    tables = []
    for noise in NOISES:
        world = World(noise=noise)
        methods = list(dict.fromkeys(family.method for family in FAMILIES))
        name = f"noise-{noise}"
        chain = Chain("simulated", methods, name=name, seeds=given.seeds, world=world, root=given.runs, keep=None)
        plan = Plan(chain, CHAINS / "simulated.yaml", {})
        measured = {seed: of_seed(plan, seed, replace(world, seed=seed), FAMILIES) for seed in given.seeds}
        tables.append(table(measured, f"noise {noise}"))
        print(f"\nnoise {noise}\n\n{markdown(tables[-1], SHOWN, digits=3)}", flush=True)
    print(f"\n{save(pl.concat(tables), 'noise')}")


def table(measured: dict[int, dict[Key, Figures]], log: str) -> pl.DataFrame:
    """Each family where it keeps 95 %: means over the worlds, and over the differences to the start within each."""
    starts = [each[START] for each in measured.values()]
    found = [("start", starts), *(where(name, path, KEPT, ENOUGH) for name, path in paths(measured).items())]
    tables = [rows(log, name, over_start(worlds, starts, (VALUE, ALL)), SHOWN, measured) for name, worlds in found]
    return pl.concat(tables, how="vertical_relaxed")


if __name__ == "__main__":
    main()
