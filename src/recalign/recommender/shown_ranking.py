"""Rank a request's items, chosen and skipped: AUC and NDCG within a request.

All candidates were shown, so imitating the logging policy's choice of what to show gains nothing here. Suffixes: T
requests, C rows of a batch's largest request, N rows of all requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule, Sequences, Windows
from recalign.data.sequences.store import SPLITS, Group, SplitName
from recalign.data.sequences.windows import ranges

AUC, NDCG = "shown/auc", "shown/ndcg"
ScoreShown = Callable[[Batch, Tensor], Tensor]
"""Scores items at a batch's states: int64 (T, C) of 1..V -> (T, C)."""


@torch.no_grad()
def rank_shown(
    scorers: Mapping[str, ScoreShown], data: EventDataModule, split: SplitName, users: Group | None = None
) -> dict[str, pl.DataFrame]:
    """Measure how scorers rank the items of each request that has chosen rows, skipped rows, and a history before it.

    Items outside the catalogue come last. Items that the user had chosen before are ranked like all others.

    Returns:
        For each scorer, one row per request: the ``event`` of its first choice, `AUC` and `NDCG` (`within_requests`).
    """
    rows = shown_rows(data.sequences, data.preparation.users(users or data.users, split), split)
    counts = rows.group_by("event", maintain_order=True).agg(
        pl.col("known_before").last(), count=pl.len().cast(pl.Int64)
    )
    event_T, count_T, item_N = counts["event"].to_numpy(), counts["count"].to_numpy(), rows["item_id"].to_numpy()
    first_T = np.cumsum(count_T) - count_T
    score_N = {name: np.full(len(rows), -np.inf) for name in scorers}
    for batch in data.loader(request_windows(data.sequences, counts, data.max_length), seen=False):
        request_T = np.searchsorted(event_T, batch.event_T.numpy())
        own_T = count_T[request_T]
        there_TC = np.arange(own_T.max()) < own_T[:, None]
        place = ranges(first_T[request_T], own_T)
        item_TC = np.ones(there_TC.shape, np.int64)
        item_TC[there_TC] = item_N[place].clip(1)
        read = batch.to(data.device)
        for name, scores in scorers.items():
            score_N[name][place] = scores(read, torch.from_numpy(item_TC).to(data.device)).cpu().numpy()[there_TC]
    known = pl.Series(item_N > 0)
    return {
        name: within_requests(rows.with_columns(score=pl.when(known).then(pl.Series(found)).otherwise(-np.inf)))
        for name, found in score_N.items()
    }


def shown_rows(sequences: Sequences, users: np.ndarray, split: SplitName) -> pl.DataFrame:
    """The rows of a split's requests, of those that have chosen rows, skipped rows, and a history before them.

    Returns:
        ``event`` (of the request's first choice, in order), ``item_id`` (0: not in the catalogue), ``chosen``, and
        ``known_before``: in a request's last row, the number of known events before the request.
    """
    assert sequences.skipped is not None
    rows = sequences.impressions.filter(pl.col("split") == SPLITS[split])
    rows = rows.filter(pl.Series(users).gather(rows["user"]))
    rows = rows.with_columns(chosen=pl.col("event") < len(sequences.frame))
    both = pl.col("chosen").any() & ~pl.col("chosen").all() & (pl.col("known_before").last() > 0)
    rows = rows.sort("event").filter(both.over("request"))
    return rows.with_columns(pl.col("event").min().over("request")).sort("event", maintain_order=True)


def request_windows(sequences: Sequences, requests: pl.DataFrame, max_length: int) -> Windows:
    """Windows with one target per request: its first choice (``event``), after ``known_before`` known events."""
    event = requests["event"].cast(pl.Int64).to_numpy()
    about = sequences.frame[event]
    user = about["user"].cast(pl.Int64).to_numpy()
    stop = sequences.offset[user] + requests["known_before"].to_numpy()
    return Windows(
        user=user,
        start=np.maximum(sequences.offset[user], stop - max_length),
        stop=stop,
        offset=np.arange(len(user) + 1),
        state=stop - 1,
        target=about["item_id"].to_numpy(),
        event=event,
        reward=np.full(len(user), np.nan, np.float32),
        high=about["high"].to_numpy(),
        time=about["timestamp"].to_numpy(),
    )


def within_requests(rows: pl.DataFrame) -> pl.DataFrame:
    """AUC and NDCG of each request's chosen rows among all its rows.

    AUC is the share of pairs (chosen, skipped) in the right order; ties count half. NDCG is the sum of 1 / log2(1 +
    rank) over the chosen rows, divided by its maximum. Tied rows get the mean of their ranks.

    Args:
        rows: ``event`` (identifies the request), ``chosen``, ``score``; every request has chosen and skipped rows.

    Returns:
        ``event``, `AUC` and `NDCG` (f64), one row per request.
    """
    chosen, count = pl.col("chosen"), pl.col("chosen").sum().cast(pl.Float64)
    rank = pl.col("rank").filter(chosen)
    lost = rank.sum() - count * (count + 1) / 2  # pairs in the wrong order
    found = rows.with_columns(rank=pl.col("score").rank(descending=True).over("event"))
    best = np.cumsum(1 / np.log2(np.arange(len(rows)) + 2))
    found = found.group_by("event", maintain_order=True).agg(
        (1 - lost / (count * (~chosen).sum())).alias(AUC), (1 / (rank + 1).log(2)).sum().alias(NDCG), count=chosen.sum()
    )
    ideal = pl.Series(best[found["count"].to_numpy() - 1])
    return found.select("event", AUC, pl.col(NDCG) / ideal)
