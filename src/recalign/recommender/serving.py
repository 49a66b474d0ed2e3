"""Recommend after the log's end, with a policy in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.recommender.lists import generate_list
from recalign.recommender.new_items import with_new_items
from recalign.recommender.policy import Policy
from recalign.recommender.training import recommendations
from recalign.sequences import EventDataModule
from recalign.sequences.windows import serving_windows


@torch.no_grad()
def serve(
    policy: Policy,
    data: EventDataModule,
    users: np.ndarray,
    k: int,
    *,
    codes: str | Path | None = None,
    as_list: bool = False,
) -> pl.DataFrame:
    """The best unseen items of some users, a row a user and rank; columns of `recommendations`.

    Args:
        policy: trained on this log.
        users: whom. Shape: bool (users,).
        k: items a user, or all if they are fewer.
        codes: a file of semantic ids; the items that it has beyond the catalogue are recommended too.
        as_list: whether each item is chosen as if the user had chosen those before it (`generate_list`).
    """
    items, met_2N = None, torch.empty(2, 0, dtype=torch.long)
    if codes is not None:
        policy, items = with_new_items(policy, codes, data.sequences.items)
        met_2N = met_new_items(data, items)
    k, parts = min(k, policy.num_items), []
    for batch in data.loader(serving_windows(data.sequences, users, data.max_length)):
        user_T = batch.user_B[batch.row_T]
        own_2N = met_2N[:, torch.isin(met_2N[0], user_T)]
        target_N, place_N = (user_T[:, None] == own_2N[0]).nonzero(as_tuple=True)
        seen = [pairs for pairs in (batch.seen_N, torch.stack([target_N, own_2N[1, place_N]])) if pairs is not None]
        batch = dataclasses.replace(batch, seen_N=torch.cat(seen, dim=1))
        if as_list:
            score_TK, item_TK = generate_list(policy, batch, k, data.max_length)
        else:
            score_TK, item_TK = policy.top_k(policy.encode(batch), k, batch.seen_N)
        parts.append((batch.user_B[batch.row_T], score_TK, item_TK))
    user_T, score_TK, item_TK = (torch.cat(column) for column in zip(*parts, strict=True))
    return recommendations(user_T, score_TK, item_TK, data, items)


def met_new_items(data: EventDataModule, items: pl.Series) -> Tensor:
    """Which users have met which items beyond the catalogue, whose events no batch holds. The log is read again, whole.

    Args:
        items: raw ids, those of the catalogue first.

    Shape: -> int64 (2, N), pairs (user, item).
    """
    number = np.arange(1, len(items) + 1)
    item = data.table.items.replace_strict(items, number, default=0, return_dtype=pl.Int64)
    met = data.table.frame.select(pl.col("user").cast(pl.Int64), item=item.gather(data.table.frame["item"]))
    return torch.tensor(met.filter(pl.col("item") > data.num_items).unique().to_numpy().T)
