"""Hit rate, NDCG and reciprocal rank of one relevant item, from its rank alone.

A rank counts from 1 (best). 0 is a miss for every k: the item is not in the catalogue. With one relevant item the ideal
DCG is 1, so NDCG@k is the item's own gain, 1 / log2(rank + 1).

The functions return what they are given: a NumPy array, a Polars series or a torch tensor, of any shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

ONE = 2**30  # a gain of 1 in the fixed point of `RankMetrics`


def hit(rank: Any, k: int) -> Any:
    """Whether the item is among the first k: bool, the shape of `rank`."""
    return (rank > 0) & (rank <= k)


def gain_ndcg(rank: Any, k: int) -> Any:
    """NDCG@k: 1 / log2(rank + 1) among the first k, else 0 (Järvelin & Kekäläinen 2002, one relevant item)."""
    log2 = torch.log2 if isinstance(rank, Tensor) else np.log2
    return hit(rank, k) / log2(rank.clip(1) + 1.0)


def reciprocal(rank: Any) -> Any:
    """1 / rank, and 0 for a miss."""
    return (rank > 0) / rank.clip(1)


class RankMetrics(Metric):
    """Means over events of HR@k, NDCG@k and the reciprocal rank; nan without events.

    Sums are integers (gains in units of 2**-30), so that the result is the same to the last bit for any order, batches
    and processes, also on devices without float64.
    """

    full_state_update = False
    total: Tensor
    events: Tensor

    def __init__(self, ks: tuple[int, ...] = (10,), **settings: Any) -> None:
        super().__init__(**settings)
        self.ks = ks
        self.names = [f"{name}@{k}" for k in ks for name in ("hr", "ndcg")] + ["mrr"]
        self.add_state("total", torch.zeros(len(self.names), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("events", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, rank_T: Tensor, mask_T: Tensor | None = None) -> None:
        """Add events by their ranks, 0 for a miss; with a bool mask only some of them."""
        gains = [gain for k in self.ks for gain in (hit(rank_T, k), gain_ndcg(rank_T, k))] + [reciprocal(rank_T)]
        units_CT = torch.stack([(gain * float(ONE)).round().long() for gain in gains])
        counts_T = torch.ones_like(rank_T, dtype=torch.bool) if mask_T is None else mask_T
        self.total += (units_CT * counts_T).sum(1)
        self.events += counts_T.sum()

    def compute(self) -> dict[str, Tensor]:
        """`hr@k`, `ndcg@k` for each k and `mrr`, each a scalar."""
        mean_C = self.total / self.events / ONE
        return dict(zip(self.names, mean_C.unbind(), strict=True))
