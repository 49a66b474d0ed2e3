"""What a reward model costs: scoring pairs with the encoder's states reused, and five members against one in training.

    python benchmarks/reward_speed.py [--root data] [--threads 2] [--pairs 1000000] [--steps 30]

On ML-1M. Scoring: one pass of the encoder over the histories of the validation part, then a hundred candidates for each
of its states, until there are as many pairs as asked for; states included. Training: the time of a step (forward,
backward, optimiser) on the same batches. Both in turns, after a warm-up, so that what else the machine does hits one
member and five alike.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
import yaml
from tables import commit, save

from recalign.events import LogMapping
from recalign.nn import HSTU
from recalign.recommender.training import adamw
from recalign.reward import RewardData, RewardModel
from recalign.sequences import TimeSplit

CANDIDATES = 100
TURNS = 5
MEMBERS = {"one member": 1, "five members": 5}
CONF = Path(__file__).parents[1] / "conf" / "data" / "ml-1m.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    log = LogMapping(**yaml.safe_load(CONF.read_text())["data"]["log"])
    root = str(arguments.root) if arguments.root else None
    data = RewardData(log=log, root=root, split=TimeSplit((0.8, 0.9)), users="A", batch_tokens=3200)
    scoring = scored(data, arguments.pairs)
    steps = training(data, arguments.steps)
    rows = [
        row(name, metric, seconds[name])
        for metric, seconds in (("seconds/pairs", scoring), ("seconds/step", steps))
        for name in seconds
    ]
    ratio = [five / one for one, five in zip(steps["one member"], steps["five members"], strict=True)]
    rows.append(row("five to one", "ratio/step", ratio))
    table = pl.DataFrame(rows).with_columns(pl.lit(commit()).alias("commit"))
    print(table.select("row", "metric", "mean", "sd"))
    print(save(table, "reward_speed"))


def model(data: RewardData, members: int) -> RewardModel:
    return RewardModel(data.num_items, encoder=HSTU(dim=50, layers=2, max_length=200, dropout=0.2), members=members)


@torch.no_grad()
def scored(data: RewardData, pairs: int) -> dict[str, list[float]]:
    """Seconds to score so many (history, item) pairs in each turn, with one member and with five."""
    seconds: dict[str, list[float]] = {name: [] for name in MEMBERS}
    rewards = {name: model(data, members).reward.eval() for name, members in MEMBERS.items()}
    for turn in range(TURNS + 1):
        for name, reward in rewards.items():
            batches, began, done = iter(data.loader(data.windows("validation"), seen=False)), time.perf_counter(), 0
            while done < pairs:
                states = reward.states(next(batches))
                item_TC = torch.randint(1, data.num_items + 1, (states.shape[1], CANDIDATES))
                done += reward.predict(states, item_TC).numel()
            if turn:  # the first is the warm-up
                seconds[name].append((time.perf_counter() - began) * pairs / done)
    return seconds


def training(data: RewardData, steps: int) -> dict[str, list[float]]:
    """Seconds a step of each turn, with one member and with five, on the same batches in turns."""
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(steps), strict=False)]
    seconds: dict[str, list[float]] = {name: [] for name in MEMBERS}
    steppers = {name: Stepper(data, members) for name, members in MEMBERS.items()}
    for turn in range(TURNS + 1):
        for name, stepper in steppers.items():
            began = time.perf_counter()
            for batch in batches:
                stepper(batch)
            if turn:  # the first is the warm-up
                seconds[name].append((time.perf_counter() - began) / len(batches))
    return seconds


class Stepper:
    """A training step without a Trainer around it."""

    def __init__(self, data: RewardData, members: int) -> None:
        self.module = model(data, members)
        self.module.calibrate(data)
        self.module.initialise_from_factorization(data)
        self.seed = data.seed
        self.optimizer = adamw(self.module.reward, 1e-3, 0.1)

    def __call__(self, batch: object) -> None:
        self.optimizer.zero_grad()
        torch.stack(list(self.module.losses(batch, self.seed).values())).sum().backward()  # type: ignore[arg-type]
        self.optimizer.step()


def row(name: str, metric: str, values: list[float]) -> dict[str, object]:
    low, high = (float(np.quantile(values, q)) for q in (0, 1))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {
        "log": "ml-1m", "row": name, "metric": metric, "mean": float(np.mean(values)), "sd": sd,
        "ci_low": low, "ci_high": high, "seeds": "0",
    }  # fmt: skip


if __name__ == "__main__":
    main()
