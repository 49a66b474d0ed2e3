"""PPO: a clipped policy gradient with a learned value (Schulman et al., arXiv 1707.06347)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recalign.posttrain.actions import SampledActions
from recalign.posttrain.heads import StateValue, state_width
from recalign.posttrain.losses import clipped_surrogate
from recalign.posttrain.rollout import Rollout


class PPO(SampledActions):
    """Clipped ratios, A = r - beta (log old - log start) - V(s), made of mean 0 and deviation 1 within a batch.

    Rewards are in standard deviations from their mean. V is a head on the policy's state that learns by squared error
    and does not move the state. Logs ``sampled/{clipped,ratio}`` and ``sampled/value_error``, V's mean squared error.

    Args:
        value_lr: AdamW's learning rate of V.
        **sampled: what `SampledActions` takes.
    """

    def __init__(self, value_lr: float = 1e-2, **sampled: Any) -> None:
        super().__init__(**sampled)
        self.value, self.value_lr = StateValue(state_width(self.policy)), value_lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        optimizer.add_param_group({"params": self.value.parameters(), "lr": self.value_lr, "weight_decay": 0.0})
        return optimizer

    def surrogate(self, rollout: Rollout, logp_TS: Tensor, state: Tensor, nll: Tensor) -> Tensor:
        reward_TS = rollout.reward_TS - self.kl * (rollout.old_TS - rollout.start_TS)
        error_TS = reward_TS - self.value(state.detach())[:, None]
        advantage_TS = (error_TS - error_TS.mean()) / (error_TS.std(correction=0) + 1e-4)
        loss, figures = clipped_surrogate(logp_TS, rollout.old_TS, advantage_TS, self.clip)
        value_error = error_TS.square().mean()
        self.log_dict({f"sampled/{k}": v for k, v in {**figures, "value_error": value_error.detach()}.items()})
        return loss + value_error
