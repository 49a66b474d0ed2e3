"""What each method gains for how far it moves: validation figures over its main settings, and A-SFT at the same KL.

    python benchmarks/frontier.py --log simulated [--seeds 26 27 28] [--runs runs] [--data DIR]

Simulated: each seed is a world of its own, none of those that a table is made of. Everything is read on validation, by
the judges for selection (in simulated worlds by the truth as well). Cells that have run are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from ablation import CHAINS, FIGURES, Figures, add_kept, spread
from tables import SCHEMA, beside_other_logs, commit, markdown, save

from recalign.chain import GROUND, Chain, Plan
from recalign.chain.run import make_world
from recalign.chain.train import ground_of, train
from recalign.evaluation.methods import Cell
from recalign.evaluation.selection import validate
from recalign.reward import RewardData
from recalign.simulation import World

Settings = dict[str, Any]
EVERYBODY = 3e-5  # one rate for all: how far each method goes with the same steps
OTHERS = "exp_reward filtered_bc reward_weighted dpo ipo simpo kto reinforce ppo grpo ecpo cql iql awac sa2c"


def form(transform: str, source: str, lr: float, temperature: float = 0.5) -> Settings:
    return {"model.transform": transform, "data.source": source, "model.temperature": temperature, "model.lr": lr}


CELLS: dict[str, list[Settings]] = {
    "bc": [{"model.lr": lr} for lr in (EVERYBODY, 1e-4)],
    "asft": [
        *(form("exponential", "predicted", lr, beta) for beta in (0.15, 0.3, 0.6) for lr in (3e-5, 6e-5)),
        *(form("exponential", source, lr) for source in ("observed", "shrunk") for lr in (6e-5, 1.5e-4)),
        *(form("signed", source, lr) for source in ("observed", "predicted") for lr in (1.5e-5, 3e-5, 6e-5)),
    ],
    **{method: [{"model.lr": EVERYBODY}] for method in OTHERS.split()},
}
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
SHOWN = {key: text for key, text in FIGURES.items() if key != "ess"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="simulated", choices=["simulated", "ml-100k"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[26, 27, 28])
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--data", help="data root of ML-100K; else RECALIGN_DATA, else data")
    given = parser.parse_args()
    world = World() if given.log == "simulated" else None
    experiment = Chain(
        given.log, [*CELLS], f"frontier-{given.log}", given.seeds, world=world, root=given.runs, keep=None
    )
    overrides = [f"--data.root={given.data}"] if given.data else []
    plan = Plan(experiment, CHAINS / f"{given.log}.yaml", {None: overrides})
    measured: dict[str, dict[int, Figures]] = {}
    for seed in given.seeds:
        for row, figures in of_seed(plan, seed):
            measured.setdefault(row, {})[seed] = figures
        rows = table(measured, given.log)
        print("\n" + markdown(rows, {m: t for m, t in SHOWN.items() if m in set(rows["metric"])}, digits=4), flush=True)
        print(f"\n{save(beside_other_logs(rows, 'frontier'), 'frontier')}", flush=True)


def of_seed(plan: Plan, seed: int) -> Iterator[tuple[str, Figures]]:
    """Validation figures of `start`, `bc`, reranking and every cell."""
    data: RewardData = plan.parsed("reward", seed).datamodule()  # type: ignore[assignment]
    make_world(data, replace(plan.chain.world, seed=seed) if plan.chain.world else None)
    ground = ground_of({stage: train(plan.parsed(stage, seed)) for stage in GROUND})
    cells: dict[str, tuple[Path, Cell]] = {}
    for strength in STRENGTHS:
        name = f"rerank, strength {strength}"
        cells[name] = plan.trial_folder("rerank", seed, name.replace(" ", "-")), Cell("rerank", None, {}, strength)
    cells["start"] = plan.trial_folder("start", seed, "start"), Cell("start", None, {})
    for method, settings in CELLS.items():
        for each in settings:
            name = ", ".join([method, *(f"{key.partition('.')[2]} {value}" for key, value in each.items())])
            run = train(plan.trial(method, seed, name.replace(" ", "-"), each))
            cells[name] = run.folder, run.cell(method)
    figures = dict(zip(cells, validate(dict(cells.values()), ground, data), strict=True))
    add_kept(figures)
    yield from figures.items()


def table(measured: dict[str, dict[int, Figures]], log: str) -> pl.DataFrame:
    """Means over seeds."""
    rows = [
        (log, row, metric, *spread([f[metric] for f in by_seed.values()]), " ".join(map(str, by_seed)), commit())
        for row, by_seed in measured.items()
        for metric in SHOWN
        if metric in next(iter(by_seed.values()))
    ]
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row")


if __name__ == "__main__":
    main()
