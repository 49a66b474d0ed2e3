"""Training in several processes: each takes a share of every batch, and losses are those of the whole batch.

Everything here is the identity in a single process. With several, every process has to make the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_rank_zero() -> bool:
    """Whether this is the only process, or rank 0, which writes files; valid before processes connect."""
    return getattr(rank_zero_only, "rank", 0) == 0


def row_counts(rows: int, device: torch.device) -> list[int]:
    """Number of rows of each process, by rank. A collective call."""
    if not is_distributed():
        return [rows]
    own = torch.tensor([rows], device=device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.cat(found).tolist()


def own_rows(rows: int, device: torch.device) -> slice:
    """The slice of this process's rows among the rows of all processes. A collective call."""
    by_rank = row_counts(rows, device)
    first = sum(by_rank[: dist.get_rank()]) if is_distributed() else 0
    return slice(first, first + rows)


def all_gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, by rank. Shape: (own rows, ...) -> (all rows, ...).

    A loss of gathered rows is the loss of the whole batch, in every process. Its gradient flows to this process's
    rows only, multiplied by the number of processes, because DDP averages gradients.
    """
    if not is_distributed():
        return x
    if x.dtype == torch.bool:
        return all_gather_rows(x.byte()).bool()
    return _Gathered.apply(x, row_counts(len(x), x.device))


def random_rows(make: Callable[[int], Tensor], rows: int, device: torch.device) -> Tensor:
    """This process's rows of rank 0's random draw for the whole batch; ``make(n)`` draws n rows."""
    if not is_distributed():
        return make(rows)
    return broadcast(make(sum(row_counts(rows, device))))[own_rows(rows, device)]


def broadcast(x: Tensor) -> Tensor:
    """Rank 0's tensor, in every process. All must have its shape and dtype."""
    if is_distributed():
        dist.broadcast(x, src=0)
    return x


def broadcast_floats(values: Sequence[float], device: torch.device) -> list[float]:
    """Rank 0's numbers, in every process: their own may differ in the last digits."""
    if not is_distributed():
        return list(values)
    return broadcast(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, by_rank: list[int]) -> Tensor:
        first = sum(by_rank[: dist.get_rank()])
        ctx.own, ctx.processes = slice(first, first + len(x)), len(by_rank)
        padded = x.new_zeros(max(by_rank), *x.shape[1:])
        padded[: len(x)] = x
        found = [torch.empty_like(padded) for _ in by_rank]
        dist.all_gather(found, padded)
        return torch.cat([part[:rows] for part, rows in zip(found, by_rank, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.own] * ctx.processes, None
