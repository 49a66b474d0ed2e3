"""A-SFT's choices, one at a time around its default (conf/asft.yaml): what each gives on validation, and at what cost.

    python benchmarks/ablation.py --log simulated [--seeds 21 22 23 24 25] [--runs runs] [--data DIR]

Simulated: each seed is a world of its own. Everything is read on validation, by the judges for selection (in simulated
worlds by the truth as well), so that what follows may be frozen before any test. Cells that have run are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tables import SCHEMA, beside_other_logs, commit, markdown, save

from recalign.chain import BASE_STAGES, Chain, Plan
from recalign.chain.run import make_world
from recalign.chain.train import base_checkpoints, train
from recalign.evaluation.methods import BaseCheckpoints, MethodRun
from recalign.evaluation.selection import validate
from recalign.metrics.bootstrap import CrossedBootstrap
from recalign.reward import RewardData
from recalign.simulation import World

DEFAULT = "default"
SIGNED = {"model.transform": "signed", "model.lr": 2e-5}
CELLS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    **{f"source {value}": {"data.source": value} for value in ("observed", "shrunk")},
    **{f"baseline {value}": {"data.baseline": value} for value in ("none", "item", "user_item", "value", "soft")},
    **{f"transform {value}": {"model.transform": value} for value in ("linear", "sign", "rank", "signed")},
    **{f"temperature {value}": {"model.temperature": value} for value in (0.1, 0.2, 0.5, 1.0, 2.0)},
    "clip 3": {"model.clip": 3.0},
    "clip none": {"model.clip": None},
    # A larger step must not pass for a better form: forms at other rates, to be compared where they keep as much.
    **{f"lr {value}": {"model.lr": value} for value in (1.5e-5, 6e-5)},
    "source observed, lr 6e-05": {"data.source": "observed", "model.lr": 6e-5},
    "source observed, temperature 1.0": {"data.source": "observed", "model.temperature": 1.0},  # as wide as predicted
    "source shrunk, lr 6e-05": {"data.source": "shrunk", "model.lr": 6e-5},
    "transform signed, lr 2e-05": SIGNED,
    "transform signed, source observed, lr 2e-05": SIGNED | {"data.source": "observed"},
}
FIGURES = {
    "value/true@10": "true value",
    "value/select_judge@10": "judges' value",
    "high/ndcg@10": "high/ndcg@10",
    "all/ndcg@10": "all/ndcg@10",
    "kept": "kept of all/ndcg@10",
    "policy/kl": "KL",
    "ess": "effective sample",
}
CHAINS = Path(__file__).parents[1] / "conf" / "chain"
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", default="simulated", choices=["simulated", "ml-100k"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23, 24, 25])
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--data", help="data root of ML-100K; else RECALIGN_DATA, else data")
    arguments = parser.parse_args()
    world = World() if arguments.log == "simulated" else None
    name = f"ablation-{arguments.log}"
    experiment = Chain(
        arguments.log, ["bc", "asft"], name=name, seeds=arguments.seeds, world=world, root=arguments.runs, keep=None
    )
    overrides = {"data.root": arguments.data} if arguments.data else {}
    plan = Plan(experiment, CHAINS / f"{arguments.log}.yaml", {None: overrides})
    measured: dict[str, dict[int, Figures]] = {}
    for seed in arguments.seeds:
        for row, figures in of_seed(plan, seed):
            measured.setdefault(row, {})[seed] = figures
        rows = table(measured, arguments.log)
        columns = {metric: text for metric, text in FIGURES.items() if metric in set(rows["metric"])}
        print("\n" + markdown(rows, columns, digits=4))
        differences = {f"diff_default/{metric}": f"{text}, against the default" for metric, text in columns.items()}
        print("\n" + markdown(rows, differences, digits=4), flush=True)
        print(f"\n{save(beside_other_logs(rows, 'ablation'), 'ablation')}")


def of_seed(plan: Plan, seed: int) -> Iterator[tuple[str, Figures]]:
    """Validation figures of `start`, `bc` and every cell."""
    base, data = based(plan, seed, replace(plan.chain.world, seed=seed) if plan.chain.world else None)
    runs = {row: train(plan.trial("asft", seed, row.replace(" ", "-"), settings)) for row, settings in CELLS.items()}
    runs["bc"] = train(plan.trial("bc", seed, "bc", {}))
    cells = {run.folder: run.method_run("bc" if row == "bc" else "asft") for row, run in runs.items()}
    start = plan.trial_folder("start", seed, "start")
    cells = {start: MethodRun("start", None, {}), **cells}
    figures = dict(zip(["start", *runs], valued(plan, cells, base, data), strict=True))
    add_kept(figures)
    for row, run in runs.items():
        logged = pl.read_csv(run.folder / "metrics.csv", infer_schema_length=None)["advantage/ess"]
        figures[row]["ess"] = float(logged.drop_nulls().mean())  # type: ignore[arg-type]
    yield from figures.items()


def based(plan: Plan, seed: int, world: World | None) -> tuple[BaseCheckpoints, RewardData]:
    """What the methods of a seed rest on, trained, and the data that they are valued on."""
    data: RewardData = plan.parsed("reward", seed).datamodule()  # type: ignore[assignment]
    make_world(data, world)
    return base_checkpoints({stage: train(plan.parsed(stage, seed)) for stage in BASE_STAGES}), data


def valued(plan: Plan, cells: Mapping[Path, MethodRun], base: BaseCheckpoints, data: RewardData) -> list[Figures]:
    """Validation figures, measured where the chain works; those of another commit are measured anew."""
    return validate(cells, base, data, device=plan.device(), code=commit())


def add_kept(figures: dict[str, Figures]) -> None:
    """The share that each row keeps of the better of `start` and `bc`, in place."""
    baseline = max(each["all/ndcg@10"] for row, each in figures.items() if row.startswith(("start", "bc")))
    for each in figures.values():
        each["kept"] = each["all/ndcg@10"] / baseline


def table(measured: dict[str, dict[int, Figures]], log: str) -> pl.DataFrame:
    """Means over seeds, and over the differences to the default within each seed."""
    rows = []
    for row, by_seed in measured.items():
        for metric in FIGURES:
            values = {seed: figures[metric] for seed, figures in by_seed.items() if metric in figures}
            if not values:
                continue
            base = {seed: figures.get(metric) for seed, figures in measured[DEFAULT].items()}
            rows.append((log, row, metric, *spread(list(values.values())), " ".join(map(str, values)), commit()))
            paired = [value - base[seed] for seed, value in values.items()]  # type: ignore[operator]
            if row != DEFAULT:
                name = f"diff_default/{metric}"
                rows.append((log, row, name, *spread(paired), " ".join(map(str, values)), commit()))
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row")


def spread(values: list[float]) -> tuple[float, float | None, float | None, float | None]:
    """Mean, standard deviation and 95 % interval over seeds."""
    value_S = np.array(values)
    if len(values) == 1:
        return values[0], None, None, None
    estimate = CrossedBootstrap(users=1).over_seeds(value_S, np.tile(value_S, (2000, 1)))
    return estimate.value, float(value_S.std(ddof=1)), *estimate.interval()


if __name__ == "__main__":
    main()
