"""How much of its ranking a policy keeps, and how far it may go so that enough is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from recalign.errors import InputError
from recalign.metrics import RankMetrics
from recalign.recommender.policy import Policy
from recalign.sequences import Batch

KEEP = 0.97
"""Share of the start's NDCG@10 that is kept on validation unless something else is asked for."""
HALVINGS = 4  # of what is left of the way: it ends within a sixteenth of where it could


def require_share(keep: float | None, where: str) -> None:
    """Refuse what is no share to keep.

    Raises:
        InputError: it is not above 0 and at most 1, nor None.
    """
    if keep is not None and not 0 < keep <= 1:
        raise InputError(
            f"{keep} is no share of the start's ranking",
            where=where,
            remedy=f"give one above 0 and at most 1, such as {KEEP}, or null, which asks for none",
        )


def largest_interpolation(kept: Callable[[float], float], enough: float) -> tuple[float, float]:
    """How far one may go from 0 towards 1, and what is kept there; all the way where enough is kept at its end.

    Searched by halving, so where more is lost the further one goes; 0 if too much is lost at 1/16 already. Nothing is
    measured at 0, where all is kept.

    Args:
        kept: share that is kept, by how far one has gone.
        enough: share that has to be kept, at most 1.

    Returns:
        How far, 0..1, and the share kept there: at least `enough`.
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
    """NDCG@10 over the whole catalogue without what was seen, of the targets of some batches; nan where there is none.

    Args:
        policy: on the device, in evaluation mode.
        batches: with what was seen.
        device: that they go to.
    """
    metric = RankMetrics((10,), sync_on_compute=False)
    metric.to(device)
    for batch in batches:
        there = batch.to(device)
        metric.update(policy.ranks(policy.encode(there), there.target_T, there.seen_N))
    return float(metric.compute()["ndcg@10"])
