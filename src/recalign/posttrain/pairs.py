"""Preference optimisation: DPO, IPO, S-DPO and SimPO on pairs, KTO on single events.

Legend: T states, N losers per winner, Delta = log pi(y | s) - log pi_ref(y | s) the log-ratio of item y to the
reference, Delta+ that of the winner, Delta- that of a loser.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recalign.data.sequences import Batch
from recalign.distributed import gathered, own_rows
from recalign.posttrain.base import Figures, PostTraining, TrainingSettings
from recalign.posttrain.pairs_data import PairData
from recalign.typed import passes_on

PairLoss = Literal["dpo", "ipo", "sdpo", "simpo"]


def preference(
    winner_T: Tensor, loser_TN: Tensor, loss: PairLoss, beta: float, gamma: float = 0.0
) -> tuple[Tensor, Figures]:
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


def kto(
    ratio_T: Tensor, mismatched_T: Tensor, advantage_T: Tensor, beta: float, good: float = 1.0, bad: float = 1.0
) -> tuple[Tensor, Figures]:
    """L = mean of lambda (1 - sigma(+-beta (Delta - z))): Kahneman-Tversky optimisation (arXiv 2402.01306).

    Each item is labelled good (+) or bad (-); there are no pairs. The reference point z is the mean Delta of
    mismatched items, at least 0, as in TRL's `kto_trainer.py`; 0 where there are none.

    Args:
        ratio_T: Delta of the logged item.
        mismatched_T: Delta of another user's item, NaN where there is none; no gradient flows through it.
        advantage_T: above 0: good; below 0: bad; 0 or NaN: ignored.
        beta: how fast the value of an item saturates.
        good, bad: lambda of good and of bad items.

    Returns:
        The loss, and ``accuracy``, the share of items on their own side of z; ``margin``, mean Delta of the good less
        that of the bad; ``winner`` and ``loser``, either; ``share``, of the events that are good or bad; ``good``, of
        those that are good; ``z``; ``margins``, how far each item is on its own side of z, NaN where it has none.
    """
    sign_T = advantage_T.nan_to_num().sign()
    z = mismatched_T.detach().nanmean().nan_to_num().clamp(min=0)
    lambda_T = torch.where(sign_T > 0, good, bad) * sign_T.abs()
    count = sign_T.abs().sum().clamp(min=1)
    loss = (lambda_T * (1 - (beta * sign_T * (ratio_T - z)).sigmoid())).sum() / count
    ratio_T = ratio_T.detach()
    winner, loser = ((ratio_T * side_T).sum() / side_T.sum().clamp(min=1) for side_T in (sign_T > 0, sign_T < 0))
    margin_T = sign_T * (ratio_T - z)
    return loss, {
        "accuracy": (margin_T > 0).sum() / count,
        "margin": winner - loser,
        "winner": winner,
        "loser": loser,
        "share": sign_T.abs().mean(),
        "good": (sign_T > 0).sum() / count,
        "z": z,
        "margins": margin_T.where(sign_T != 0, float("nan")),
    }


class Preferences(PostTraining):
    """Raise the winner of each pair above its losers: DPO, IPO, S-DPO or SimPO, on `recalign.posttrain.PairData`.

    Targets without a pair do not count.

    Logs ``pairs/{accuracy,margin,winner,loser,margins}`` (`preference`), the last a histogram, and ``pairs/share``, of
    the training events that have a pair.

    Args:
        loss: dpo, ipo, sdpo or simpo (`preference`).
        beta: scale of the log-ratios. A small beta lets the policy move far from the start.
        gamma: target margin of SimPO; the others ignore it.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.
    """

    LEARNS_FROM = PairData
    FIGURES = "pairs"
    POSITIVE = ("beta",)
    NOT_NEGATIVE = ("gamma",)
    use_dropout = False

    @passes_on
    def __init__(
        self,
        loss: PairLoss = "dpo",
        beta: float = 0.1,
        gamma: float = 0.0,
        lr: float = 1.5e-5,
        **training: Unpack[TrainingSettings],
    ) -> None:
        super().__init__(lr=lr, **training)
        self.kind: PairLoss = loss
        self.beta, self.gamma = beta, gamma

    def loss(self, batch: Batch) -> tuple[Tensor, Figures] | None:
        assert batch.rejected_TN is not None
        paired_T = (batch.rejected_TN > 0).all(dim=1)
        if not gathered(paired_T).any():
            return None
        item_TC = torch.cat([batch.target_T[:, None], batch.rejected_TN], dim=1)[paired_T]
        paired = batch.keep(paired_T)
        if self.kind == "simpo":
            value_TC = gathered(self.policy.log_probs(self.policy.encode(paired), item_TC))
        else:
            value_TC = gathered(self.log_ratios(paired, item_TC, self.reference))
        loss, figures = preference(value_TC[:, 0], value_TC[:, 1:], self.kind, self.beta, self.gamma)
        return loss, {**figures, "share": self.data.share}  # type: ignore[attr-defined]


class KTO(PostTraining):
    """Raise good events and lower bad ones, without pairs: KTO on `recalign.posttrain.PostTrainingData`.

    An event is good if its advantage is above 0 (its reward above the baseline), bad if below.

    Logs ``pairs/{accuracy,margin,winner,loser,share,good,z,margins}`` (`kto`), the last a histogram.

    Args:
        beta: how fast the value of an item saturates.
        good: weight of good events.
        bad: weight of bad events.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.
    """

    FIGURES = "pairs"
    POSITIVE = ("beta",)
    NOT_NEGATIVE = ("good", "bad")
    use_dropout = False

    @passes_on
    def __init__(
        self,
        beta: float = 0.1,
        good: float = 1.0,
        bad: float = 1.0,
        lr: float = 1.5e-5,
        **training: Unpack[TrainingSettings],
    ) -> None:
        super().__init__(lr=lr, **training)
        self.beta, self.good, self.bad = beta, good, bad

    def loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        all_T, user_T = gathered(batch.target_T), gathered(batch.user_B[batch.row_T])
        half = len(all_T) // 2  # half a batch away is another user's item, unless one user has more than that
        own = own_rows(len(batch.target_T), batch.target_T.device)
        item_TC = torch.stack([batch.target_T, all_T.roll(half)[own]], dim=1)
        ratio_T, other_T = gathered(self.log_ratios(batch, item_TC, self.reference)).unbind(dim=1)
        mismatched_T = other_T.where(user_T.roll(half) != user_T, torch.nan)
        return kto(ratio_T, mismatched_T, gathered(self.advantages(batch)), self.beta, self.good, self.bad)
