"""GBPO and WBC: raise events that turned out well and lower those that did not, weighted by |A|.

Legend: T events or states, N items drawn at each state, A advantages, z the logit of "a good choice", sg no gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, random_rows
from recalign.errors import Positive
from recalign.posttrain.base import Metrics, PostTraining


def sides(advantage_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positive and negative parts of the advantages, and the sum of |A|. Detached; events with NaN do not count."""
    advantage_T = advantage_T.detach().nan_to_num()
    total = advantage_T.abs().sum().clamp(min=torch.finfo(advantage_T.dtype).tiny)
    return advantage_T.clamp(min=0), (-advantage_T).clamp(min=0), total


def gbpo(logp_T: Tensor, start_T: Tensor, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = (sum_{A > 0} -A pi / max(old, sg(pi)) + sum_{A < 0} |A| pi / max(old, 1 - sg(pi))) / sum |A|.

    Gradient-bounded policy optimisation (OneRec-V2, arXiv 2508.20900). The start, cloned from the log, stands in for
    old, the policy that chose the logged items. At the start the gradients are -A grad log pi and |A| grad pi /
    max(pi, 1 - pi); they shrink with pi / old for items that are less likely than under old.

    Args:
        logp_T: log pi(a | s) of the logged items.
        start_T: log old(a | s); no gradient flows through it.
        advantage_T: A; NaN: the event does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |A| below 0; ``pi``, the mean probability of the items that
        are lowered, which scales their gradient.
    """
    (up_T, down_T, total), now_T, start_T = sides(advantage_T), logp_T.detach(), start_T.detach()
    rest_T = (-torch.expm1(now_T)).clamp(min=0).log()  # log(1 - pi)
    raised_T = (logp_T - torch.maximum(start_T, now_T)).exp()
    lowered_T = (logp_T - torch.maximum(start_T, rest_T)).exp()
    below_T = down_T > 0
    return (down_T * lowered_T - up_T * raised_T).sum() / total, {
        "negative": down_T.sum() / total,
        "pi": (now_T.exp() * below_T).sum() / below_T.sum().clamp(min=1),
    }


class GBPO(PostTraining):
    """Raise and lower logged items by how much better or worse than expected they were, in bounded steps (`gbpo`).

    Logs ``gbpo/{negative,pi}``. It takes the arguments of `PostTraining`.
    """

    LOG_PREFIX = "gbpo"
    use_dropout = False

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        start_T = self.reference_log_probs(batch, batch.target_T[:, None])[:, 0]
        return gbpo(all_gather_rows(logp_T), all_gather_rows(start_T), all_gather_rows(self.advantages(batch)))


def wbc(z_T: Tensor, drawn_TN: Tensor, advantage_T: Tensor) -> tuple[Tensor, Metrics]:
    """L = (sum_{A > 0} A (-log sigma(z) - sum_j log sigma(-z_j)) + sum_{A < 0} |A| -log sigma(-z)) / sum |A|.

    A reading of *weighted binary classification* (GenPage, arXiv 2606.31031), whose formula we do not have: |A| times
    the binary cross-entropy of sigma(z) against [A > 0], with sampled negatives. A good event sets its item against
    items drawn at random; a bad one is a negative itself.

    Args:
        z_T: z of the logged items.
        drawn_TN: z of the items drawn.
        advantage_T: A; NaN: the event does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |A| below 0; ``right``, the share of events on their side of
        z = 0, weighted by |A|; ``drawn``, the mean sigma of the items drawn.
    """
    up_T, down_T, total = sides(advantage_T)
    good_T = softplus(-z_T) + softplus(drawn_TN).sum(dim=1)
    right_T = (up_T * (z_T.detach() > 0)) + down_T * (z_T.detach() < 0)
    return (up_T * good_T + down_T * softplus(z_T)).sum() / total, {
        "negative": down_T.sum() / total,
        "right": right_T.sum() / total,
        "drawn": drawn_TN.detach().sigmoid().mean(),
    }


class WBC(PostTraining):
    """Classify logged items as good or bad choices, weighted by how good or bad they were (`wbc`).

    A softmax policy has no logit of its own: its scores may all be shifted. z is that of noise-contrastive estimation
    (Gutmann and Hyvarinen, AISTATS 2010, equation 3), log pi(a | s) - log(N / V) with N of V items drawn uniformly:
    with all A alike, pi is then the policy that chose the log's items, as in cloning.

    Logs ``wbc/{negative,right,drawn}``.

    Args:
        negatives: N, items drawn at each state.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.
    """

    LOG_PREFIX = "wbc"

    def __init__(self, negatives: Positive[int] = 64, lr: float = 3e-5, **training: Any) -> None:
        super().__init__(lr=lr, **training)
        self.negatives = negatives

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        items, (target_T, there) = self.policy.num_warm, (batch.target_T, batch.target_T.device)
        drawn_TN = random_rows(
            lambda rows: torch.randint(1, items + 1, (rows, self.negatives), device=there), len(target_T), there
        )
        logp_TC = self.policy.log_probs(self.policy.encode(batch), torch.cat([target_T[:, None], drawn_TN], dim=1))
        z_TC = all_gather_rows(logp_TC - math.log(self.negatives / items))
        return wbc(z_TC[:, 0], z_TC[:, 1:], all_gather_rows(self.advantages(batch)))
