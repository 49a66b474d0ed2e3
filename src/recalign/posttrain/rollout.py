"""Items drawn from a policy, and what a reward model predicts for them: the environment of PPO and GRPO.

Shape suffixes: T states, C candidates of each, S items drawn at each, L events of a history, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recalign.errors import InputError
from recalign.processes import gathered, random_rows
from recalign.recommender.checkpoint import Loaded
from recalign.recommender.policy import Policy, draw
from recalign.reward import RewardData, RewardEnsemble
from recalign.sequences import Batch


class Environment(nn.Module):
    """A frozen reward model's predictions, in standard deviations from the mean of the training rewards."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.loaded = replace(loaded, self_influence=None)  # which is long, and not needed here
        self.reward: RewardEnsemble = loaded.net.requires_grad_(False)
        self.mean, self.scale = 0.0, 1.0

    def train(self, mode: bool = True) -> Environment:
        return super().train(False)  # it never learns

    def setup(self, data: RewardData) -> None:
        """Take the unit of the log's rewards; refuse a reward model of another log, or that predicts no numbers."""
        self.loaded.check(data)
        self.mean, self.scale, _ = data.moments()
        batch = data.first_batch()
        if not self.train()(batch, batch.target_T[:, None]).isfinite().all():
            raise InputError(
                "the reward model predicts what is no number",
                where=self.loaded.where,
                remedy="train it anew, with a lower learning rate or in fp32",
            )

    @torch.no_grad()
    def forward(self, batch: Batch, item_TS: Tensor) -> Tensor:
        """Expected rewards of some items at each state of a batch. Shape: (T, S) -> (T, S)."""
        predicted_TS = self.reward.predict(self.reward.states(batch), item_TS)
        return (predicted_TS - self.mean) / self.scale


class Drawn(NamedTuple):
    """What is known of the items drawn at the states of all processes. Shape: (T, S) each, as in `Rollout`."""

    old_TS: Tensor
    start_TS: Tensor
    reward_TS: Tensor


@dataclass(frozen=True)
class Rollout:
    """S items drawn at each state. Probabilities are over the candidates alone (`among`)."""

    candidate_TC: Tensor
    """int64, what may be drawn; 0 where fewer than C items are unseen."""
    column_TS: Tensor
    """int64, which of them were drawn, with replacement."""
    item_TS: Tensor
    """int64, these items; 1 where nothing was unseen."""
    old_TS: Tensor
    """log old(item | s) of them, old the policy that they were drawn from."""
    start_TS: Tensor
    """The same under the starting policy."""
    reward_TS: Tensor
    """What the environment expects of them."""

    def drawn(self) -> Drawn:
        """The last three, of all processes."""
        return Drawn(*gathered(torch.stack([self.old_TS, self.start_TS, self.reward_TS], dim=2)).unbind(dim=2))


@torch.no_grad()
def roll_out(
    old: Policy, start: Policy, environment: Environment, batch: Batch, samples: int, candidates: int
) -> Rollout:
    """Draw ``samples`` items at every state of a batch, from ``old`` among ``candidates`` items.

    Candidates are the start's most probable items that are not in the history (as far as the batch holds it): of items
    that nobody would have chosen, a reward model's prediction is a guess.
    """
    old_T, start_T = old.encode(batch), start.encode(batch)
    _, candidate_TC = start.top_k(start_T, min(candidates, start.num_items), met(batch))
    old_TC, start_TC = (
        among(policy.log_probs(state, candidate_TC.clamp(min=1)), candidate_TC)
        for policy, state in ((old, old_T), (start, start_T))
    )
    there = old_TC.device
    uniform_TS = random_rows(
        lambda rows: torch.rand(rows, samples, dtype=torch.float64, device=there), len(old_TC), there
    )
    column_TS = draw(old_TC, samples, uniform_TS)
    item_TS = candidate_TC.gather(1, column_TS).clamp(min=1)
    old_TS, start_TS = old_TC.gather(1, column_TS), start_TC.gather(1, column_TS)
    return Rollout(candidate_TC, column_TS, item_TS, old_TS, start_TS, environment(batch, item_TS))


def among(logp_TC: Tensor, candidate_TC: Tensor) -> Tensor:
    """Renormalise log-probabilities over candidates; candidate 0 gets none. Shape: (T, C) -> (T, C).

    Used alike for pi, old and start, so that equal policies have equal ratios in any precision. Where all candidates
    are 0, the result is uniform and carries no gradient.
    """
    return logp_TC.masked_fill(candidate_TC == 0, torch.finfo(logp_TC.dtype).min).log_softmax(dim=1)


def met(batch: Batch) -> Tensor:
    """What stands in each target's history. Shape: -> int64 (2, N), pairs (target, item)."""
    column_L = torch.arange(batch.item_BL.shape[1], device=batch.column_T.device)
    target_N, column_N = (column_L <= batch.column_T[:, None]).nonzero(as_tuple=True)
    return torch.stack([target_N, batch.item_BL[batch.row_T[target_N], column_N]])
