"""Train our recommender in turns, by `recalign fit`: a line as users type it, and a callback that holds it still.

    python -m benchmarks.peers.recalign_hstu WORDS...

WORDS are those of `recalign`, as `line` gives them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import recalign
from benchmarks.peers.turns import Turns
from recalign.cli import main
from recalign.data.sequences import Batch
from recalign.data.sequences.sampler import bucket_of
from recalign.data.sequences.splits import TRAIN
from recalign.files import atomic_write

CONF = Path(__file__).parents[2] / "conf"
LEAVE_ONE_OUT = '{"class_path": "recalign.data.sequences.LeaveLast", "init_args": {"test": 1, "validation": 1}}'


class Pace(Callback):
    """Ends each step with `Turns`.

    Args:
        users: histories of a batch, on average over an epoch: sets the token budget. Null: the configuration's budget.
        warm_up: seconds of the first turn, at least.
        events: where to write the training events for the peers, an .npz of int64 arrays user, item, timestamp.
    """

    def __init__(self, users: int | None = None, warm_up: float = 5.0, events: str | None = None) -> None:
        self.users, self.warm_up, self.events = users, warm_up, events

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.users:
            data.batch_tokens = round(self.users * bucket_of(data.training().length, data.max_length).mean())
        if self.events:
            frame = data.sequences.frame.filter(pl.col("split") == TRAIN)  # what we train on, no more and no less
            arrays = {name: frame[name].cast(pl.Int64).to_numpy() for name in ("user", "item", "timestamp")}
            with atomic_write(Path(self.events)) as path, path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cuda = torch.cuda if trainer.strategy.root_device.type == "cuda" else None
        self.turns = Turns(f"recalign {recalign.__version__}, torch {torch.__version__}", self.warm_up, cuda)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.turns.step(len(batch.target_T), batch.item_BL.numel(), len(batch.user_B))


def line(log: str, root: Path, runs: Path, pace: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Words of `recalign fit` on a log (a name in conf/logs, or a YAML file), without validation, with `Pace`."""
    yaml = Path(log) if log.endswith(".yaml") else CONF / "logs" / f"{log}.yaml"
    return [
        "fit",
        f"--config={CONF / 'stages/recommender.yaml'}",
        f"--config={yaml}",
        f"--data.root={root}",
        f"--data.split={LEAVE_ONE_OUT}",
        f"--run.root={runs}",
        "--trainer.max_epochs=-1",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.check_val_every_n_epoch=1000000",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks+=benchmarks.peers.recalign_hstu.Pace",
        *(f"--trainer.callbacks.{name}={value}" for name, value in pace.items()),
        *words,
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
