"""Off-policy REINFORCE with importance weights and the top-K correction (Chen et al., arXiv 1812.02353)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows
from recalign.errors import Positive
from recalign.posttrain.base import Metrics, PostTraining


def top_k_reinforce(
    logp_T: Tensor, behaviour_T: Tensor, reward_T: Tensor, k: int, cap: float
) -> tuple[Tensor, Metrics]:
    """L = -mean w lambda_K R log pi(a | s), w = min(pi / beta, cap), lambda_K = K (1 - pi)^(K - 1).

    The importance weight w corrects for the behaviour policy beta that chose the logged items. lambda_K accounts for K
    items being shown at once. Both are detached.

    Args:
        logp_T: log pi(a | s) of the logged items.
        behaviour_T: log beta(a | s).
        reward_T: R; NaN: no reward, the event does not count.
        k: K; 1: no top-K correction.
        cap: largest importance weight.

    Returns:
        The loss, and ``ess``, the effective sample size of the importance weights as a share of the events, ``capped``,
        the share of capped weights, and ``lambda``, the mean of lambda_K.
    """
    known_T = ~reward_T.isnan()
    now_T = logp_T.detach()
    ratio_T = (now_T - behaviour_T).exp() * known_T
    weight_T = ratio_T.clamp(max=cap)
    lambda_T = k * (1 - now_T.exp()).clamp(min=0) ** (k - 1)
    count = known_T.sum().clamp(min=1)
    tiny = torch.finfo(logp_T.dtype).tiny
    return -(weight_T * lambda_T * reward_T.nan_to_num() * logp_T).sum() / count, {
        "ess": weight_T.sum().square() / (count * weight_T.square().sum()).clamp(min=tiny),
        "capped": (ratio_T > cap).sum() / count,
        "lambda": (lambda_T * known_T).sum() / count,
    }


class Reinforce(PostTraining):
    """Weight logged items by their reward, by pi / beta and by lambda_K (`top_k_reinforce`).

    The start, cloned from the log, stands in for the unknown behaviour policy beta. The reward is the batch's
    advantage; its baseline reduces the variance.

    Logs ``reinforce/{ess,capped,lambda}``.

    Args:
        k: K, items shown together; 1: no top-K correction.
        cap: largest importance weight pi / beta.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.
    """

    LOG_PREFIX = "reinforce"
    use_dropout = False

    def __init__(self, k: Positive[int] = 10, cap: Positive[float] = 10.0, lr: float = 1.5e-5, **training: Any) -> None:
        super().__init__(lr=lr, **training)
        self.k, self.cap = k, cap

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        behaviour_T = self.reference_log_probs(batch, batch.target_T[:, None])[:, 0]
        reward_T = all_gather_rows(self.advantages(batch))
        return top_k_reinforce(all_gather_rows(logp_T), all_gather_rows(behaviour_T), reward_T, self.k, self.cap)
