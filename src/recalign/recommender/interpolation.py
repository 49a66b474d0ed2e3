"""Find how far a policy may go from its start and still keep a given share of the ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from recalign.data.sequences import Batch, EventDataModule
from recalign.data.sequences.windows import evaluation_windows
from recalign.errors import InputError
from recalign.recommender.policy import Policy
from recalign.recommender.rank_metrics import gain_ndcg

TOLERANCE = 0.005
"""Slack on the share when it is measured again: training measures at its own precision."""
Z_95 = 1.64
"""Standard errors between the measured share and its lower bound: one-sided 95 %."""
MARGIN = 0.02
"""The lower bound may lie this far below the share to keep."""
MIN_NDCG_RETAINED = 0.95
"""Share of the better baseline's NDCG@10 that a row of a report must retain to be shipped, or called the best."""
RETENTION_CONFIDENCE = 0.8
"""One-sided confidence with which a row must retain that on the test split."""
ALPHAS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Points of the interpolation path to try in turn."""
HALVINGS = 5  # bisection steps between the last alpha that keeps enough and the next


def require_share(keep: float | None, where: str) -> None:
    """Refuse, with an InputError, a share that is neither None nor in (0, 1]."""
    if keep is not None and not 0 < keep <= 1:
        remedy = "give one above 0 and at most 1, such as 0.97, or null for no limit"
        raise InputError(f"{keep} is not a share of the start's NDCG@10 to keep", where=where, remedy=remedy)


@dataclass(frozen=True)
class Retention:
    """The share of the start's NDCG@10 that a policy retains, and its standard error.

    Attributes:
        share: retained share of the start's NDCG@10.
        error: its standard error over users; NaN for a single user.
    """

    share: float
    error: float

    @classmethod
    def measure(cls, now_U: np.ndarray, start_U: np.ndarray) -> Retention:
        """Compare the NDCG@10 of a policy with the start's, each summed over the same events of a user.

            share = sum_u now_u / sum_u start_u
            error^2 = n / (n - 1) sum_u (now_u - share start_u)^2 / (sum_u start_u)^2,    n users

        The delta method for a ratio of means over users (Cochran, Sampling Techniques, 6.4). If the start's NDCG is 0,
        the result is `ALL_RETAINED`. Shape: float64 (U,), (U,).
        """
        total, users = start_U.sum(), len(start_U)
        if not total:
            return ALL_RETAINED
        share = now_U.sum() / total
        spread = np.square(now_U - share * start_U).sum()
        return cls(float(share), float(np.sqrt(users / (users - 1) * spread) / total) if users > 1 else float("nan"))

    def enough(self, keep: float) -> bool:
        """Whether the share is at least ``keep``, and its lower bound ``keep - MARGIN``; False if the error is NaN."""
        return self.share >= keep and self.share - Z_95 * self.error >= keep - MARGIN


ALL_RETAINED = Retention(1.0, 0.0)
"""The start's own retention."""


def alpha_within_budget(retention_at: Callable[[float], Retention], keep: float) -> tuple[float, Retention]:
    """Find the last point on the interpolation path before the NDCG budget is first exceeded (`Retention.enough`).

    Tries `ALPHAS` in turn until one keeps too little, then bisects between it and the one before. If all keep enough,
    the last one is taken, within the NDCG budget.

    Args:
        retention_at: retention at an alpha. The start itself, at 0, keeps all.
        keep: the share to keep.

    Returns:
        The alpha, 0 if all bisected points are too far, and the retention there.
    """
    low, found = 0.0, ALL_RETAINED
    for alpha in ALPHAS:
        if not (there := retention_at(alpha)).enough(keep):
            break
        low, found = alpha, there
    else:
        return low, found
    high = alpha
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if (there := retention_at(middle)).enough(keep):
            low, found = middle, there
        else:
            high = middle
    return low, found


def budget_batches(data: EventDataModule, limit: float | None = None) -> Iterator[Batch]:
    """The batches on which retained NDCG is measured: validation events of all users, A, B1 and B2.

    ``data.sample`` does not reduce them: the more users, the smaller the error. Rewards are not targets.

    Args:
        data: the log.
        limit: like ``trainer.limit_val_batches``: a number of batches, or a share of them; None: all.
    """
    sequences = data.sequences
    windows = evaluation_windows(sequences, sequences.users_in("all"), "validation", data.max_length, data.know_request)
    loader = data.loader(windows)
    return islice(loader, int(limit * len(loader)) if isinstance(limit, float) else limit)


@torch.no_grad()
def ndcg_by_user(policy: Policy, batches: Iterable[Batch], device: torch.device) -> np.ndarray:
    """NDCG@10 over the full catalogue without seen items, summed over each user's targets in some batches.

    The policy must be on the device, in evaluation mode. Batches are moved there; they must hold the seen items.

    Shape: -> float64 (U,), users with a target in the order of their index.
    """

    def ranked(batch: Batch) -> tuple[Batch, Tensor]:
        there = batch.to(device)
        return there, policy.ranks_within(policy.encode(there), there.target_T, 10, there.unranked_N)

    return sums_by_user(map(ranked, batches))


def sums_by_user(ranked: Iterable[tuple[Batch, Tensor]]) -> np.ndarray:
    """NDCG@10 summed over each user's targets, from batches with their targets' ranks. Shape: -> float64 (U,)."""
    pairs = [torch.stack([batch.user_B[batch.row_T], rank_T]) for batch, rank_T in ranked]
    if not pairs:
        return np.zeros(0)
    user_T, rank_T = torch.cat(pairs, dim=1).cpu().numpy()
    _, place_T = np.unique(user_T, return_inverse=True)
    return np.bincount(place_T, weights=gain_ndcg(rank_T, 10))
