"""The best unseen items of each user as a table: the answer of `recalign predict` and `recalign recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from recalign.data.events import data_root, read_titles
from recalign.data.sequences import EventDataModule
from recalign.distributed import all_gather_rows
from recalign.files import write_parquet

RECOMMENDATIONS = "recommendations.parquet"


class RecommendationsWriter(BasePredictionWriter):
    """Write what `PolicyModule.predict_step` finds as ``recommendations.parquet`` into ``default_root_dir``.

    Without a log (`StageModule.bind`), nobody knows the raw ids, and nothing is written.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        if pl_module.datamodule is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        columns = (torch.cat(parts).to(pl_module.device) for parts in zip(*predictions, strict=True))
        user_T, score_TK, item_TK = (all_gather_rows(column).cpu() for column in columns)
        if not trainer.is_global_zero:
            return
        frame = recommendations(user_T, score_TK, item_TK, pl_module.datamodule)  # type: ignore[arg-type]
        path = Path(trainer.default_root_dir) / RECOMMENDATIONS
        write_parquet(frame, path)
        print(f"recommendations for {frame['user'].n_unique():,} users: {path}")


def recommendations(
    user_T: Tensor, score_TK: Tensor, item_TK: Tensor, data: EventDataModule, items: pl.Series | None = None
) -> pl.DataFrame:
    """A table of recommendations, one row a user and rank.

    Columns: ``user`` (raw id), ``rank`` (1 = best), ``item`` (raw id), ``score`` (log-probability up to a constant),
    and ``title`` if the log has titles. ``items`` are the raw ids of the items; None: the catalogue's.
    """
    columns = {
        "user": user_T[:, None].expand_as(item_TK),
        "rank": torch.arange(1, item_TK.shape[1] + 1).expand_as(item_TK),
        "item": item_TK,
        "score": score_TK.float(),
    }
    flat = pl.DataFrame({name: column.flatten().numpy() for name, column in columns.items()})
    flat = flat.filter(pl.col("item") > 0).sort("user", maintain_order=True)
    item = flat["item"] - 1
    titles = data.titles if items is None else read_titles(data.log_, data_root(data.root), items)[0]
    title = [titles.gather(item).alias("title")] if data.log_.items and data.log_.items.title else []
    items = data.sequences.items if items is None else items
    user = data.sequences.users.gather(flat["user"]).alias("user")
    return flat.with_columns(user, items.gather(item).alias("item"), *title)
