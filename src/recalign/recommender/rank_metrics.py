"""Hit rate, NDCG and reciprocal rank of one relevant item, computed from its rank.

Rank 1 is the best. Rank 0 means that the item is not in the catalogue: a miss for every k. With one relevant item the
ideal DCG is 1, so NDCG@k is 1 / log2(rank + 1).

Functions take and return a NumPy array, a Polars series or a torch tensor of any shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

ONE = 2**30  # fixed-point representation of 1 in `RankMetrics`


def hit(rank: Any, k: int) -> Any:
    """Whether the item is in the top k: bool, shaped like `rank`."""
    return (rank > 0) & (rank <= k)


def gain_ndcg(rank: Any, k: int) -> Any:
    """NDCG@k: 1 / log2(rank + 1) in the top k, else 0 (Järvelin & Kekäläinen 2002, one relevant item)."""
    log2 = torch.log2 if isinstance(rank, Tensor) else np.log2
    return hit(rank, k) / log2(rank.clip(1) + 1.0)


def reciprocal(rank: Any) -> Any:
    """1 / rank; 0 for a miss."""
    return (rank > 0) / rank.clip(1)


class RankMetrics(Metric):
    """Means over events of HR@k, NDCG@k and the reciprocal rank; nan without events.

    Sums are integers (gains in units of 2**-30): bit-identical for any order, batch size and number of processes.
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

    def update(self, rank_T: Tensor) -> None:
        """Add events by rank, 0 for a miss. Shape: int64 (T,)."""
        gains = [gain for k in self.ks for gain in (hit(rank_T, k), gain_ndcg(rank_T, k))] + [reciprocal(rank_T)]
        units_CT = torch.stack([(gain * float(ONE)).round().long() for gain in gains])
        self.total += units_CT.sum(1)
        self.events += rank_T.numel()

    def compute(self) -> dict[str, Tensor]:
        """`hr@k`, `ndcg@k` for each k and `mrr`, each a scalar."""
        return dict(zip(self.names, (self.total / self.events / ONE).unbind(), strict=True))
