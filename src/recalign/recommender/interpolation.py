"""Interpolate between two policies so that enough of the ranking is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from recalign.errors import InputError
from recalign.metrics import RankMetrics
from recalign.recommender.policy import Policy
from recalign.sequences import Batch

KEEP = 0.97
"""Share of the start's NDCG@10 on validation that is kept by default."""
HALVINGS = 4  # bisection steps: alpha is found to a sixteenth


def require_share(keep: float | None, where: str) -> None:
    """Refuse a share of the ranking to keep that is neither None nor above 0 and at most 1, with an InputError."""
    if keep is not None and not 0 < keep <= 1:
        raise InputError(
            f"{keep} is no share of the start's ranking",
            where=where,
            remedy=f"give one above 0 and at most 1, such as {KEEP}, or null, which asks for none",
        )


def largest_interpolation(kept: Callable[[float], float], enough: float) -> tuple[float, float]:
    """Find by bisection the largest alpha in 0..1 at which the share kept is enough; 0 if already 1/16 is too far.

    Assumes that the share falls with alpha, and is 1 at 0.

    Returns:
        alpha, and the share kept there, at least `enough`.
    """
    if (share := kept(1.0)) >= enough:
        return 1.0, share
    low, low_share, high = 0.0, 1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if (share := kept(middle)) >= enough:
            low, low_share = middle, share
        else:
            high = middle
    return low, low_share


@torch.no_grad()
def ndcg(policy: Policy, batches: Iterable[Batch], device: torch.device) -> float:
    """NDCG@10 over the full catalogue without what was seen, of all targets of some batches; NaN if there is none.

    The policy is on the device, in evaluation mode; batches, which hold what was seen, are moved there.
    """
    metric = RankMetrics((10,), sync_on_compute=False).to(device)
    for batch in batches:
        there = batch.to(device)
        metric.update(policy.ranks(policy.encode(there), there.target_T, there.seen_N))
    return float(metric.compute()["ndcg@10"])
