"""Find how far a policy may go from its start and still keep a given share of the ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from recalign.errors import InputError
from recalign.metrics import RankMetrics
from recalign.recommender.policy import Policy
from recalign.sequences import Batch

KEEP = 0.97
"""Share of the start's NDCG@10 on validation that is kept by default."""
TOLERANCE = 0.005
"""A policy that keeps up to this much more than it must is at the price; one that keeps more has not reached it."""
REACHES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Points of the ray that are tried in turn."""
HALVINGS = 5  # bisection steps between the last of these that keeps enough and the next


def require_share(keep: float | None, where: str) -> None:
    """Refuse, with an InputError, a share that is neither None nor in (0, 1]."""
    if keep is not None and not 0 < keep <= 1:
        raise InputError(
            f"{keep} is no share of the start's ranking",
            where=where,
            remedy=f"give one above 0 and at most 1, such as {KEEP}, or null, which asks for none",
        )


def reach_at_price(kept: Callable[[float], float], enough: float) -> tuple[float, float]:
    """Follow a ray from the start to the last point before the share kept first falls below ``enough``.

    Tries `REACHES` in turn until one keeps too little, then bisects between it and the one before. A ray that keeps
    enough as far as it is tried ends at the last of these.

    Args:
        kept: the share of the start's ranking that is kept at a reach; NaN is too little.
        enough: the share to keep. The start itself, at 0, keeps 1.

    Returns:
        The reach, 0 if already the first bisected point is too far, and the share kept there.
    """
    low, low_share = 0.0, 1.0
    for reach in REACHES:
        share = kept(reach)
        if not share >= enough:
            break
        low, low_share = reach, share
    else:
        return low, low_share
    high = reach
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if (share := kept(middle)) >= enough:
            low, low_share = middle, share
        else:
            high = middle
    return low, low_share


def ndcg(policy: Policy, batches: Iterable[Batch], device: torch.device) -> float:
    """NDCG@10 over the full catalogue without what was seen, of all targets of some batches; NaN if there is none.

    The policy is on the device, in evaluation mode; batches, which hold what was seen, are moved there.
    """
    strength = policy.prior_strength
    return ndcg_by_strength(policy, batches, device, [strength])[strength]


@torch.no_grad()
def ndcg_by_strength(
    policy: Policy, batches: Iterable[Batch], device: torch.device, strengths: list[float]
) -> dict[float, float]:
    """`ndcg` under each strength of the policy's item prior. The last strength stays set.

    A state knows nothing of the prior, so histories are encoded once.
    """
    metrics = {strength: RankMetrics((10,), sync_on_compute=False).to(device) for strength in strengths}
    for batch in batches:
        there = batch.to(device)
        state = policy.encode(there)
        for strength, metric in metrics.items():
            policy.prior_strength = strength
            metric.update(policy.ranks(state, there.target_T, there.seen_N))
    return {strength: float(metric.compute()["ndcg@10"]) for strength, metric in metrics.items()}
