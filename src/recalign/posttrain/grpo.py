"""GRPO (arXiv 2402.03300), and OneRec's ECPO (arXiv 2506.13695): advantages within the items drawn at one state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recalign.errors import require_positive
from recalign.posttrain.actions import SampledActions
from recalign.posttrain.losses import clipped_surrogate, group_advantages, kl_estimate
from recalign.posttrain.rollout import Rollout


class GRPO(SampledActions):
    """Clipped ratios with advantages within the items drawn at a state, and the KL to the start as a loss.

    With ``early`` and ``cloning`` it is OneRec's ECPO. Logs ``sampled/{clipped,ratio}`` and ``sampled/kl``, the
    estimated KL.

    Args:
        early: delta of the early clip; null: none (GRPO).
        cloning: weight of behaviour cloning beside it.
        **sampled: what `SampledActions` takes.
    """

    fewest_samples = 2

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        super().check_settings(given)
        require_positive("model", given, "early")

    def __init__(self, early: float | None = None, cloning: float = 0.0, **sampled: Any) -> None:
        super().__init__(**sampled)
        self.early, self.cloning = early, cloning

    def surrogate(self, rollout: Rollout, logp_TS: Tensor, state: Tensor, nll: Tensor) -> Tensor:
        advantage_TS = group_advantages(rollout.reward_TS)
        loss, figures = clipped_surrogate(logp_TS, rollout.old_TS, advantage_TS, self.clip, self.early)
        kl = kl_estimate(logp_TS, rollout.start_TS)
        self.log_dict({f"sampled/{k}": v for k, v in {**figures, "kl": kl.detach()}.items()})
        return loss + self.kl * kl + self.cloning * nll
