"""How fast OneRec is beside HSTU, in alternating turns: training, scoring the catalogue, and a step of A-SFT.

    python benchmarks/onerec_speed.py [--rounds 5] [--runs DIR]

Training: real events (targets) a second of cloning ML-100K, by the recipes of conf/ with random codes. Scoring: CPU
seconds for log pi of every item before 1,000 test targets of ML-1M, exact, with untrained weights, which cost what
trained ones do. A-SFT: its step over one of `bc`, on OneRec. What a step costs does not depend on how good a policy is,
so the policy that post-training starts from has one epoch. The first turn of each is not counted.

ML-1M has to lie under RECALIGN_DATA. Prints the rows and saves them to benchmarks/results/onerec_speed.csv.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median, stdev

import polars as pl
import torch
from step_cost import CONF, Stage, prepare, step_of
from tables import SCHEMA, commit, save

from recalign.recommender import Policy
from recalign.sequences import EventDataModule
from recalign.stage import run_stage

TARGETS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/onerec-speed"))
    given = parser.parse_args()
    rows: list[tuple[object, ...]] = []

    def add(log: str, metric: str, turns: list[dict[str, float]]) -> None:
        for row in turns[0]:
            values = [turn[row] for turn in turns]
            rows.append((log, row, metric, median(values), stdev(values), min(values), max(values), "0", commit()))
            print(f"{log}, {row}: {metric} {median(values):.3g} ({min(values):.3g} .. {max(values):.3g})", flush=True)

    stages = {name: built(words, "ml-100k") for name, words in policies([64, 32]).items()}
    events = [{name: events_a_second(stage) for name, stage in stages.items()} for _ in range(given.rounds + 1)][1:]
    add("ml-100k", "train/events_per_second", events)
    add("ml-100k", "train/of_hstu", [{name: turn[name] / turn["hstu"] for name in turn} for turn in events])
    stages = {name: built(words, "ml-1m-leave-last") for name, words in policies([128, 32]).items()}
    scored = [{name: scoring(stage) for name, stage in stages.items()} for _ in range(given.rounds + 1)][1:]
    add("ml-1m-leave-last", f"score/cpu_s_of_{TARGETS}", scored)
    methods = prepare(["bc", "asft"], "ml-100k", given.runs, "recommender-onerec", "--model.sizes=[64, 32]")
    steps = [{name: step_of(stage) for name, stage in methods.items()} for _ in range(given.rounds + 1)][1:]
    add("ml-100k", "asft/step_of_bc", [{"onerec/node": turn["asft"] / turn["bc"]} for turn in steps])
    types = [pl.String] * 3 + [pl.Float64] * 4 + [pl.String] * 2
    print(save(pl.DataFrame(rows, schema=dict(zip(SCHEMA, types, strict=True)), orient="row"), "onerec_speed"))


def policies(sizes: list[int]) -> dict[str, list[str]]:
    """The words that make each policy."""
    onerec = ["--config", str(CONF / "recommender-onerec.yaml"), f"--model.sizes={sizes}"]
    heads = {f"onerec/{head}": [*onerec, f"--model.head={head}"] for head in ("shared", "node")}
    return {"hstu": ["--config", str(CONF / "recommender.yaml")]} | heads


def built(words: list[str], log: str) -> Stage:
    result = run_stage(["fit", *words, f"--config={CONF / 'data' / log}.yaml", "--trainer.fast_dev_run=1"])
    return result.model, result.datamodule


def events_a_second(stage: Stage) -> float:
    data = stage[1]
    assert isinstance(data, EventDataModule)
    batches = list(data.train_dataloader())
    events = sum(len(batch.target_T) for batch in batches) / len(batches)
    return 1000 * events / step_of(stage)


@torch.no_grad()
def scoring(stage: Stage) -> float:
    """CPU seconds for the log-probabilities of all items before `TARGETS` test targets."""
    policy, data = stage[0].policy, stage[1]
    assert isinstance(policy, Policy)
    assert isinstance(data, EventDataModule)
    policy.eval()
    targets, seconds = 0, 0.0
    for batch in data.test_dataloader():
        began = time.process_time()
        policy.log_probs(policy.encode(batch))
        seconds += time.process_time() - began
        if (targets := targets + len(batch.target_T)) >= TARGETS:
            break
    return seconds * TARGETS / targets


if __name__ == "__main__":
    main()
