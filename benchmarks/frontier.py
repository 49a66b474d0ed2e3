"""What each method gains for how far it moves: validation figures over its main settings, and A-SFT at the same KL.

    python benchmarks/frontier.py --log simulated [--seeds 11 12 13] [--runs runs] [--data DIR]

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
from ablation import CHAINS, FIGURES, Figures, spread
from tables import SCHEMA, beside_other_logs, commit, markdown, save

from recalign.chain import GROUND, Chain, Plan
from recalign.chain.run import make_world
from recalign.chain.train import ground_of, train
from recalign.evaluation.methods import Cell
from recalign.evaluation.selection import validate
from recalign.reward import RewardData
from recalign.simulation import World

RATES = (3e-5, 6e-5, 1e-4, 2e-4)
CELLS: dict[str, list[dict[str, Any]]] = {
    "asft": [
        *({"data.source": source, "model.lr": lr} for source in ("observed", "shrunk") for lr in RATES),
        *({"data.source": "predicted", "model.lr": lr} for lr in (3e-5, 1e-4)),
        *(
            {"model.transform": "signed", "data.source": source, "model.lr": lr}
            for source in ("observed", "shrunk")
            for lr in (1e-5, 3e-5, 6e-5)
        ),
    ],
    "kto": [
        *({"model.beta": 0.5, "model.lr": lr} for lr in (1e-5, 3e-5, 6e-5)),
        {"model.beta": 0.1},
        {"model.beta": 0.5, "data.source": "shrunk"},
    ],
    "dpo": [{"data.pairs": pairs} for pairs in ("logged", "generated")],
    "ppo": [
        *({"model.kl": kl} for kl in (0.03, 0.1, 0.3, 1.0)),
        {"model.kl": 0.3, "model.lr": 1e-4},
    ],
}
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
SHOWN = {key: text for key, text in FIGURES.items() if key != "ess"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="simulated", choices=["simulated", "ml-100k"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--data", help="data root of ML-100K; else RECALIGN_DATA, else data")
    given = parser.parse_args()
    world = World() if given.log == "simulated" else None
    experiment = Chain(given.log, ["bc", *CELLS], f"frontier-{given.log}", given.seeds, world=world, root=given.runs)
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
    tried: dict[str, list[dict[str, object]]] = {"bc": [{}], **CELLS}
    for method, settings in tried.items():
        for each in settings:
            name = ", ".join([method, *(f"{key.partition('.')[2]} {value}" for key, value in each.items())])
            run = train(plan.trial(method, seed, name.replace(" ", "-"), each))
            cells[name] = run.folder, run.cell(method)
    yield from zip(cells, validate(dict(cells.values()), ground, data), strict=True)


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
