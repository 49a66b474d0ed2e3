"""Recommend after the log's end, with a policy in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

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
    items = None
    if codes is not None:
        policy, items = with_new_items(policy, codes, data.sequences.items)
    k, parts = min(k, policy.num_items), []
    for batch in data.loader(serving_windows(data.sequences, users, data.max_length)):
        if as_list:
            score_TK, item_TK = generate_list(policy, batch, k, data.max_length)
        else:
            score_TK, item_TK = policy.top_k(policy.encode(batch), k, batch.seen_N)
        parts.append((batch.user_B[batch.row_T], score_TK, item_TK))
    user_T, score_TK, item_TK = (torch.cat(column) for column in zip(*parts, strict=True))
    return recommendations(user_T, score_TK, item_TK, data, items)
