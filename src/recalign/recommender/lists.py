"""Generate lists item by item, as if the user had chosen the items before.

OneRec (https://arxiv.org/abs/2502.18965) generates a session's items in one sequence. Here an item that was generated
is appended to the history, as an event at the time of the request, so that any policy over histories makes lists.

Shape suffixes:
    T  states, a row each      L  events of a row, as many as the policy can read      N  items of a list
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.recommender.policy import Policy


@torch.no_grad()
def generate_list(policy: Policy, batch: Batch, count: int, max_length: int) -> tuple[Tensor, Tensor]:
    """A list for each of T targets: the most probable item that is left, given the history and the list so far.

    Args:
        policy: over item ids or semantic ids.
        batch: whose ``seen_N`` (target, item) are left out.
        count: N.
        max_length: events that the policy can read; a longer history loses its oldest.

    Returns:
        Log-probabilities (up to a constant a state) and items, 0 where nothing is left. Shape: (T, N), int64 (T, N).
    """
    batch, targets = _a_row_each(batch, max_length), torch.arange(len(batch.row_T), device=batch.row_T.device)
    seen = torch.empty(2, 0, dtype=torch.long, device=targets.device) if batch.seen_N is None else batch.seen_N
    score_TN, item_TN = [], []
    for _ in range(count):
        score_T1, item_T1 = policy.top_k(policy.encode(batch), 1, seen)
        score_TN.append(score_T1)
        item_TN.append(item_T1)
        there = item_T1[:, 0] > 0
        seen = torch.cat([seen, torch.stack([targets, item_T1[:, 0]])[:, there]], dim=1)
        batch = _with_event(batch, item_T1)
    return torch.cat(score_TN, dim=1), torch.cat(item_TN, dim=1)


def _a_row_each(batch: Batch, max_length: int) -> Batch:
    """The same targets, each alone at the end of a row of its own, padded to ``max_length``."""
    row_T, column_T = batch.row_T, batch.column_T
    pad = (0, max_length - batch.item_BL.shape[1])
    past_TL = torch.arange(max_length, device=row_T.device) <= column_T[:, None]
    return dataclasses.replace(
        batch,
        user_B=batch.user_B[row_T],
        item_BL=F.pad(batch.item_BL, pad)[row_T] * past_TL,
        length_B=column_T + 1,
        time_BL=F.pad(batch.time_BL, pad)[row_T],
        request_time_BL=F.pad(batch.request_time_BL, pad)[row_T],
        reward_BL=F.pad(batch.reward_BL, pad, value=torch.nan)[row_T].masked_fill(~past_TL, torch.nan),
        row_T=torch.arange(len(row_T), device=row_T.device),
    )


def _with_event(batch: Batch, item_T1: Tensor) -> Batch:
    """The batch with one more event at the end of each row, without a reward, at the time of the row's request.

    A row without an item left stays as it is.
    """
    full_T1 = batch.length_B[:, None] == batch.item_BL.shape[1]
    drop_T1, more_T1 = full_T1 & (item_T1 > 0), ~full_T1 & (item_T1 > 0)
    place_T1 = batch.column_T[:, None] + more_T1
    now_T1 = batch.request_time_BL.gather(1, batch.column_T[:, None])

    def put(x_TL: Tensor, value_T1: Tensor) -> Tensor:
        moved_TL = torch.where(drop_T1, x_TL.roll(-1, dims=1), x_TL)
        return moved_TL.scatter(1, place_T1, torch.where(item_T1 > 0, value_T1, moved_TL.gather(1, place_T1)))

    return dataclasses.replace(
        batch,
        item_BL=put(batch.item_BL, item_T1),
        time_BL=put(batch.time_BL, now_T1),
        request_time_BL=put(batch.request_time_BL, now_T1),
        reward_BL=put(batch.reward_BL, torch.full_like(item_T1, torch.nan, dtype=batch.reward_BL.dtype)),
        length_B=batch.length_B + more_T1[:, 0],
        column_T=place_T1[:, 0],
    )
