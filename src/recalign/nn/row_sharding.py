"""A table whose rows are sharded over processes (row-wise sharding), and the softmax over all of its rows.

Each process holds a contiguous part of the rows, and the queries of its share of a batch. All processes must make the
same calls in the same order, even without queries. A lookup exchanges ids and rows (all-to-all, as in TorchRec).
The softmax is parallel over the vocabulary: each process multiplies the queries of all processes with its own rows,
and all-reduces combine the sums (as in Megatron-LM, arXiv 1909.08053). Gradients of the rows are averaged over
processes, as DDP does for replicated weights, so losses are those of `recalign.distributed`.

Shape suffixes as in `recalign.nn.softmax`, with T this process's positions and V its own rows; A positions of all
processes, N ids to look up, U distinct ids, K items kept.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recalign.distributed import all_gather_rows, own_rows, row_counts

from .ranks import Pairs, dot_products, in_block, row_chunks
from .softmax import LOG2_E, Setting, chunks_of_powers, logsumexp, pad_to_chunks, product_dtype
from .topk import top_k


def part_of(rows: int) -> slice:
    """The rows of a table that this process holds; the sizes of parts differ by one row at most."""
    edges = _edges(rows)
    return slice(edges[dist.get_rank()], edges[dist.get_rank() + 1])


def lookup(part_VD: Tensor, row_N: Tensor, rows: int) -> Tensor:
    """Rows of a sharded table by id: ``rows`` in all, ``part_VD`` in this process. Shape: int64 (N,) -> (N, D)."""
    row_U, place_N = row_N.unique(return_inverse=True)
    return _Lookup.apply(part_VD, row_U, rows).index_select(0, place_N)


def log_prob(query_TD: Tensor, item_VD: Tensor, target_T: Tensor, first: int, scale: float, bound: float) -> Tensor:
    """`recalign.nn.softmax.log_prob` over the rows of all processes; ``first``: index of this process's first row."""
    setting = Setting(scale, bound, product_dtype(query_TD))
    return _LogProb.apply(query_TD, item_VD, target_T, first, setting)


@torch.no_grad()
def scores(query_TD: Tensor, item_VD: Tensor) -> Tensor:
    """Dot products with the rows of all processes. Shape: -> (T, rows of all)."""
    by_rank = row_counts(len(query_TD), query_TD.device)
    columns = row_counts(len(item_VD), item_VD.device)
    score_AV = all_gather_rows(query_TD) @ item_VD.T
    sent, received = [rows * len(item_VD) for rows in by_rank], [len(query_TD) * count for count in columns]
    parts = _all_to_all(score_AV.flatten(), sent, received).split(received)
    return torch.cat([part.view(-1, count) for part, count in zip(parts, columns, strict=True)], dim=1)


@torch.no_grad()
def sharded_top_k(
    query_TD: Tensor, item_VD: Tensor, k: int, first: int, seen: Pairs | None = None
) -> tuple[Tensor, Tensor]:
    """`recalign.nn.top_k` over the rows of all processes: the best of each part, merged."""
    own, device = own_rows(len(query_TD), query_TD.device), query_TD.device
    score_AK, row_AK = top_k(all_gather_rows(query_TD), item_VD, k, _seen_by_all(seen, own, first, device))
    row_AK = row_AK.add(first).masked_fill(row_AK < 0, -1)
    score_TK, row_TK = (all_gather_rows(x_AK.T).T[own] for x_AK in (score_AK, row_AK))
    order_TK = score_TK.sort(dim=1, descending=True, stable=True).indices[:, :k]  # ties stay in row order
    return score_TK.gather(1, order_TK), row_TK.gather(1, order_TK)


@torch.no_grad()
def sharded_ranks(query_TD: Tensor, item_VD: Tensor, target_T: Tensor, first: int, seen: Pairs | None = None) -> Tensor:
    """`recalign.nn.target_ranks` over the rows of all processes."""
    own, device = own_rows(len(query_TD), query_TD.device), query_TD.device
    target_A, seen = all_gather_rows(target_T), _seen_by_all(seen, own, first, device)
    blocks, place_A = dot_products(all_gather_rows(query_TD), item_VD), target_A - first
    score_A, ahead_A = item_VD.new_zeros(len(target_A)), torch.zeros_like(target_A)
    for rows, _ in row_chunks(len(target_A), None, device):
        at_A = torch.arange(len(target_A[rows]), device=device)
        for start, score_CI in blocks(rows):
            row_N, place_N = in_block((at_A, place_A[rows]), start, score_CI)
            score_A[rows].index_add_(0, row_N, score_CI[row_N, place_N])
    dist.all_reduce(score_A)
    for rows, (seen_row_N, seen_item_N) in row_chunks(len(target_A), seen, device):
        at_A = torch.arange(len(target_A[rows]), device=device)
        skipped = torch.cat([seen_row_N, at_A]), torch.cat([seen_item_N, place_A[rows]])
        for start, score_CI in blocks(rows):
            ahead_CI = (score_CI < score_A[rows, None]).logical_not_()  # NaN counts as ahead
            ahead_CI[in_block(skipped, start, score_CI)] = False
            ahead_A[rows] += ahead_CI.sum(dim=1)
    dist.all_reduce(ahead_A)
    return (ahead_A + 1).masked_fill(target_A < 0, 0)[own]


def gather_rows(part_VD: Tensor, folder: Path) -> Tensor | None:
    """Gather the whole table in rank 0, memory-mapped to a temporary file in ``folder`` so that it need not fit into
    memory. None in other ranks."""
    counts = row_counts(len(part_VD), part_VD.device)
    if dist.get_rank():
        dist.send(part_VD.contiguous(), 0)
        return None
    shape = sum(counts), *part_VD.shape[1:]
    with NamedTemporaryFile(dir=folder) as file:
        whole = torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=part_VD.dtype).view(shape)
    for rank, rows in enumerate(whole.split(counts)):
        if rank:
            dist.recv(part_VD := part_VD.new_empty(rows.shape), rank)
        rows.copy_(part_VD)
    return whole


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part_VD: Tensor, row_U: Tensor, rows: int) -> Tensor:
        edges = torch.tensor(_edges(rows), device=row_U.device)
        wanted_P = torch.searchsorted(row_U, edges).diff()
        asked_P = torch.empty_like(wanted_P)
        dist.all_to_all_single(asked_P, wanted_P)
        wanted, asked = wanted_P.tolist(), asked_P.tolist()
        place_N = _all_to_all(row_U, wanted, asked) - edges[dist.get_rank()]
        ctx.save_for_backward(place_N)
        ctx.wanted, ctx.asked, ctx.rows = wanted, asked, len(part_VD)
        return _all_to_all(part_VD.index_select(0, place_N), asked, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_UD: Tensor) -> tuple[Tensor | None, ...]:
        (place_N,) = ctx.saved_tensors
        grad_ND = _all_to_all(grad_UD / dist.get_world_size(), ctx.wanted, ctx.asked)
        return grad_ND.new_zeros(ctx.rows, grad_ND.shape[1]).index_add_(0, place_N, grad_ND), None, None


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_TD: Tensor, item_VD: Tensor, target_T: Tensor, first: int, setting: Setting) -> Tensor:
        own = own_rows(len(query_TD), query_TD.device)
        query_AD, place_A = all_gather_rows(query_TD), all_gather_rows(target_T) - first
        held_A = (place_A >= 0) & (place_A < len(item_VD))
        place_A = place_A.where(held_A, 0)
        q_AD, e_VD, _ = pad_to_chunks(query_AD, item_VD, place_A, setting)
        part_A = q_AD.new_empty(len(q_AD))  # the logarithm of the sum over this process's rows
        for c, p_VC, max_C in chunks_of_powers(q_AD, e_VD, setting):
            part_A[c] = logsumexp(max_C, p_VC.sum(dim=0, dtype=q_AD.dtype))
        part_A, q_AD = part_A[: len(query_AD)], q_AD[: len(query_AD)]
        max_A = part_A.clone()
        dist.all_reduce(max_A, dist.ReduceOp.MAX)
        target_A = setting.scale * (q_AD * e_VD.index_select(0, place_A)).sum(dim=1) * held_A
        sum_A, target_A = _all_reduced(torch.stack([(part_A - max_A).exp(), target_A]))
        lse_A = max_A + sum_A.log()
        ctx.save_for_backward(query_AD, item_VD, place_A, held_A, lse_A)
        ctx.own, ctx.setting = own, setting
        return (target_A - lse_A)[own]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        query_AD, item_VD, place_A, held_A, lse_A = ctx.saved_tensors
        setting: Setting = ctx.setting
        positions, weight_A = len(query_AD), setting.scale * all_gather_rows(grad_T)
        q_AD, e_VD, _ = pad_to_chunks(query_AD, item_VD, place_A, setting)
        added = (0, len(q_AD) - positions)
        w_A1, shift_A = F.pad(weight_A.to(q_AD.dtype), added)[:, None], F.pad(lse_A * LOG2_E, added, value=math.inf)
        hit_A1 = w_A1[:positions] * held_A[:, None]
        query_grad_AD, item_grad_VD = torch.zeros_like(q_AD), torch.zeros_like(e_VD)
        query_grad_AD[:positions] = hit_A1 * e_VD.index_select(0, place_A)
        item_grad_VD.index_add_(0, place_A, hit_A1 * q_AD[:positions])
        items_DV = e_VD.T.to(setting.dtype)
        for c, p_VC, _ in chunks_of_powers(q_AD, e_VD, setting, shift_A):
            query_grad_AD[c] -= (items_DV @ p_VC).T.to(q_AD.dtype) * w_A1[c]
            item_grad_VD -= p_VC @ (q_AD[c] * w_A1[c]).to(setting.dtype)
        query_grad_TD = _all_reduced(query_grad_AD)[:positions][ctx.own]
        item_grad_VD /= dist.get_world_size()
        return query_grad_TD.to(query_AD.dtype), item_grad_VD.to(item_VD.dtype), None, None, None


def _edges(rows: int) -> list[int]:
    processes = dist.get_world_size()
    return [rows * rank // processes for rank in range(processes + 1)]


def _seen_by_all(seen: Pairs | None, own: slice, first: int, device: torch.device) -> Pairs:
    """The pairs of all processes. States count over all processes, items from this process's first row."""
    row_N, item_N = seen or torch.empty(2, 0, dtype=torch.int64, device=device)  # others may have pairs
    row_N, item_N = all_gather_rows(torch.stack([row_N + own.start, item_N], dim=1)).T
    return row_N, item_N - first


def _all_to_all(x: Tensor, sent: list[int], received: list[int]) -> Tensor:
    found = x.new_empty(sum(received), *x.shape[1:])
    dist.all_to_all_single(found, x.contiguous(), received, sent)
    return found


def _all_reduced(x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x
