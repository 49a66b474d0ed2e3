"""WBC: is this item a good choice here? A weighted binary classification of logged items and of items drawn at random.

Legend: T states, N items drawn at each, z the logit of "a good choice", A advantages.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import softplus

from recalign.data.sequences import Batch
from recalign.distributed import gathered, random_rows
from recalign.posttrain.base import Figures, PostTraining, TrainingSettings
from recalign.typed import passes_on


def wbc(z_T: Tensor, drawn_TN: Tensor, advantage_T: Tensor) -> tuple[Tensor, Figures]:
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
    advantage_T = advantage_T.detach().nan_to_num()
    up_T, down_T = advantage_T.clamp(min=0), (-advantage_T).clamp(min=0)
    total = (up_T + down_T).sum().clamp(min=torch.finfo(z_T.dtype).tiny)
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

    FIGURES = "wbc"
    POSITIVE = ("negatives",)

    @passes_on
    def __init__(self, negatives: int = 64, lr: float = 3e-5, **training: Unpack[TrainingSettings]) -> None:
        super().__init__(lr=lr, **training)
        self.negatives = negatives

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        items, (target_T, there) = self.policy.num_warm, (batch.target_T, batch.target_T.device)
        drawn_TN = random_rows(
            lambda rows: torch.randint(1, items + 1, (rows, self.negatives), device=there), len(target_T), there
        )
        logp_TC = self.policy.log_probs(self.policy.encode(batch), torch.cat([target_T[:, None], drawn_TN], dim=1))
        z_TC = gathered(logp_TC - math.log(self.negatives / items))
        return wbc(z_TC[:, 0], z_TC[:, 1:], gathered(self.advantages(batch)))
