"""Log-probabilities of a softmax over the catalogue, and a weighted negative log-likelihood.

    log pi(a | q) = s q . e_a - log sum_v exp(s q . e_v)

For unit vectors this is the cosine softmax of HSTU's code, with s = 1 / temperature. Chunks of positions bound memory:
positions x catalogue logits never exist at once, forward or backward. Gradients are written by hand:

    d log pi / d q = s (e_a - sum_v pi_v e_v)             d log pi / d e_v = s (1[v = a] - pi_v) q

Under autocast the large matrix products and the exponentials are in autocast's precision. Everything else is float32
(float64 for float64 inputs), except sums over the catalogue in `weighted_nll` and backward: a product computes them.

Shape suffixes:
    T  positions      V  items of the catalogue      D  width      C  positions of a chunk      X  D + 1
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = math.log2(math.e)
# Logits held at once: few enough for a CPU's caches, enough to keep a GPU busy.
CPU_LOGITS = 6 * 2**20
GPU_LOGITS = 2**27
SAFE_EXPONENT = 60  # sums of 2^x with |x| up to this neither overflow nor underflow in float32
ROW_BLOCK = 32  # chunk sizes are multiples of it: with fewer rows, reading the catalogue dominates the product


def log_prob(query_TD: Tensor, item_VD: Tensor, target_T: Tensor, scale: float, bound: float = math.inf) -> Tensor:
    """log pi(target | query): (T,). Differentiable in queries and items; backward recomputes each chunk's logits.

    Args:
        query_TD, item_VD: a query for each position, and the whole catalogue.
        target_T: int64, rows of the catalogue.
        scale: factor on the dot products.
        bound: upper bound of |q . e|, 1 for unit vectors. If it is small, exponentials cannot overflow, which saves
            computing the maximum of each row.
    """
    return _LogProb.apply(query_TD, item_VD, target_T, Setting(scale, bound, product_dtype(query_TD)))


def weighted_nll(
    query_TD: Tensor, item_VD: Tensor, target_T: Tensor, weight_T: Tensor, scale: float, bound: float = math.inf
) -> Tensor:
    """sum_t weight_t * -log pi(target_t | query_t), a scalar. Differentiable in queries, items and weights.

    Loss and gradients are computed in one pass, which saves a quarter of the products. Arguments as in `log_prob`.
    """
    return _WeightedNLL.apply(query_TD, item_VD, target_T, weight_T, Setting(scale, bound, product_dtype(query_TD)))


class Setting(NamedTuple):
    """How to compute the products with the catalogue: ``dtype`` is their precision; the rest as in `log_prob`."""

    scale: float
    bound: float
    dtype: torch.dtype

    @property
    def needs_max(self) -> bool:
        """Whether 2^logit could overflow, or underflow in a whole row."""
        return self.scale * self.bound * LOG2_E > SAFE_EXPONENT

    def rows(self, positions: int, item_VD: Tensor) -> int:
        """Positions per chunk, the same for all chunks: a multiple of ROW_BLOCK."""
        logits = CPU_LOGITS if item_VD.device.type == "cpu" else GPU_LOGITS
        largest = max(ROW_BLOCK, logits // len(item_VD) // ROW_BLOCK * ROW_BLOCK)
        share = math.ceil(positions / max(1, math.ceil(positions / largest)))
        return max(1, min(largest, math.ceil(share / ROW_BLOCK) * ROW_BLOCK))


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_TD: Tensor, item_VD: Tensor, target_T: Tensor, setting: Setting) -> Tensor:
        ctx.save_for_backward(query_TD, item_VD, target_T)
        ctx.setting = setting
        return -_nll(query_TD, item_VD, target_T, setting)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
        query_TD, item_VD, target_T = ctx.saved_tensors
        _, query_grad_TD, item_grad_VD = _nll_and_gradients(query_TD, item_VD, target_T, -grad_T, ctx.setting)
        return query_grad_TD, item_grad_VD, None, None


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_TD: Tensor, item_VD: Tensor, target_T: Tensor, weight_T: Tensor, setting: Setting
    ) -> Tensor:
        nll_T, query_grad_TD, item_grad_VD = _nll_and_gradients(query_TD, item_VD, target_T, weight_T, setting)
        ctx.save_for_backward(query_grad_TD, item_grad_VD, nll_T.to(weight_T.dtype))
        return (weight_T * nll_T).sum()  # not `@`, which autocast would round

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query_grad_TD, item_grad_VD, nll_T = (tensor * grad.to(tensor.dtype) for tensor in ctx.saved_tensors)
        return query_grad_TD, item_grad_VD, None, nll_T, None


def _nll(query_TD: Tensor, item_VD: Tensor, target_T: Tensor, setting: Setting) -> Tensor:
    """-log pi of each target."""
    positions = len(query_TD)
    q_TD, e_VD, target_T = pad_to_chunks(query_TD, item_VD, target_T, setting)
    nll_T = -setting.scale * (q_TD * e_VD.index_select(0, target_T)).sum(dim=1)
    for c, p_VC, max_C in chunks_of_powers(q_TD, e_VD, setting):
        nll_T[c] += logsumexp(max_C, p_VC.sum(dim=0, dtype=q_TD.dtype))
    return nll_T[:positions]


def _nll_and_gradients(
    query_TD: Tensor, item_VD: Tensor, target_T: Tensor, weight_T: Tensor, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """-log pi of each target, and the gradients of the weighted sum with respect to queries and items."""
    positions = len(query_TD)
    q_TD, e_VD, target_T = pad_to_chunks(query_TD, item_VD, target_T, setting)
    w_T1 = setting.scale * F.pad(weight_T, (0, len(q_TD) - positions))[:, None]
    positive_TD = e_VD.index_select(0, target_T)
    nll_T = -setting.scale * (q_TD * positive_TD).sum(dim=1)
    query_grad_TD = -w_T1 * positive_TD
    item_grad_VD = torch.zeros_like(e_VD).index_add_(0, target_T, -w_T1 * q_TD)
    # a row of ones below the catalogue: one product gives both sum_v p_v e_v and sum_v p_v
    items_XV = F.pad(e_VD, (0, 1), value=1.0).T.contiguous().to(setting.dtype)
    for c, p_VC, max_C in chunks_of_powers(q_TD, e_VD, setting):
        mixed_DC, sum_1C = (items_XV @ p_VC).to(q_TD.dtype).split([e_VD.shape[1], 1])
        nll_T[c] += logsumexp(max_C, sum_1C[0])
        share_C1 = w_T1[c] / sum_1C.T
        query_grad_TD[c] += mixed_DC.T * share_C1
        item_grad_VD += p_VC @ (q_TD[c] * share_C1).to(setting.dtype)
    return nll_T[:positions], query_grad_TD[:positions].to(query_TD.dtype), item_grad_VD.to(item_VD.dtype)


def pad_to_chunks(q_TD: Tensor, e_VD: Tensor, target_T: Tensor, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Cast to float32 at least, and pad to whole chunks: in bfloat16 a new shape costs more than a product."""
    q_TD, e_VD = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (q_TD, e_VD))
    added = -len(q_TD) % setting.rows(len(q_TD), e_VD)
    return F.pad(q_TD, (0, 0, 0, added)), e_VD, F.pad(target_T, (0, added))


def chunks_of_powers(
    q_TD: Tensor, e_VD: Tensor, setting: Setting, shift_T: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor | float]]:
    """Yield each chunk's slice, 2^(logit - max) of shape (V, C) in one buffer for all, and max (0 if not needed).

    Logits are to base 2; queries and items come from `pad_to_chunks`. ``shift_T``, if given, replaces the maximum.

    `exp2` is much faster than `exp` on CPUs, and with the catalogue first all products use their fastest memory order.
    """
    query_TD, catalogue_VD = (q_TD * (setting.scale * LOG2_E)).to(setting.dtype), e_VD.to(setting.dtype)
    rows = setting.rows(len(q_TD), e_VD)
    buffer_VC = query_TD.new_empty(len(e_VD), rows)
    for start in range(0, len(q_TD), rows):
        chunk = slice(start, start + rows)
        logit_VC = torch.mm(catalogue_VD, query_TD[chunk].T, out=buffer_VC)
        max_C: Tensor | float = 0.0
        if shift_T is not None or setting.needs_max:
            max_C = logit_VC.amax(dim=0) if shift_T is None else shift_T[chunk]
            logit_VC.sub_(max_C)
        yield chunk, logit_VC.exp2_(), max_C


def logsumexp(max_C: Tensor | float, sum_C: Tensor) -> Tensor:
    """log sum exp of logits, from the maximum and the summed powers of `chunks_of_powers`."""
    return (max_C + sum_C.log2()) / LOG2_E


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Precision of products with this tensor: autocast's if enabled. Autocast leaves float64 alone."""
    device = tensor.device.type
    autocast = torch.is_autocast_enabled(device) and tensor.dtype != torch.float64
    return torch.get_autocast_dtype(device) if autocast else tensor.dtype
