"""What each method gains for what it loses: every method along its ray, on validation; a table and a picture.

    python benchmarks/frontier.py --log simulated [--seeds 26 27 28] [--runs runs] [--data DIR]

Simulated: each seed is a world of its own, none of those that a table is made of. Value by the truth there, elsewhere
by the judges for selection. The table reads each family where it keeps 97 % of the start's all/ndcg@10 and where it is
0.1 nats from the start, in each world, interpolated between its reaches (`rays.py`). Cells that have run are not run
again.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace

import polars as pl
from forms import CHAINS, Figures
from pictures import frontier
from rays import KEPT, KL, START, Family, Key, by_cell, of_seed, over_start, paths, rows, where
from tables import beside_other_logs, markdown, save, save_picture

from recalign.chain import Chain, Plan
from recalign.simulation import World

OTHERS = "bc filtered_bc reward_weighted exp_reward dpo ipo sdpo simpo kto reinforce ppo grpo ecpo cql iql awac sa2c"
FORMS = [  # of A-SFT: transform, source, temperature; the default first
    ("exponential", "predicted", 0.3),
    ("exponential", "predicted", 0.15),
    ("exponential", "predicted", 0.6),
    ("exponential", "observed", 0.5),
    ("exponential", "shrunk", 0.5),
    ("signed", "observed", 0.3),
    ("signed", "predicted", 0.3),
]
FAMILIES = [
    Family("asft", "asft", {}),
    *(
        Family(
            f"asft, {transform}, {source}" + f", {beta}" * (transform != "signed"),  # whose weights have none
            "asft",
            {"model.transform": transform, "data.source": source, "model.temperature": beta},
        )
        for transform, source, beta in FORMS[1:]
    ),
    *(Family(method, method, {}) for method in OTHERS.split()),
]
LEVELS = {"97 % kept": (KEPT, 0.97), "0.1 nats": (KL, 0.1)}
ALL, HIGH = "all/ndcg@10", "high/ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="simulated", choices=["simulated", "ml-100k"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[26, 27, 28])
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--data", help="data root of ML-100K; else RECALIGN_DATA, else data")
    given = parser.parse_args()
    world = World() if given.log == "simulated" else None
    methods = ["asft", *OTHERS.split()]
    name = f"frontier-{given.log}"
    chain = Chain(given.log, methods, name=name, seeds=given.seeds, world=world, root=given.runs, keep=None)
    overrides = {"data.root": given.data} if given.data else {}
    plan = Plan(chain, CHAINS / f"{given.log}.yaml", {None: overrides})
    measured: dict[int, dict[Key, Figures]] = {}
    for seed in given.seeds:
        measured[seed] = of_seed(plan, seed, replace(world, seed=seed) if world else None, FAMILIES)
        report(measured, given.log)


def report(measured: dict[int, dict[Key, Figures]], log: str) -> None:
    """Print and save what is measured so far."""
    value = "value/true@10" if log == "simulated" else "value/select_judge@10"
    text = "true value" if log == "simulated" else "judges' value"
    shown = {
        f"diff_start/{value}": f"{text}, over start",
        f"diff_start/{HIGH}": f"{HIGH}, over start",
        KEPT: "kept",
        KL: "KL",
    }
    starts = [each[START] for each in measured.values()]
    ways = paths(measured)
    read = []
    for (level, (metric, at)), (name, path) in itertools.product(LEVELS.items(), ways.items()):
        found, worlds = where(name, path, metric, at)
        read.append((f"{level}: {found}", worlds))
    cells = [(f"{name} {reach:g}", worlds) for (name, reach), worlds in by_cell(measured).items()]
    table, everything = (
        pl.concat(
            [rows(log, name, over_start(worlds, starts, (value, HIGH)), shown, measured) for name, worlds in each],
            how="vertical_relaxed",
        )
        for each in (read, [*cells, *read])
    )
    picture = save_picture(frontier(ways, value, text), f"frontier-{log}")
    print(f"\n{markdown(table, shown)}\n\n{save(beside_other_logs(everything, 'frontier'), 'frontier')}\n{picture}")


if __name__ == "__main__":
    main()
