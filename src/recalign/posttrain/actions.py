"""PPO, GRPO and ECPO: draw items from the policy, and score them with a reward model.

Legend: T states, S items drawn at each, C candidates, pi the policy, old the policy that drew them, start the frozen
policy before post-training, A advantages.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, row_counts
from recalign.errors import AtLeast2, NonNegative, Positive
from recalign.posttrain.base import Metrics
from recalign.posttrain.rollout import OnlineTraining, Rollout, over_candidates, roll_out
from recalign.posttrain.values import StateValue, state_width, with_head
from recalign.recommender.policy import State


def group_advantages(reward_TS: Tensor) -> Tensor:
    """A = (r - mean) / (std + 1e-4) within the S > 1 items drawn at a state (GRPO, arXiv 2402.03300). Shape: (T, S)."""
    centred_TS = reward_TS - reward_TS.mean(dim=1, keepdim=True)
    return centred_TS / (reward_TS.std(dim=1, keepdim=True) + 1e-4)


def clipped_surrogate(
    logp_TS: Tensor, old_TS: Tensor, advantage_TS: Tensor, clip: float, early: float | None = None
) -> tuple[Tensor, Metrics]:
    """L = -mean min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi(a | s) / old(a | s) (PPO, arXiv 1707.06347).

    With ``early`` = delta, old becomes max(sg(pi) / (1 + eps + delta), old), sg: detached (ECPO, arXiv 2506.13695,
    section 2.4): a ratio never exceeds 1 + eps + delta, so the gradient of an unlikely item with a negative
    advantage stays bounded when it becomes more likely.

    Args:
        logp_TS: log pi(a | s) of the items drawn.
        old_TS: log old(a | s); no gradient flows through it or through A.
        advantage_TS: A.
        clip: eps.
        early: delta; None: plain PPO.

    Returns:
        The loss, and ``clipped``, the share of items whose gradient is clipped to 0, and ``ratio``, the largest rho.
    """
    old_TS, advantage_TS = old_TS.detach(), advantage_TS.detach()
    if early is not None:
        old_TS = torch.maximum(logp_TS.detach() - math.log(1 + clip + early), old_TS)
    ratio_TS = (logp_TS - old_TS).exp()
    free_TS = ratio_TS * advantage_TS
    bound_TS = ratio_TS.clamp(1 - clip, 1 + clip) * advantage_TS
    metrics = {"clipped": (bound_TS < free_TS).float().mean(), "ratio": ratio_TS.detach().max()}
    return -torch.minimum(free_TS, bound_TS).mean(), metrics


def kl_to_start(logp_TS: Tensor, old_TS: Tensor, start_TS: Tensor) -> tuple[Tensor, Tensor]:
    """GRPO's penalty mean(e^d - d - 1), d = log start(a | s) - log pi(a | s), and an estimate of KL(pi || start).

    The penalty is the third estimator of J. Schulman's note on approximating KL divergence (2020), never negative. Its
    mean is KL(pi || start) only if the items were drawn from pi, as in the first step of a round; even then its
    gradient is that of KL(start || pi). Like published GRPO, the loss uses it at every step. The estimate weights each
    item by pi / old, old being the policy that drew it: unbiased at every step, no gradient.

    Returns:
        Two scalars.
    """
    d_TS = start_TS.detach() - logp_TS
    gap_TS = d_TS.exp() - d_TS - 1
    return gap_TS.mean(), ((logp_TS - old_TS).exp() * gap_TS).mean().detach()


class SampledActions(OnlineTraining):
    """A contextual bandit: the state is a history, the action an item drawn from the policy, the reward predicted.

    Items are drawn from ``old``, the policy at the beginning of a round of ``refresh`` steps, among the state's
    candidates, the start's most probable items. pi, old and start are renormalised over the candidates, so ratios do
    not depend on the candidates' total probability. Events without a reward do not count, so that all methods train on
    the same events. Subclasses turn rewards into a loss (`surrogate`).

    Logs ``sampled/reward``, the mean predicted reward of the items drawn, in standard deviations from the log's mean;
    ``sampled/nll``, -log pi of the logged items; the metrics of `surrogate`; and a histogram of the rewards,
    ``sampled/rewards``.

    Args:
        samples: items drawn at each state.
        candidates: draw among this many of the start's most probable unseen items.
        clip: eps: the loss does not reward ratios pi / old beyond 1 +- eps.
        kl: weight of the KL to the start (GRPO: `kl_to_start`), in standard deviations of the reward per nat.
        refresh: optimiser steps per round; 1: pi = old at every step, and nothing is clipped.
        lr: AdamW's learning rate of the policy.
        **online: arguments of `OnlineTraining`.
    """

    LOG_PREFIX = "sampled"

    def __init__(
        self,
        samples: Positive[int] = 8,
        candidates: AtLeast2 = 100,
        clip: Positive[float] = 0.2,
        kl: NonNegative[float] = 0.1,
        refresh: Positive[int] = 4,
        lr: float = 1e-5,
        **online: Any,
    ) -> None:
        super().__init__(lr=lr, **online)
        self.samples, self.candidates, self.clip, self.kl, self.refresh = samples, candidates, clip, kl, refresh

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics] | None:
        if self.trainer.global_step % self.refresh == 0:
            self.sync_old_policy()
        rated = self.sampled_targets(batch.keep(~batch.reward_T.isnan()))
        if not any(row_counts(len(rated.target_T), self.device)):
            return None
        item_TC, column_TS, own = roll_out(
            self.old, self.reference, self.frozen_reward, rated, self.samples, self.candidates
        )
        state = self.policy.encode(rated)
        logp_TC = self.policy.log_probs(state, torch.cat([rated.target_T[:, None], item_TC.clamp(min=1)], dim=1))
        nll = -all_gather_rows(logp_TC[:, 0]).mean()
        logp_TS = all_gather_rows(over_candidates(logp_TC[:, 1:], item_TC).gather(1, column_TS))
        rollout = Rollout(*all_gather_rows(torch.stack(own, dim=2)).unbind(dim=2))
        loss, metrics = self.surrogate(rollout, logp_TS, state, nll)
        rewards = {"reward": rollout.reward_TS.mean(), "rewards": rollout.reward_TS}
        return loss, {**metrics, **rewards, "nll": nll.detach()}

    def surrogate(self, rollout: Rollout, logp_TS: Tensor, state: State, nll: Tensor) -> tuple[Tensor, Metrics]:
        """The loss, and metrics to log, from log pi of drawn items (among the candidates) and of logged items.

        ``rollout``, ``logp_TS`` and ``nll``, mean -log pi of the logged items, cover all processes; ``state`` is the
        policy's, for this process's histories.
        """
        raise NotImplementedError


class PPO(SampledActions):
    """Clipped ratios with A = r - kl (log old - log start) - V(s), standardised in a batch (arXiv 1707.06347).

    V is a head on the policy's state, trained by squared error without a gradient to the state.

    Logs ``sampled/{clipped,ratio}`` (`clipped_surrogate`) and ``sampled/value_error``, V's mean squared error.

    Args:
        value_lr: AdamW's learning rate of V.
        lr: AdamW's learning rate of the policy.
        **sampled: arguments of `SampledActions`.
    """

    def __init__(self, value_lr: NonNegative[float] = 1e-2, lr: float = 1e-5, **sampled: Any) -> None:
        super().__init__(lr=lr, **sampled)
        self.value, self.value_lr = StateValue(state_width(self.policy)), value_lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return with_head(super().configure_optimizers(), self.value, self.value_lr)

    def surrogate(self, rollout: Rollout, logp_TS: Tensor, state: State, nll: Tensor) -> tuple[Tensor, Metrics]:
        reward_TS = rollout.reward_TS - self.kl * (rollout.old_TS - rollout.start_TS)
        error_TS = reward_TS - all_gather_rows(self.value(self.policy.hidden(state).detach()))[:, None]
        advantage_TS = (error_TS - error_TS.mean()) / (error_TS.std(correction=0) + 1e-4)
        loss, metrics = clipped_surrogate(logp_TS, rollout.old_TS, advantage_TS, self.clip)
        value_error = error_TS.square().mean()
        return loss + value_error, {**metrics, "value_error": value_error.detach()}


class GRPO(SampledActions):
    """Clipped ratios with advantages within the items drawn at a state, and the KL to the start (arXiv 2402.03300).

    With ``early`` and ``cloning`` it is OneRec's ECPO (arXiv 2506.13695).

    Logs ``sampled/{clipped,ratio}`` (`clipped_surrogate`) and ``sampled/kl``, the estimated KL among the candidates
    (`kl_to_start`).

    Args:
        samples: items drawn at each state, a group.
        early: delta of ECPO's early clip; null: none.
        cloning: weight of behaviour cloning added to the loss.
        lr: AdamW's learning rate of the policy.
        **sampled: arguments of `SampledActions`.
    """

    def __init__(
        self,
        samples: AtLeast2 = 8,
        early: Positive[float] | None = None,
        cloning: NonNegative[float] = 0.0,
        lr: float = 8e-6,
        **sampled: Any,
    ) -> None:
        super().__init__(samples=samples, lr=lr, **sampled)
        self.early, self.cloning = early, cloning

    def surrogate(self, rollout: Rollout, logp_TS: Tensor, state: State, nll: Tensor) -> tuple[Tensor, Metrics]:
        advantage_TS = group_advantages(rollout.reward_TS)
        loss, metrics = clipped_surrogate(logp_TS, rollout.old_TS, advantage_TS, self.clip, self.early)
        penalty, kl = kl_to_start(logp_TS, rollout.old_TS, rollout.start_TS)
        return loss + self.kl * penalty + self.cloning * nll, {**metrics, "kl": kl}
