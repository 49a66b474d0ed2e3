"""Items drawn from a policy, and what a reward model makes of them: the environment of PPO and GRPO.

Shape suffixes: T states, C candidates of each, S items drawn at each, L events of a history, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recalign.posttrain.environment import Environment
from recalign.recommender.policy import Policy, draw
from recalign.sequences import Batch


@dataclass(frozen=True)
class Rollout:
    """S items a state. Probabilities are those of the candidates alone, and sum to 1 over them (`among`).

    Attributes:
        candidate_TC: int64, what may be drawn; 0 where fewer than C items are unseen.
        column_TS: int64, which of them were drawn, with replacement.
        item_TS: int64, these items; 1 where nothing was unseen.
        old_TS: log old(item | s) of them, old the policy that they were drawn from.
        start_TS: the same under the starting policy.
        reward_TS: what the reward model expects of them, in standard deviations from the mean of the training rewards.
    """

    candidate_TC: Tensor
    column_TS: Tensor
    item_TS: Tensor
    old_TS: Tensor
    start_TS: Tensor
    reward_TS: Tensor


@torch.no_grad()
def roll_out(
    old: Policy, start: Policy, environment: Environment, batch: Batch, samples: int, candidates: int
) -> Rollout:
    """Draw items at every state of a batch.

    Candidates are the starting policy's most probable items that are not in the history (as much of it as the batch
    holds): what a reward model says of items that nobody would have chosen is a guess.

    Args:
        old: drawn from.
        start: the starting policy.
        environment: says what they are worth.
        batch: histories.
        samples: S.
        candidates: C, if the catalogue is as large.
    """
    old_T, start_T = old.encode(batch), start.encode(batch)
    _, candidate_TC = start.top_k(start_T, min(candidates, start.num_items), met(batch))
    old_TC, start_TC = (
        among(policy.log_probs(state, candidate_TC.clamp(min=1)), candidate_TC)
        for policy, state in ((old, old_T), (start, start_T))
    )
    column_TS = draw(old_TC, samples)
    item_TS = candidate_TC.gather(1, column_TS).clamp(min=1)
    old_TS, start_TS = old_TC.gather(1, column_TS), start_TC.gather(1, column_TS)
    return Rollout(candidate_TC, column_TS, item_TS, old_TS, start_TS, environment(batch, item_TS))


def among(logp_TC: Tensor, candidate_TC: Tensor) -> Tensor:
    """Log-probabilities of candidates, brought to sum to 1 over them; candidate 0 has none. Shape: (T, C) -> (T, C).

    One rule for the policy, for what it was and for the start, so that where they are the same they say the same to the
    last digit but one, in whatever precision. Where all candidates are 0, all are alike and carry no gradient.
    """
    return logp_TC.masked_fill(candidate_TC == 0, torch.finfo(logp_TC.dtype).min).log_softmax(dim=1)


def met(batch: Batch) -> Tensor:
    """What stands in each target's history. Shape: -> int64 (2, N), pairs (target, item)."""
    column_L = torch.arange(batch.item_BL.shape[1], device=batch.column_T.device)
    target_N, column_N = (column_L <= batch.column_T[:, None]).nonzero(as_tuple=True)
    return torch.stack([target_N, batch.item_BL[batch.row_T[target_N], column_N]])
