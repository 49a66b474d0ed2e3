"""Draw items from a policy and predict their rewards; shared by PPO, GRPO and IPA.

Shape suffixes: T states, C candidates and S drawn items at each, L events of a history, N pairs.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from recalign.data.sequences import Batch
from recalign.distributed import random_rows
from recalign.errors import InputError, PositiveUnit
from recalign.posttrain.base import PostTraining
from recalign.recommender.checkpoint import Loaded, load_or_copy
from recalign.recommender.policy import Policy, draw
from recalign.reward.data import RewardData
from recalign.reward.net import RewardEnsemble


class FrozenRewardModel(nn.Module):
    """A frozen reward model's predictions, in standard deviations from the mean of the training rewards."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.loaded = replace(loaded, self_influence=None)  # large, and not needed here
        self.reward: RewardEnsemble = loaded.net.requires_grad_(False)
        self.mean, self.scale = 0.0, 1.0

    def train(self, mode: bool = True) -> FrozenRewardModel:
        return super().train(False)

    def setup(self, data: RewardData) -> None:
        """Set the unit from the log's rewards; refuse a judge, a model of another log and non-finite predictions."""
        self.loaded.check(data)
        self.loaded.refuse_judge(data)
        self.mean, self.scale = data.reward_moments()[:2]
        batch = data.first_batch()
        if not self.train()(batch, batch.target_T[:, None]).isfinite().all():
            remedy = "train it anew, with a lower learning rate or in fp32"
            raise InputError("the reward model predicts NaN or infinity", where=self.loaded.where, remedy=remedy)

    @torch.no_grad()
    def forward(self, batch: Batch, item_TS: Tensor) -> Tensor:
        """Predicted rewards of items at each state of a batch. Shape: int64 (T, S) -> (T, S)."""
        return (self.reward.predict(self.reward.states(batch), item_TS) - self.mean) / self.scale


class OnlineTraining(PostTraining):
    """Base class of methods that predict the rewards of items from ``old``, the policy at an earlier step.

    Args:
        share: share of a batch's states, drawn at random, at which items are scored.
        reward_model: checkpoint of the reward model; null in a configuration: the one of this log and seed.
        reward_net: the reward model itself, instead of a checkpoint (Python only); copied.
        **training: arguments of `PostTraining`.
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender", "reward_model": "reward"}
    LEARNS_FROM = RewardData
    use_dropout = False

    def __init__(
        self,
        share: PositiveUnit = 1.0,
        reward_model: str | None = None,
        reward_net: RewardEnsemble | Loaded | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.share = share
        self.old = copy.deepcopy(self.reference)
        given, method = (reward_model, reward_net), type(self).__name__
        loaded = load_or_copy(*given, "reward", where="model.reward_model", needed_by=method)
        self.frozen_reward = FrozenRewardModel(loaded)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.frozen_reward.setup(self.data)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> OnlineTraining:
        super().train(mode)
        self.old.eval()
        return self

    def policies(self) -> list[Policy]:
        return [*super().policies(), self.old]

    def sampled_targets(self, batch: Batch) -> Batch:
        """A random share of a batch's targets."""
        if self.share == 1:
            return batch
        rows = len(batch.target_T)
        chance_T = random_rows(lambda count: torch.rand(count, device=self.device), rows, self.device)
        return batch.keep(chance_T < self.share)

    def sync_old_policy(self) -> None:
        """Copy the policy's weights into ``old``."""
        self.old.load_state_dict(self.policy.state_dict())


class Rollout(NamedTuple):
    """Log-probabilities and predicted rewards of S items drawn at each of T states. Shape: (T, S) each."""

    old_TS: Tensor
    """log old(item | s) among the candidates (`over_candidates`), old the policy that they were drawn from."""
    start_TS: Tensor
    """The same under the starting policy."""
    reward_TS: Tensor
    """Predicted rewards, in standard deviations from the mean."""


@torch.no_grad()
def roll_out(
    old: Policy,
    start: Policy,
    reward: FrozenRewardModel,
    batch: Batch,
    samples: int,
    candidates: int,
) -> tuple[Tensor, Tensor, Rollout]:
    """Draw ``samples`` items at every state of a batch, from ``old`` among ``candidates`` items, with replacement.

    Candidates are the start's most probable items that are not in the history (as far as the batch holds it): for items
    that nobody would have chosen, a reward model's prediction is a guess.

    Returns:
        The candidates, int64 (T, C), padded with 0 if fewer than C items are unseen; the columns drawn, int64 (T, S);
        and the `Rollout`. If nothing is unseen, item 1 is scored instead.
    """
    start_T = start.encode(batch)
    _, candidate_TC = start.top_k(start_T, min(candidates, start.num_warm), seen_pairs(batch))
    item_TC = candidate_TC.clamp(min=1)
    old_TC = over_candidates(old.log_probs(old.encode(batch), item_TC), candidate_TC)
    start_TC = over_candidates(start.log_probs(start_T, item_TC), candidate_TC)
    there = old_TC.device
    uniform_TS = random_rows(
        lambda rows: torch.rand(rows, samples, dtype=torch.double, device=there), len(old_TC), there
    )
    column_TS = draw(old_TC, samples, uniform_TS)
    reward_TS = reward(batch, item_TC.gather(1, column_TS))
    return candidate_TC, column_TS, Rollout(old_TC.gather(1, column_TS), start_TC.gather(1, column_TS), reward_TS)


def over_candidates(logp_TC: Tensor, candidate_TC: Tensor) -> Tensor:
    """Renormalise log-probabilities over candidates; padding (0) gets none. Shape: (T, C) -> (T, C).

    Used for pi, old and start alike, so that equal policies have ratios of 1 in any precision. If all candidates are
    0, the result is uniform and carries no gradient.
    """
    return logp_TC.masked_fill(candidate_TC == 0, torch.finfo(logp_TC.dtype).min).log_softmax(dim=1)


def seen_pairs(batch: Batch) -> Tensor:
    """The items in each target's history. Shape: -> int64 (2, N), pairs (target, item)."""
    column_L = torch.arange(batch.item_BL.shape[1], device=batch.column_T.device)
    target_N, column_N = (column_L <= batch.column_T[:, None]).nonzero(as_tuple=True)
    return torch.stack([target_N, batch.item_BL[batch.row_T[target_N], column_N]])
