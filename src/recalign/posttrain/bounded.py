"""GBPO: raise what turned out well in the log and lower what did not, with a gradient that stays bounded."""

from __future__ import annotations

import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import gathered
from recalign.posttrain.base import Figures, PostTraining


def gbpo(logp_T: Tensor, advantage_T: Tensor) -> tuple[Tensor, Figures]:
    """L = (sum_{A > 0} A * -log pi + sum_{A < 0} |A| * -log(1 - pi)) / sum |A|: binary cross-entropy of logged items.

    Gradient-bounded policy optimisation (OneRec-V2, arXiv 2508.20900) divides pi by max(pi_old, sg(pi)) where A > 0 and
    by max(pi_old, 1 - sg(pi)) where A < 0, sg: no gradient. Nobody knows the pi_old that chose the logged items, and it
    is left out. The gradients that remain, -A grad log pi and |A| grad pi / (1 - pi), are those of binary
    cross-entropy. An unlikely item is hardly lowered any more, unlike under A log pi.

    Args:
        logp_T: log pi(a | s) of the logged items.
        advantage_T: A; NaN: the event does not count. No gradient flows through it.

    Returns:
        The loss, and ``negative``, the share of the weight |A| below 0; ``pi``, the mean probability of the items that
        are lowered, which scales their gradient.
    """
    advantage_T = advantage_T.detach().nan_to_num()
    up_T, down_T = advantage_T.clamp(min=0), (-advantage_T).clamp(min=0)
    total = (up_T + down_T).sum().clamp(min=torch.finfo(logp_T.dtype).tiny)
    sure = -torch.finfo(logp_T.dtype).eps  # log(1 - pi) stays finite
    rest_T = (-torch.expm1(logp_T.clamp(max=sure))).log()
    below_T = down_T > 0
    return -(up_T * logp_T + down_T * rest_T).sum() / total, {
        "negative": down_T.sum() / total,
        "pi": (logp_T.detach().exp() * below_T).sum() / below_T.sum().clamp(min=1),
    }


class GBPO(PostTraining):
    """Binary cross-entropy of the logged items, weighted by how much better or worse than expected they were (`gbpo`).

    Logs ``gbpo/{negative,pi}``.

    It takes the arguments of `PostTraining`.
    """

    FIGURES = "gbpo"

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        logp_T = self.policy.log_prob(self.policy.encode(batch), batch.target_T)
        return gbpo(gathered(logp_T), gathered(self.advantages(batch)))
