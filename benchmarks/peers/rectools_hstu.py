"""Train RecTools' HSTU in turns, by its own `fit`: its preprocessing, DataLoader and Lightning module.

    python -m benchmarks.peers.rectools_hstu EVENTS.npz [--precision bf16-mixed] [--compile] ...

EVENTS.npz holds int64 arrays user, item, timestamp: the training events, in order. The settings are those of RecTools'
HSTU tutorial (https://rectools.readthedocs.io), with the full softmax in place of 128 sampled negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools import __version__ as version
from rectools.dataset import Dataset
from rectools.models import HSTUModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet

from benchmarks.peers.turns import Turns, peer_options


class Pace(pl.Callback):
    """Ends each step with `Turns`; compiles the network and its loss before the first where that is asked for."""

    def __init__(self, compiled: bool, warm_up: float) -> None:
        self.compiled, self.warm_up = compiled, warm_up

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        cuda = torch.cuda if trainer.strategy.root_device.type == "cuda" else None
        self.turns = Turns(f"rectools {version}, torch {torch.__version__}", self.warm_up, cuda)
        if self.compiled:
            module.torch_model.compile()
            module.loss_calculator = torch.compile(module.loss_calculator)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        target_BL = batch["y"]
        self.turns.step(int((target_BL != 0).sum()), target_BL.numel(), len(target_BL))


def trainer(accelerator: str, precision: Any, compiled: bool, warm_up: float) -> pl.Trainer:
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_epochs=-1,
        callbacks=[Pace(compiled, warm_up)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    arguments = peer_options(__doc__)
    with np.load(arguments.events) as events:
        log = pd.DataFrame(
            {
                Columns.User: events["user"],
                Columns.Item: events["item"],
                Columns.Weight: 1,
                Columns.Datetime: pd.to_datetime(events["timestamp"], unit="s"),
            }
        )
    pl.seed_everything(0)
    model = HSTUModel(
        session_max_len=arguments.length,
        n_factors=50,
        n_blocks=2,
        n_heads=1,
        dropout_rate=0.2,
        lr=1e-3,
        loss="softmax",
        lightning_module_kwargs={"logits_t": 0.05},
        item_net_block_types=(IdEmbeddingsItemNet,),
        batch_size=arguments.users,
        get_trainer_func=trainer,
        get_trainer_func_kwargs={
            "accelerator": arguments.accelerator,
            "precision": arguments.precision,
            "compiled": arguments.compile,
            "warm_up": arguments.warm_up,
        },
    )
    model.fit(Dataset.construct(log))


if __name__ == "__main__":
    main()
