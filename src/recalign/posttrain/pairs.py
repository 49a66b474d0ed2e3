"""Preference optimisation on pairs: DPO, IPO, S-DPO and SimPO.

Legend: T states, N losers per winner, Delta = log pi(y | s) - log pi_ref(y | s) the log-ratio of item y to the
reference, Delta+ that of the winner, Delta- that of a loser.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows
from recalign.errors import NonNegative, Positive
from recalign.posttrain.base import Metrics, PostTraining
from recalign.posttrain.pairs_data import PairData

PairLoss = Literal["dpo", "ipo", "sdpo", "simpo"]


def preference(
    winner_T: Tensor, loser_TN: Tensor, loss: PairLoss, beta: float, gamma: float = 0.0
) -> tuple[Tensor, Metrics]:
    """Preference loss, the mean over pairs (over states for S-DPO) of

    - dpo: -log sigma(beta (Delta+ - Delta-)): direct preference optimisation (arXiv 2305.18290, equation 7);
    - ipo: (Delta+ - Delta- - 1 / (2 beta))^2: identity preference optimisation (arXiv 2310.12036), with a fixed
      target margin; beta as in TRL's `dpo_trainer.py`;
    - sdpo: -log sigma(-log sum_j exp(beta (Delta-_j - Delta+))): softmax DPO (arXiv 2406.09215), the winner against all
      its losers at once; with one loser it is DPO;
    - simpo: -log sigma(beta (log pi(y+ | s) - log pi(y- | s)) - gamma): SimPO (arXiv 2405.14734). An item has length 1,
      so there is no length normalisation.

    Args:
        winner_T: Delta+ (SimPO: log pi(y+ | s)).
        loser_TN: Delta-_j (SimPO: log pi(y-_j | s)).
        loss: name of the loss.
        beta: scale of the log-ratios. A small beta lets the policy move far from the start.
        gamma: target margin of SimPO; the others ignore it.

    Returns:
        The loss, and ``accuracy``, the share of pairs with Delta+ > Delta-; ``margin``, the mean of Delta+ - Delta-;
        ``winner`` and ``loser``, their means: both may fall while the margin grows; ``margins``, every Delta+ - Delta-.
    """
    gap_TN = winner_T[:, None] - loser_TN
    match loss:
        case "dpo":
            cost = -logsigmoid(beta * gap_TN)
        case "ipo":
            cost = (gap_TN - 1 / (2 * beta)).square()
        case "sdpo":
            cost = -logsigmoid(-(-beta * gap_TN).logsumexp(dim=1))
        case "simpo":
            cost = -logsigmoid(beta * gap_TN - gamma)
    gap_TN = gap_TN.detach()
    return cost.mean(), {
        "accuracy": (gap_TN > 0).float().mean(),
        "margin": gap_TN.mean(),
        "winner": winner_T.detach().mean(),
        "loser": loser_TN.detach().mean(),
        "margins": gap_TN,
    }


class Preferences(PostTraining):
    """Raise the winner of each pair above its losers, by DPO, IPO, S-DPO or SimPO, on `recalign.posttrain.PairData`.

    Targets without a pair do not count.

    Logs ``pairs/{accuracy,margin,winner,loser,margins}`` (`preference`), the last a histogram, and ``pairs/share``, the
    share of training events that have a pair.

    Args:
        loss: dpo, ipo, sdpo or simpo (`preference`).
        beta: scale of the log-ratios. A small beta lets the policy move far from the start.
        gamma: target margin of SimPO; the others ignore it.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.
    """

    LEARNS_FROM = PairData
    LOG_PREFIX = "pairs"
    use_dropout = False

    def __init__(
        self,
        loss: PairLoss = "dpo",
        beta: Positive[float] = 0.1,
        gamma: NonNegative[float] = 0.0,
        lr: float = 1.5e-5,
        **training: Any,
    ) -> None:
        super().__init__(lr=lr, **training)
        self.kind: PairLoss = loss
        self.beta, self.gamma = beta, gamma

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics] | None:
        assert batch.rejected_TN is not None
        paired_T = (batch.rejected_TN > 0).all(dim=1)
        if not all_gather_rows(paired_T).any():
            return None
        item_TC = torch.cat([batch.target_T[:, None], batch.rejected_TN], dim=1)[paired_T]
        paired = batch.keep(paired_T)
        if self.kind == "simpo":
            value_TC = all_gather_rows(self.policy.log_probs(self.policy.encode(paired), item_TC))
        else:
            value_TC = all_gather_rows(self.log_ratios(paired, item_TC, self.reference))
        loss, metrics = preference(value_TC[:, 0], value_TC[:, 1:], self.kind, self.beta, self.gamma)
        return loss, {**metrics, "share": self.data.share}  # type: ignore[attr-defined]
