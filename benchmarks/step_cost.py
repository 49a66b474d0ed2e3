"""What a training step of each post-training method costs, relative to one of behaviour cloning.

    python benchmarks/step_cost.py [--methods asft dpo ...] [--log simulated] [--rounds 7] [--runs runs]

Every method starts from the same policy (one epoch of cloning: what a step costs does not depend on how good the policy
is) and trains for an epoch a round, the methods taking turns, the first round not counted. A round's figure is the
median of its steps, a method's the median of its rounds: milliseconds, and their ratio to those of `bc` in the same
round. A step is what the Trainer does between getting a batch and asking for the next; what a method prepares once
before training is not in it.

Prints the table and saves it to benchmarks/results/step_cost.csv (ci_low and ci_high: the least and the largest round).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median, stdev
from typing import Any

import polars as pl
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tables import commit, save

from recalign.simulation import World, simulate, write
from recalign.stage import run_stage
from recalign.stage.console import quiet

CONF = Path(__file__).parents[1] / "conf"
REFERENCE = "bc"
Stage = tuple[LightningModule, LightningDataModule]


class Clock(Callback):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, list[float]()

    def on_train_batch_start(self, *args: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["asft", *sorted(path.stem for path in (CONF / "posttrain").glob("*.yaml"))]
    parser.add_argument("--methods", nargs="+", default=every)
    parser.add_argument("--log", default="simulated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    names = [REFERENCE, *(name for name in arguments.methods if name != REFERENCE)]
    stages = prepare(names, arguments.log, arguments.runs)
    rounds = [{name: step_of(stages[name]) for name in names} for _ in range(arguments.rounds + 1)][1:]
    rows = pl.DataFrame([r for name in names for r in rows_of(name, rounds, arguments.log)])
    print(f"\n{torch.get_num_threads()} threads, log {arguments.log}, {arguments.rounds} rounds\n")
    print(table(rows))
    print(f"\n{save(rows, 'step_cost')}")


def prepare(names: list[str], log: str, runs: Path, recommender: str = "recommender", *own: str) -> dict[str, Stage]:
    """Each method's module and data, and, where they are missing, the policy and the reward model that they read.

    The policy is that of a recipe of conf/, with some words of its ``own``.
    """
    chain = f"step-cost-{recommender}"
    common = ["--config", str(CONF / "data" / f"{log}.yaml"), f"--run.root={runs}", f"--run.chain={chain}"]
    common += ["--trainer.enable_progress_bar=false"]
    if log == "simulated":
        world = runs / "worlds" / "0"
        if not (world / "simulated").exists():
            write(simulate(World()), world)
        common.append(f"--data.root={world}")
    for stage, recipe, words in (("recommender", recommender, own), ("reward", "reward", ())):
        if not (runs / chain / stage).exists():
            run_stage(["fit", "--config", str(CONF / f"{recipe}.yaml"), *common, *words, "--trainer.max_epochs=1"])
    stages = {}
    for name in names:
        yaml = CONF / "asft.yaml" if name == "asft" else CONF / "posttrain" / f"{name}.yaml"
        result = run_stage(["fit", "--config", str(yaml), *common, "--trainer.fast_dev_run=1"])
        stages[name] = result.model, result.datamodule
    return stages


def step_of(stage: Stage) -> float:
    """Milliseconds a step, the median of an epoch."""
    clock = Clock()
    off: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    off |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    module, data = stage
    with quiet():
        Trainer(max_epochs=1, accelerator="cpu", devices=1, callbacks=[clock], **off).fit(module, data)
    return 1000 * median(clock.seconds)


def rows_of(name: str, rounds: list[dict[str, float]], log: str) -> list[dict[str, Any]]:
    figures = {
        "cost/step_ms": [r[name] for r in rounds],
        "cost/step_relative": [r[name] / r[REFERENCE] for r in rounds],
    }
    common = {"log": log, "row": name, "seeds": "0", "commit": commit()}
    return [
        common | {"metric": k, "mean": median(v), "sd": stdev(v), "ci_low": min(v), "ci_high": max(v)}
        for k, v in figures.items()
    ]


def table(rows: pl.DataFrame) -> str:
    lines = ["| method | ms a step | times bc (least .. largest round) |", "|---|---|---|"]
    cells = {(r["row"], r["metric"]): r for r in rows.iter_rows(named=True)}
    for name in rows["row"].unique(maintain_order=True):
        ms, times = cells[name, "cost/step_ms"], cells[name, "cost/step_relative"]
        spread = f"{times['ci_low']:.2f} .. {times['ci_high']:.2f}"
        lines.append(f"| `{name}` | {ms['mean']:.1f} | {times['mean']:.2f} ({spread}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
