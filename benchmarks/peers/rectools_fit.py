"""RecTools' own HSTU or SASRec on a log, by its tutorial's recipe, ranked over the whole catalogue.

    python -m peers.rectools_fit EVENTS.npz --model HSTUModel --out FOLDER [--seed 42] [--epochs 100]

`peer_fit.py` calls it. EVENTS.npz holds int64 arrays user, item, timestamp: the whole log, in order. The last event of
each user is the test, the one before it validation. The recipe, and the rule by which the epoch is chosen, are those of
the HSTU tutorial (https://rectools.readthedocs.io): 128 sampled negatives, temperature 0.05, d 50, 2 blocks, 1 head,
dropout 0.2, Adam 1e-3, 128 users a batch, 100 epochs, and the weights of the epoch with the best recall@10 on
validation, seen items left out.

A run that was stopped goes on from its last whole epoch when the line is given again. FOLDER/rows.csv holds
``row,metric,value,seed``: hr@k and ndcg@k for k 10, 50 and 200, mrr, the chosen epoch and the seconds an epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import rectools.models
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from rectools import Columns
from rectools.dataset import Dataset
from rectools.dataset.context import get_context
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.utils import leave_one_out_mask

from peers import rectools_products
from peers.rectools_products import Products

KS = (10, 50, 200)
CHUNK = 500  # users whose whole rankings are held at once


class Recall(pl.Callback):
    """Logs recall@10 on validation: seen items left out, one target a user. Notes what an epoch takes."""

    def __init__(self) -> None:
        self.hits: list[torch.Tensor] = []
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.began = time.perf_counter()

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        network = module.torch_model
        state_BD = network.encode_sessions(batch, module.item_embs)[:, -1]
        score_BV = network.similarity_module(state_BD, module.item_embs)
        score_BV = score_BV.scatter(1, batch["x"], -torch.inf)  # what was seen, and padding
        self.hits.append((score_BV.topk(10).indices == batch["y"]).any(dim=1))

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        module.log("recall@10", torch.cat(self.hits).float().mean())
        self.hits.clear()
        if not trainer.sanity_checking:
            self.seconds.append(time.perf_counter() - self.began)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]


def trainer(out: str, epochs: int, accelerator: str) -> pl.Trainer:
    best = ModelCheckpoint(out, "best", monitor="recall@10", mode="max", enable_version_counter=False)
    last = ModelCheckpoint(out, "last", enable_version_counter=False)  # `save_last` writes with the best one only
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        min_epochs=epochs,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        callbacks=[Recall(), best, last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def build(kind: str, out: Path, epochs: int, accelerator: str) -> Any:
    """The model with the tutorial's settings."""
    return getattr(rectools.models, kind)(
        session_max_len=200,
        n_factors=50,
        n_blocks=2,
        n_heads=1,
        dropout_rate=0.2,
        lr=1e-3,
        batch_size=128,
        loss="sampled_softmax",
        n_negatives=128,
        lightning_module_kwargs={"logits_t": 0.05},
        # HSTUModel's own default; the temperature is made for cosines, so SASRecModel gets them too
        similarity_module_kwargs={"distance": "cosine"},
        similarity_module_type=Products,  # the same numbers, several times as fast
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_val_mask_func=leave_one_out_mask,
        get_trainer_func=trainer,
        get_trainer_func_kwargs={"out": str(out), "epochs": epochs, "accelerator": accelerator},
    )


def train(model: Any, dataset: Dataset, out: Path) -> None:
    """`model.fit`, which cannot continue a run: build as it does, and hand Lightning the last checkpoint."""
    model._build_model_from_dataset(dataset)
    model.fit_trainer = model._trainer
    loaders = model.data_preparator.get_dataloader_train(), model.data_preparator.get_dataloader_val()
    last = out / "last.ckpt"
    if last.exists():
        model.lightning_model.is_fitted = True  # or its weights would be drawn anew
    model.fit_trainer.fit(model.lightning_model, *loaders, ckpt_path=last if last.exists() else None)
    model.is_fitted = True


def ranks(model: Any, dataset: Dataset, test: pd.DataFrame) -> np.ndarray:
    """Rank of each test item among all that its user had not seen; infinite where it was in no training row."""
    parts = []
    for first in range(0, len(test), CHUNK):
        some = test.iloc[first : first + CHUNK]
        known = {}
        if model.require_recommend_context:  # HSTU sees when the test event happens
            known["context"] = get_context(some[[Columns.User, Columns.Datetime]])
        users, items = some[Columns.User].to_numpy(), dataset.item_id_map.size
        shown = model.recommend(users, dataset, k=items, filter_viewed=True, **known)
        parts.append(some.merge(shown, on=[Columns.User, Columns.Item], how="left")[Columns.Rank])
    return pd.concat(parts).fillna(np.inf).to_numpy()


def metrics(rank_T: np.ndarray) -> dict[str, float]:
    """HR, NDCG with one relevant item, and MRR."""
    gain_T = 1 / np.log2(rank_T + 1)
    found = {f"hr@{k}": float((rank_T <= k).mean()) for k in KS}
    found |= {f"ndcg@{k}": float(np.where(rank_T <= k, gain_T, 0).mean()) for k in KS}
    return {**found, "mrr": float((1 / rank_T).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("--model", required=True, choices=["HSTUModel", "SASRecModel"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=42, help="42 is the tutorial's")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--users", type=int, help="the first so many users alone, to try the program")
    parser.add_argument("--accelerator", default="cpu")
    arguments = parser.parse_args()
    rectools_products.check()
    log, test = read(arguments.events, arguments.users)
    dataset = Dataset.construct(log)
    pl.seed_everything(arguments.seed, workers=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = build(arguments.model, arguments.out, arguments.epochs, arguments.accelerator)
    train(model, dataset, arguments.out)
    recall, best = model.fit_trainer.callbacks[0], torch.load(arguments.out / "best.ckpt", weights_only=False)
    model.lightning_model.load_state_dict(best["state_dict"])
    figures = metrics(ranks(model, dataset, test))
    figures |= {"epoch": best["epoch"] + 1, "seconds_an_epoch": float(np.median(recall.seconds))}
    row = f"rectools-{arguments.model.removesuffix('Model').lower()}"
    write(arguments.out / "rows.csv", row, figures, arguments.seed)
    print(json.dumps(figures))


def read(path: Path, users: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events to train and validate on, and the last event of each user."""
    with np.load(path) as events:
        frame = pd.DataFrame(
            {
                Columns.User: events["user"],
                Columns.Item: events["item"],
                Columns.Weight: 1,
                Columns.Datetime: pd.to_datetime(events["timestamp"], unit="s"),
            }
        )
    if users:
        frame = frame[frame[Columns.User].isin(frame[Columns.User].unique()[:users])].reset_index(drop=True)
    last = ~frame.duplicated(Columns.User, keep="last")
    return frame[~last].reset_index(drop=True), frame[last].reset_index(drop=True)


def write(path: Path, row: str, figures: dict[str, float], seed: int) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "metric", "value", "seed"])
        writer.writerows([row, metric, value, seed] for metric, value in figures.items())
    os.replace(partial, path)


if __name__ == "__main__":
    main()
