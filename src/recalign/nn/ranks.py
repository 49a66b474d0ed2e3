"""Exact ranks over the catalogue in bounded memory. `recalign.nn.topk` makes lists in the same way.

Scores are computed in blocks of rows x items. Memory holds one block at a time, and a running count of the items ahead.
Products are in the items' precision, also under autocast.

`seen` is a pair of int64 tensors (row_N, item_N): row_N[n] is ranked without item_N[n].

Shape suffixes:
    T  rows      V  items of the catalogue      D  width      N  pairs to leave out
    C  rows of a chunk      I  items of a block
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Pairs = tuple[Tensor, Tensor]
Blocks = Callable[[slice], Iterable[tuple[int, Tensor]]]  # rows -> (first item, score_CI) of each block

ROWS, ITEMS = 512, 2**13  # of a block of scores


@torch.no_grad()
def target_ranks(query_TD: Tensor, item_VD: Tensor, target_T: Tensor, seen: Pairs | None = None) -> Tensor:
    """Rank of each target by dot product among the unseen items, 1 the best: (T,), int64.

    Ties count as ahead, so that a constant scorer gains nothing. If the target's score is NaN, all items are ahead. A
    target is ranked even if it was seen. A target of -1 (unknown item) has rank 0.
    """
    return _ranks(dot_products(query_TD, item_VD), target_T, len(item_VD), seen)


@torch.no_grad()
def ranks_from_scores(score_TV: Tensor, target_T: Tensor, seen: Pairs | None = None) -> Tensor:
    """`target_ranks` for given scores (T, V)."""
    return _ranks(lambda rows: [(0, score_TV[rows])], target_T, score_TV.shape[1], seen)


def dot_products(query_TD: Tensor, item_VD: Tensor) -> Blocks:
    """Scores of rows in blocks of items."""

    def blocks(rows: slice) -> Iterator[tuple[int, Tensor]]:
        query_CD = query_TD[rows].to(item_VD.dtype)
        for start in range(0, len(item_VD), ITEMS):
            with torch.autocast(query_CD.device.type, enabled=False):
                yield start, query_CD @ item_VD[start : start + ITEMS].T

    return blocks


def _ranks(blocks: Blocks, target_T: Tensor, items: int, seen: Pairs | None) -> Tensor:
    if (target_T >= items).any():
        raise IndexError(f"target {target_T.max().item()} is outside the catalogue of {items} items")
    ahead_T = torch.zeros_like(target_T)
    for rows, (seen_row_N, seen_item_N) in row_chunks(len(target_T), seen, target_T.device):
        target_C = target_T[rows]
        row_C = torch.arange(len(target_C), device=target_C.device)
        skipped = torch.cat([seen_row_N, row_C]), torch.cat([seen_item_N, target_C])
        # A single block is kept. Several are computed twice, so that only one is in memory at a time.
        only = list(blocks(rows)) if items <= ITEMS else None
        # Take the target's score from the same blocks: another summation order could change its last bit.
        target_score_C = torch.stack(
            [_score_in_block(score_CI, start, target_C) for start, score_CI in only or blocks(rows)]
        ).sum(dim=0)
        for start, score_CI in only or blocks(rows):
            ahead_CI = (score_CI < target_score_C[:, None]).logical_not_()  # not >=: NaN counts as ahead
            ahead_CI[in_block(skipped, start, score_CI)] = False
            ahead_T[rows] += ahead_CI.sum(dim=1)
    return (ahead_T + 1).masked_fill(target_T < 0, 0)


def _score_in_block(score_CI: Tensor, start: int, item_C: Tensor) -> Tensor:
    """Score of each row's item if it is in the block, else 0: (C,)."""
    place_C = item_C - start
    inside_C = (place_C >= 0) & (place_C < score_CI.shape[1])
    return score_CI.gather(1, place_C.where(inside_C, 0)[:, None])[:, 0].where(inside_C, 0)


def in_block(pairs: Pairs, start: int, score_CI: Tensor) -> Pairs:
    """The pairs whose item is in the block, as indices into the block."""
    row_N, item_N = pairs
    inside_N = (item_N >= start) & (item_N < start + score_CI.shape[1])
    return row_N[inside_N], item_N[inside_N] - start


def row_chunks(count: int, seen: Pairs | None, device: torch.device) -> Iterator[tuple[slice, Pairs]]:
    """Yield slices of ROWS rows with their seen pairs, whose rows count from the slice's start."""
    row_N, item_N = seen if seen is not None else (torch.empty(0, dtype=torch.int64, device=device),) * 2
    row_N, order_N = row_N.sort()
    bounds = torch.searchsorted(row_N, torch.arange(0, count + ROWS, ROWS, device=device)).tolist()
    for start, first, last in zip(range(0, count, ROWS), bounds, bounds[1:], strict=False):
        yield slice(start, start + ROWS), (row_N[first:last] - start, item_N[order_N[first:last]])
