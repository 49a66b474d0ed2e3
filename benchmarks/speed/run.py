"""How fast training, preparing and answering are, in a minute, as ratios to a matrix product on the same machine.

    python -m benchmarks.speed.run [--rounds 5]

Training counts real events of the recommender on the simulated log, preparing those of a random log of half a million
rows, answering the requests, of 200 events each, to an untrained bundle of ML-1M's size. All of it runs in this process
on one thread. Before and after each piece of work comes a product of two matrices: the ratio, in events or answers a
product, hardly depends on what else the machine does, or on how fast it is. A figure is the median of the rounds.

Prints the table beside the ratios of the commit that was saved last, names what has fallen by a quarter, and saves the
commit's rows to benchmarks/speed/rows.csv.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks.lib import by_metric, commit, lines, middle, options, save, saved
from benchmarks.scale.preprocessing import generate
from benchmarks.serving.run import requests, untrained
from recalign.data.events import LogMapping
from recalign.data.sequences import Batch, EventDataModule, TimeSplit
from recalign.data.sequences.prepare import prepare
from recalign.data.simulation import World, simulate, write
from recalign.recommender import Recommender, RecommenderData
from recalign.run.stage.console import quiet
from recalign.serve.server import Bundle

LOG, FELL = "simulated", 0.75
QUIET: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
Work = Callable[[], float]
"""Does some work. Returns: how many events or answers it was."""


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        work = works(Path(folder))
        for one in work.values():
            one()  # the first time of everything is slower
        measured = [{name: measure(one) for name, one in work.items()} for _ in range(rounds)]
    rows = pl.concat(
        lines(LOG, name, by_metric([one[name] for one in measured]), [rounds], middle) for name in measured[0]
    )
    print(beside(rows, saved("speed/rows").filter(pl.col("commit") != commit())))
    print(save(rows, "speed/rows", "row", "metric", "commit"))


def measure(work: Work) -> dict[str, float]:
    """Events or answers a second, and a product."""
    before = products()
    began = time.perf_counter()
    rate = work() / (time.perf_counter() - began)
    return {"a second": rate, "a product": 2 * rate / (before + products())}


def products(size: int = 768, count: int = 30) -> float:
    """Matrix products a second."""
    a_NN = torch.ones(size, size)
    began = time.perf_counter()
    for _ in range(count):
        a_NN @ a_NN
    return count / (time.perf_counter() - began)


def works(folder: Path) -> dict[str, Work]:
    """What is measured."""
    write(simulate(World()), folder)
    mapping = LogMapping(LOG, ["simulated/events.parquet"])
    data = RecommenderData(mapping, "reward", None, TimeSplit(), str(folder), cache=False)
    generate(folder / "random.parquet", 500_000)
    untrained("HSTU", 1_700, folder / "bundle")
    bundle = Bundle(folder / "bundle")
    asked = requests(bundle, 200)

    def training() -> float:
        counted = Counted()
        trainer = Trainer(accelerator="cpu", max_epochs=3, limit_val_batches=0, callbacks=[counted], **QUIET)
        trainer.fit(Recommender(data.num_items, prior=False), data)
        return counted.events

    def preparing() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            log = LogMapping("random", ["random.parquet"])
            prepared = EventDataModule(log, "rating", None, TimeSplit(), str(folder), cache=cache)
            prepare(prepared)
            return 500_000

    def answering() -> float:
        for one in asked:
            bundle.recommend(one)
        return len(asked)

    return {"training": training, "preparing": preparing, "answering": answering}


class Counted(Callback):
    """Counts the events that are trained on."""

    events = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, out: Any, batch: Batch, n: int) -> None:
        self.events += len(batch.target_T)


def beside(rows: pl.DataFrame, earlier: pl.DataFrame) -> str:
    """The rows as text, each beside the one that was saved last, with a word where it fell by a quarter."""
    last = earlier.group_by("row", "metric", maintain_order=True).last()
    known = {(one["row"], one["metric"]): one for one in last.iter_rows(named=True)}
    said = []
    for one in rows.iter_rows(named=True):
        text = f"{one['row']:<10} {one['mean']:>12,.1f} {one['metric']:<9}"
        before = known.get((one["row"], one["metric"]))
        if before and one["metric"] == "a product":
            fell = "  FELL" * (one["mean"] < FELL * before["mean"])
            text += f" ({one['mean'] / before['mean']:.0%} of {before['mean']:,.1f} at {before['commit']}){fell}"
        said.append(text)
    return "\n".join(said)


if __name__ == "__main__":
    main()
