"""Kahneman-Tversky optimisation: logged events marked good or bad, without pairs (KTO, arXiv 2402.01306).

Legend: T events, Delta = log pi(y | s) - log pi_start(y | s) the log-ratio of item y to the start.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences import Batch
from recalign.distributed import all_gather_rows, own_rows
from recalign.errors import NonNegative, Positive
from recalign.posttrain.base import Metrics, PostTraining
from recalign.posttrain.data import StateValue
from recalign.posttrain.shown_data import ShownData


class KTOData(ShownData):
    """Shown rows with advantages, of which KTO uses only the sign; a skipped row without a reward is bad.

    Args:
        baseline: as in `recalign.posttrain.PostTrainingData`, over all shown rows.
        **data: arguments of `ShownData`.
    """

    def __init__(self, baseline: StateValue = "user", **data: Any) -> None:
        super().__init__(baseline=baseline, **data)

    @functools.cached_property
    def advantages(self) -> np.ndarray:
        advantage_E, event = super().advantages, self.training_windows().event
        skipped = event[event >= len(self.sequences.frame)]
        advantage_E[skipped] = np.nan_to_num(advantage_E[skipped], nan=-1.0)
        return advantage_E


def kto(
    ratio_T: Tensor,
    mismatched_T: Tensor,
    advantage_T: Tensor,
    beta: float,
    good: float = 1.0,
    bad: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """L = mean of lambda (1 - sigma(+-beta (Delta - z))): Kahneman-Tversky optimisation (arXiv 2402.01306).

    Each item is labelled good (+) or bad (-); there are no pairs. The reference point z is the mean Delta of
    mismatched items, at least 0, as in TRL's `kto_trainer.py`; 0 if there are none.

    Args:
        ratio_T: Delta of the logged item.
        mismatched_T: Delta of another user's item, NaN if there is none; no gradient flows through it.
        advantage_T: above 0: good; below 0: bad; 0 or NaN: ignored.
        beta: how fast the value of an item saturates.
        good, bad: lambda of good and of bad items.

    Returns:
        The loss, and ``accuracy``, the share of items on their own side of z; ``winner`` and ``loser``, mean Delta of
        the good and of the bad items; ``margin``, their difference; ``share``, of events that are good or bad;
        ``good``, the share of good among these; ``z``; ``margins``, +-(Delta - z) of each item, NaN if neither.
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


class KTO(PostTraining):
    """Raise good events and lower bad ones, without pairs: KTO on `KTOData`, or `recalign.posttrain.PostTrainingData`.

    An event is good if its advantage is above 0 (its reward above the baseline), bad if below. `KTOData` adds
    skipped rows (shown but not chosen); those without a reward are bad.

    Logs ``pairs/{accuracy,margin,winner,loser,share,good,z,margins}`` (`kto`), the last a histogram.

    Args:
        beta: how fast the value of an item saturates.
        good: weight of good events.
        bad: weight of bad events.
        lr: AdamW's learning rate.
        **training: arguments of `PostTraining`.
    """

    LOG_PREFIX = "pairs"
    use_dropout = False

    def __init__(
        self,
        beta: Positive[float] = 0.1,
        good: NonNegative[float] = 1.0,
        bad: NonNegative[float] = 1.0,
        lr: float = 1.5e-5,
        **training: Any,
    ) -> None:
        super().__init__(lr=lr, **training)
        self.beta, self.good, self.bad = beta, good, bad

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        all_T, user_T = all_gather_rows(batch.target_T), all_gather_rows(batch.user_B[batch.row_T])
        half = len(all_T) // 2  # half a batch away is another user, unless one user fills more than half
        own = own_rows(len(batch.target_T), batch.target_T.device)
        item_TC = torch.stack([batch.target_T, all_T.roll(half)[own]], dim=1)
        ratio_T, other_T = all_gather_rows(self.log_ratios(batch, item_TC, self.reference)).unbind(dim=1)
        mismatched_T = other_T.where(user_T.roll(half) != user_T, torch.nan)
        return kto(ratio_T, mismatched_T, all_gather_rows(self.advantages(batch)), self.beta, self.good, self.bad)
