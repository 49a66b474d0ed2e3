"""Items drawn from a policy, and what a reward model makes of them: the environment of PPO and GRPO.

Shape suffixes: T states, R states worked on at once, V items, S items drawn at each state, L events of a history.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recalign.posttrain.environment import Environment
from recalign.recommender.policy import ROWS, Policy
from recalign.sequences import Batch

SEEN = 1e4  # nats that an item loses by having been seen: it is drawn where nothing unseen is left, and only there


@dataclass(frozen=True)
class Rollout:
    """S items a state.

    Attributes:
        item_TS: int64, drawn with replacement.
        old_TS: log old(item | s) over the whole catalogue, old the policy that they were drawn from.
        start_TS: the same under the starting policy.
        reward_TS: what the reward model expects of them, in standard deviations from the mean of the training rewards.
    """

    item_TS: Tensor
    old_TS: Tensor
    start_TS: Tensor
    reward_TS: Tensor


@torch.no_grad()
def roll_out(
    old: Policy, start: Policy, environment: Environment, batch: Batch, samples: int, candidates: int | None
) -> Rollout:
    """Draw items at every state of a batch.

    Items of the history (as much of it as the batch holds) are not drawn, nor are items beyond the starting policy's
    ``candidates`` most probable ones: what a reward model says of items that nobody would have chosen is a guess.

    Args:
        old: drawn from.
        start: the starting policy.
        environment: says what they are worth.
        batch: histories.
        samples: S.
        candidates: items of each state that may be drawn; None: all.
    """
    old_T, start_T = old.encode(batch), start.encode(batch)
    parts = []
    for rows in torch.arange(len(old_T), device=old_T.device).split(ROWS):
        old_RV, start_RV = old.log_probs(old_T[rows]), start.log_probs(start_T[rows])
        loss_RV = SEEN * met(batch, rows, old.num_items)
        drawn_RV = old_RV - loss_RV
        if candidates is not None and candidates < old.num_items:
            wish_RV = start_RV - loss_RV
            least_R1 = wish_RV.topk(candidates, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
            drawn_RV = drawn_RV.masked_fill(wish_RV < least_R1, -torch.inf)
        column_RS = drawn_RV.softmax(dim=1).multinomial(samples, replacement=True)
        parts.append((column_RS + 1, old_RV.gather(1, column_RS), start_RV.gather(1, column_RS)))
    item_TS, old_TS, start_TS = (torch.cat(part) for part in zip(*parts, strict=True))
    return Rollout(item_TS, old_TS, start_TS, environment(batch, item_TS))


def met(batch: Batch, rows: Tensor, num_items: int) -> Tensor:
    """Which items stand in the histories of some targets. Shape: int64 (R,) -> float32 (R, V), 0 or 1."""
    row_R, column_R = batch.row_T[rows], batch.column_T[rows]
    before_RL = torch.arange(batch.item_BL.shape[1], device=rows.device) <= column_R[:, None]
    item_RL = batch.item_BL[row_R] * before_RL  # item 0, padding, stands for what is not in the history
    met_RV = torch.zeros(len(rows), num_items + 1, device=rows.device)
    return met_RV.scatter_(1, item_RL, 1.0)[:, 1:]
