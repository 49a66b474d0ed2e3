"""Recommend after the log's end, with a policy in memory.

`recalign.serve.server.Bundle.recommend` answers from an exported graph without torch, and knows histories only, no log.
This needs no export, and does what has no graph: new items by their codes, policies and networks of one's own. Export
verifies on every bundle that both give the same items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.data.events.messages import did_you_mean
from recalign.data.sequences import Batch, EventDataModule
from recalign.errors import InputError
from recalign.recommender.new_items import with_new_items
from recalign.recommender.policy import Policy
from recalign.recommender.recommendations import recommendations


def recommend(
    policy: Policy,
    data: EventDataModule,
    users: Sequence[int | str] | None = None,
    k: int = 10,
    *,
    codes: str | Path | None = None,
) -> pl.DataFrame:
    """The best unseen items of some users after the log's end.

    Args:
        policy: trained on this log.
        data: the log.
        users: raw ids; None: everybody.
        k: items a user, or all if they are fewer.
        codes: a file of semantic ids; the items that it has beyond the catalogue are recommended too.

    Returns:
        A row a user and rank, users in the order in which they are asked for; columns of `recommendations`. Of a user
        who is asked for and has no event with an item of the catalogue, one row, null but for the user.

    Raises:
        InputError: a user that the log does not have, a k below 1, or codes that are not the policy's.
    """
    if k < 1:
        raise InputError(f"{k!r} is not above 0", where="k", remedy="give a whole number above 0")
    known = data.sequences.users
    asked = known if users is None else require_users(users, known)
    items, met_2N = None, torch.empty(2, 0, dtype=torch.long)
    if codes is not None:
        policy, items = with_new_items(policy, codes, data.sequences.items)
        met_2N = met_new_items(data, items)
    batches = data.serving_loader(known.is_in(asked.implode()).to_numpy())
    k = min(k, policy.num_items)
    nobody = torch.empty(0, dtype=torch.long), torch.empty(0, k), torch.empty(0, k, dtype=torch.long)
    parts = [nobody, *(_best(policy, batch, k, met_2N) for batch in batches)]
    user_T, score_TK, item_TK = (torch.cat(column) for column in zip(*parts, strict=True))
    frame = recommendations(user_T, score_TK, item_TK, data, items)
    if users is None:
        return frame
    return asked.alias("user").to_frame().join(frame, on="user", how="left", maintain_order="left_right")


@torch.no_grad()
def _best(policy: Policy, batch: Batch, k: int, met_2N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Users of a batch, and the scores and numbers of their best items; met_2N are pairs (user, item) left out too.

    Shape: -> int64 (T,), float (T, K), int64 (T, K), on the CPU
    """
    user_T, device = batch.user_B[batch.row_T], next(policy.parameters()).device
    own_2N = met_2N[:, torch.isin(met_2N[0], user_T)]
    target_N, place_N = (user_T[:, None] == own_2N[0]).nonzero(as_tuple=True)
    seen = [pairs for pairs in (batch.seen_N, torch.stack([target_N, own_2N[1, place_N]])) if pairs is not None]
    batch = dataclasses.replace(batch, seen_N=torch.cat(seen, dim=1)).to(device)
    score_TK, item_TK = policy.top_k(policy.encode(batch), k, batch.seen_N)
    return user_T, score_TK.cpu(), item_TK.cpu()


def require_users(users: Iterable[int | str], known: pl.Series) -> pl.Series:
    """The raw ids of some users, in the type that the log's have: text is read as the log would read it.

    Raises:
        InputError: it is no list, or the log has no such user.
    """
    if isinstance(users, str) or not (users := list(users)):
        raise InputError(f"{users!r} is not a list of users", where="users", remedy="give raw ids: ['anna']")
    text = pl.Series([str(user) for user in users], dtype=pl.String)
    asked = text.cast(known.dtype, strict=False)
    if (unknown := ~asked.is_in(known.implode()).fill_null(False)).any():
        first = text.filter(unknown)[0]
        remedy = did_you_mean(first, known.cast(pl.String))
        raise InputError(f"the log has no user {first!r}", where="users", remedy=remedy)
    return asked


def met_new_items(data: EventDataModule, items: pl.Series) -> Tensor:
    """Which users have met which items beyond the catalogue, whose events no batch holds. The log is read again, whole.

    Args:
        items: raw ids, those of the catalogue first.

    Shape: -> int64 (2, N), pairs (user, item).
    """
    number = np.arange(1, len(items) + 1)
    item = data.table.items.replace_strict(items, number, default=0, return_dtype=pl.Int64)
    table = data.earlier.continued(data.table) if data.earlier else data.table  # in the order of the users here
    met = table.frame.select(pl.col("user").cast(pl.Int64), item=item.gather(table.frame["item"]))
    return torch.tensor(met.filter(pl.col("item") > data.num_items).unique().to_numpy().T)
