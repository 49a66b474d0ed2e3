"""How fast RecTools answers: its HSTU's own `recommend`, which takes a data set of histories. It has no other way out.

    python -m benchmarks.peers.rectools_serving --items 1700 --length 200 --clients 1 8 64 --repeats 20

Random histories, in which every item occurs, and weights after one step: speed does not depend on them. Prints a line
of JSON: versions, and for each number of users the milliseconds of the fastest call.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools import __version__ as version
from rectools.dataset import Dataset
from rectools.dataset.context import get_context
from rectools.models import HSTUModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet


def histories(items: int, length: int, users: int) -> pd.DataFrame:
    """As many users as it takes for every item to occur, each with so many events."""
    random, users = np.random.default_rng(0), max(users, -(-items // length))
    item = np.concatenate([random.permutation(items), random.integers(items, size=users * length - items)])
    gap = random.exponential(3600, (users, length)).cumsum(axis=1).ravel()
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(users), length),
            Columns.Item: item,
            Columns.Weight: 1,
            Columns.Datetime: pd.to_datetime(1_700_000_000 + gap.astype(int), unit="s"),
        }
    )


def trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pl.seed_everything(0)
    dataset = Dataset.construct(histories(given.items, given.length, max(given.clients)))
    settings: dict[str, Any] = {"loss": "BCE", "n_negatives": 1, "item_net_block_types": (IdEmbeddingsItemNet,)}
    model = HSTUModel(
        session_max_len=given.length, n_factors=50, n_blocks=2, n_heads=1, get_trainer_func=trainer, **settings
    )
    model.fit(dataset)
    found, now = {}, pd.Timestamp("2100-01-01")
    for clients in given.clients:
        users, taken = np.arange(clients), []
        context = get_context(pd.DataFrame({Columns.User: users, Columns.Datetime: now}))  # when each of them asks
        for _ in range(given.repeats):
            began = time.perf_counter()
            model.recommend(users=users, dataset=dataset, k=10, filter_viewed=True, context=context)
            taken.append(time.perf_counter() - began)
        found[clients] = min(taken) * 1000
    print(json.dumps({"versions": f"rectools {version}, torch {torch.__version__}", "ms": found}))


if __name__ == "__main__":
    main()
