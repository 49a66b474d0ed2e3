"""The best unseen items of each user as a table: the output of `recalign predict` and `recalign recommend`.

`recalign.serve.server.Bundle.recommend` needs no torch: it runs an exported graph on given histories, without a log.
This module needs no export. Export verifies for every bundle that both give the same items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from recalign.data.events import data_root, read_titles
from recalign.data.events.messages import did_you_mean
from recalign.data.sequences import EventDataModule
from recalign.distributed import all_gather_rows
from recalign.errors import InputError
from recalign.files import write_parquet
from recalign.recommender.policy import Policy

RECOMMENDATIONS = "recommendations.parquet"


class RecommendationsWriter(BasePredictionWriter):
    """Write the results of `PolicyModule.predict_step` to ``recommendations.parquet`` in ``default_root_dir``.

    Writes nothing without a log (`StageModule.bind`), which has the raw ids, or in a ``fast_dev_run``.
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


@torch.no_grad()
def recommend(
    policy: Policy, data: EventDataModule, users: Sequence[int | str] | None = None, k: int = 10
) -> pl.DataFrame:
    """The best unseen items of some users after the log's end.

    Args:
        policy: trained on this log.
        data: the log.
        users: raw ids; None: all users.
        k: items per user, or all if they are fewer.

    Returns:
        One row per user and rank, with the columns of `recommendations`; requested users stay in their order. A
        requested user without an event of a catalogue item gets one row, null except for the user.

    Raises:
        InputError: the log lacks a user, or k is below 1.
    """
    if k < 1:
        raise InputError(f"{k!r} is not above 0", where="k", remedy="give a whole number above 0")
    known, k = data.sequences.users, min(k, policy.num_items)
    asked = known if users is None else require_users(users, known)
    parts = [(torch.empty(0, dtype=torch.long), torch.empty(0, k), torch.empty(0, k, dtype=torch.long))]
    for batch in data.preparation.serving_loader(known.is_in(asked.implode()).to_numpy()):
        there = batch.to(next(policy.parameters()).device)
        score_TK, item_TK = policy.top_k(policy.encode(there), k, there.seen_N)
        parts.append((batch.user_B[batch.row_T], score_TK.cpu(), item_TK.cpu()))
    user_T, score_TK, item_TK = (torch.cat(column) for column in zip(*parts, strict=True))
    frame = recommendations(user_T, score_TK, item_TK, data)
    if users is None:
        return frame
    return asked.alias("user").to_frame().join(frame, on="user", how="left", maintain_order="left_right")


def recommendations(user_T: Tensor, score_TK: Tensor, item_TK: Tensor, data: EventDataModule) -> pl.DataFrame:
    """A table of recommendations, one row per user and rank.

    Columns: ``user`` (raw id), ``rank`` (1 = best), ``item`` (raw id), ``score`` (log-probability up to a constant),
    and ``title`` if the log has titles.
    """
    columns = {
        "user": user_T[:, None].expand_as(item_TK),
        "rank": torch.arange(1, item_TK.shape[1] + 1).expand_as(item_TK),
        "item": item_TK,
        "score": score_TK.float(),
    }
    flat = pl.DataFrame({name: column.flatten().numpy() for name, column in columns.items()})
    flat = flat.filter(pl.col("item") > 0).sort("user", maintain_order=True)
    user, item = data.sequences.users.gather(flat["user"]), flat["item"] - 1
    titled = data.log_.items and data.log_.items.title
    titles = read_titles(data.log_, data_root(data.root), data.sequences.items)[0]
    title = [titles.gather(item).alias("title")] if titled else []
    return flat.with_columns(user.alias("user"), data.sequences.items.gather(item).alias("item"), *title)


def require_users(users: Iterable[int | str], known: pl.Series) -> pl.Series:
    """Convert user ids to the log's type; an InputError if not a list, empty, or with an unknown user."""
    if isinstance(users, str | int) or not (users := list(users)):
        raise InputError(f"{users!r} is not a list of users", where="users", remedy="give raw ids: ['anna']")
    text = pl.Series([str(user) for user in users], dtype=pl.String)
    asked = text.cast(known.dtype, strict=False)
    if (unknown := ~asked.is_in(known.implode()).fill_null(False)).any():
        first = text.filter(unknown)[0]
        remedy = did_you_mean(first, known.cast(pl.String))
        raise InputError(f"the log has no user {first!r}", where="users", remedy=remedy)
    return asked
