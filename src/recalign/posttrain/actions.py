"""What PPO, GRPO and ECPO have alike: they draw items from the policy and ask a reward model what they are worth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recalign.errors import InputError, require_positive
from recalign.posttrain.base import PostTraining
from recalign.posttrain.environment import Environment
from recalign.posttrain.rollout import Rollout, among, roll_out
from recalign.recommender.policy import Policy
from recalign.reward import RewardData, RewardEnsemble
from recalign.sequences import Batch


class SampledActions(PostTraining):
    """A contextual bandit: a state is a history, an action an item drawn from the policy, the reward model the world.

    Items are drawn from ``old``, the policy as it was at the beginning of the round of ``refresh`` steps, among a few
    candidates: here pi, old and start are all distributions over a state's candidates. Events without a reward do not
    count, so that all methods see the same ones. Subclasses turn rewards into a loss (`surrogate`).

    Logs ``train/loss``; ``sampled/reward``, the mean predicted reward of the items drawn, in standard deviations from
    the mean of the log's; ``sampled/nll``, -log pi of the logged items; ``policy/kl``; and what the subclass says.

    Args:
        init_from: checkpoint whose policy is the start; null: the newest of this log.
        reward_model: checkpoint of the reward model; null: the newest of this log.
        samples: items drawn at each state.
        candidates: the starting policy's so many most probable unseen items are what may be drawn.
        clip: eps: a ratio pi / old gains nothing beyond 1 +- eps.
        kl: weight of the KL to the starting policy, in standard deviations of the reward a nat.
        refresh: optimiser steps that a round takes; 1: pi = old at every step, and nothing is clipped.
        lr: AdamW's learning rate.
        weight_decay: AdamW's, on matrices only.
        top_k: items that `predict` writes for each user.
        keep: share of the start's ``all/ndcg@10`` on validation that is kept; null: whatever is left.
        policy: a policy to start from instead of a checkpoint's (Python only).
        reward: a reward model instead of a checkpoint's (Python only).
    """

    UPSTREAM: ClassVar[dict[str, str]] = {"init_from": "recommender", "reward_model": "reward"}
    LEARNS_FROM = RewardData
    drops_out = False
    fewest_samples = 1

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "candidates", "clip", "refresh")
        if (samples := given.get("samples", cls.fewest_samples)) < cls.fewest_samples:
            raise InputError(
                f"{samples} items a state are too few for {cls.__name__}",
                where="model.samples",
                remedy=f"draw at least {cls.fewest_samples}",
            )

    def __init__(
        self,
        init_from: str | None = None,
        reward_model: str | None = None,
        samples: int = 8,
        candidates: int = 100,
        clip: float = 0.2,
        kl: float = 0.1,
        refresh: int = 4,
        lr: float = 3e-5,
        weight_decay: float = 0.0,
        top_k: int = 10,
        keep: float | None = None,
        policy: Policy | None = None,
        reward: RewardEnsemble | None = None,
    ) -> None:
        super().__init__(init_from, policy, lr, weight_decay, top_k, keep)
        self.save_hyperparameters(logger=False, ignore=["top_k"])
        self.samples, self.candidates, self.clip, self.kl, self.refresh = samples, candidates, clip, kl, refresh
        self.old = copy.deepcopy(self.policy).requires_grad_(False)
        self.environment = Environment(reward_model, reward)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.environment.setup(self.data)

    def train(self, mode: bool = True) -> SampledActions:
        super().train(mode)
        self.old.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.trainer.global_step % self.refresh == 0:
            self.old.load_state_dict(self.policy.state_dict())
        self.log_drift(batch)
        rated = batch.keep(~batch.reward_T.isnan())
        if not len(rated.target_T):
            return self.idle(batch)
        rollout = roll_out(self.old, self.reference, self.environment, rated, self.samples, self.candidates)
        state, item_TC = self.policy.encode(rated), rollout.candidate_TC
        logp_TC = self.policy.log_probs(state, torch.cat([rated.target_T[:, None], item_TC.clamp(min=1)], dim=1))
        nll = -logp_TC[:, 0].mean()
        logp_TS = among(logp_TC[:, 1:], item_TC).gather(1, rollout.column_TS)
        loss = self.surrogate(rollout, logp_TS, state, nll)
        self.log("train/loss", loss, batch_size=len(logp_TS))
        self.log_dict({"sampled/reward": rollout.reward_TS.mean(), "sampled/nll": nll})
        return loss

    def surrogate(self, rollout: Rollout, logp_TS: Tensor, state: Tensor, nll: Tensor) -> Tensor:
        """The loss.

        Args:
            rollout: the items drawn.
            logp_TS: log pi of them, among the candidates.
            state: the policy's, (T, ...).
            nll: mean -log pi of the logged items.
        """
        raise NotImplementedError
