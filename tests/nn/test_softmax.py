"""The exact and the sampled softmax against their definitions."""

import math
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recalign.nn import log_prob, sampled_log_prob, softmax, weighted_nll

EXACT = {"rtol": 1e-10, "atol": 1e-10}

sizes = st.fixed_dictionaries(
    {
        "positions": st.integers(0, 9),
        "items": st.integers(1, 12),
        "dim": st.integers(1, 5),
        "seed": st.integers(0, 10**6),
    }
)
scales = st.sampled_from([0.3, 1.0, 20.0, 1000.0])
bounds = st.sampled_from([math.inf, 1.01])


def problem(positions, items, dim, seed, dtype=torch.float64):
    """Unit queries and items that require gradients, targets, and weights of any size and sign."""
    torch.manual_seed(seed)
    query_TD = F.normalize(torch.randn(positions, dim, dtype=dtype), dim=-1).requires_grad_()
    item_VD = F.normalize(torch.randn(items, dim, dtype=dtype), dim=-1).requires_grad_()
    weight_T = (3 * torch.randn(positions, dtype=dtype)).requires_grad_()
    return query_TD, item_VD, torch.randint(items, (positions,)), weight_T


def plain_log_prob(query_TD, item_VD, target_T, scale):
    return (scale * query_TD @ item_VD.T).log_softmax(dim=-1)[torch.arange(len(target_T)), target_T]


def chunks_of(positions: int | None, items: int) -> AbstractContextManager:
    """Let a chunk hold so many positions; None: what suits the device."""
    if positions is None:
        return nullcontext()
    return patch.multiple(softmax, CPU_LOGITS=positions * items, ROW_BLOCK=1)


def assert_same(ours, plain, inputs):
    """Equal values and equal gradients under an arbitrary gradient from upstream."""
    torch.testing.assert_close(ours, plain, **EXACT)
    upstream = torch.randn_like(plain)
    for mine, reference in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(plain, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, reference, **EXACT)


@settings(deadline=None)
@given(sizes, scales, bounds, st.sampled_from([None, 1, 2, 5]))
def test_log_prob_is_exact_for_any_chunk(size, scale, bound, chunk):
    query_TD, item_VD, target_T, _ = problem(**size)
    with chunks_of(chunk, size["items"]):
        ours = log_prob(query_TD, item_VD, target_T, scale, bound)
        assert_same(ours, plain_log_prob(query_TD, item_VD, target_T, scale), [query_TD, item_VD])


@settings(deadline=None)
@given(sizes, scales, bounds, st.sampled_from([None, 1, 2, 5]))
def test_weighted_nll_is_exact_for_any_chunk(size, scale, bound, chunk):
    query_TD, item_VD, target_T, weight_T = problem(**size)
    plain = -(weight_T * plain_log_prob(query_TD, item_VD, target_T, scale)).sum()
    with chunks_of(chunk, size["items"]):
        ours = weighted_nll(query_TD, item_VD, target_T, weight_T, scale, bound)
        assert_same(ours, plain, [query_TD, item_VD, weight_T])
        with torch.no_grad():
            ours = weighted_nll(query_TD, item_VD, target_T, weight_T, scale, bound)
    torch.testing.assert_close(ours, plain, **EXACT)


def test_log_prob_is_exact_for_logits_at_the_bound():
    """Half of the items in the query's direction and half against it, at the largest scale that seeks no maximum."""
    scale = 60 / math.log2(math.e) / 1.01 - 1e-6
    query_TD = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    item_VD, target_T, weight_T = torch.tensor([[1.0], [-1.0]] * 500), torch.tensor([0, 0]), torch.ones(2)
    ours = log_prob(query_TD, item_VD, target_T, scale, bound=1.01)
    plain = plain_log_prob(query_TD, item_VD, target_T, scale)
    torch.testing.assert_close(ours, plain)
    (mine,) = torch.autograd.grad(weighted_nll(query_TD, item_VD, target_T, weight_T, scale, bound=1.01), query_TD)
    # what cancels in it is as large as the scale, so its rounding differs between machines
    torch.testing.assert_close(mine, torch.autograd.grad(-plain.sum(), query_TD)[0], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("bound", [math.inf, 1.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_softmax_error_is_bounded(dtype, bound):
    """Errors of single log-probabilities in nats, and of whole gradients relative to their norm; temperature 0.05."""
    inputs = problem(2000, 500, 50, seed=0)
    query_TD, item_VD, target_T, weight_T = inputs
    weight_T = weight_T.detach().abs()
    exact_T = plain_log_prob(query_TD, item_VD, target_T, 20.0)
    exact = torch.autograd.grad(-(weight_T * exact_T).sum(), [query_TD, item_VD])
    q_TD, e_VD, w_T = (part.detach().float().requires_grad_() for part in (query_TD, item_VD, weight_T))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours_T = log_prob(q_TD, e_VD, target_T, 20.0, bound)
        loss = weighted_nll(q_TD, e_VD, target_T, w_T, 20.0, bound)
    assert ours_T.dtype == loss.dtype == torch.float32
    value_bound, grad_bound = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (0.06, 0.01)}[dtype]
    assert (ours_T - exact_T).abs().max() < value_bound
    assert loss.item() == pytest.approx((weight_T * -exact_T).sum().item(), rel=1e-3)
    for upstream in (loss, (w_T * -ours_T).sum()):
        for mine, reference in zip(torch.autograd.grad(upstream, [q_TD, e_VD]), exact, strict=True):
            assert mine.dtype == torch.float32
            assert (mine - reference).norm() < grad_bound * reference.norm()
    assert (ours_T - exact_T).abs().max() > value_bound / 1000  # it is not float64 that was measured


def test_float64_stays_exact_under_autocast():
    query_TD, item_VD, target_T, _ = problem(5, 7, 3, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        ours = log_prob(query_TD, item_VD, target_T, 20.0)
    torch.testing.assert_close(ours, plain_log_prob(query_TD, item_VD, target_T, 20.0), **EXACT)


def test_the_sampled_softmax_ignores_autocast():
    query_TD, item_VD, target_T, _ = problem(50, 40, 8, seed=0)
    exact_T = sampled_log_prob(query_TD, item_VD[target_T], item_VD, target_T, torch.arange(40), 20.0)
    q_TD, e_VD = query_TD.float(), item_VD.float()
    with torch.autocast("cpu", torch.bfloat16):
        ours_T = sampled_log_prob(q_TD, e_VD[target_T], e_VD, target_T, torch.arange(40), 20.0)
    assert ours_T.dtype == torch.float32
    torch.testing.assert_close(ours_T.double(), exact_T, rtol=0, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """The largest tensor that any operation gave back."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


def test_softmax_never_holds_positions_times_catalogue():
    query_TD, item_VD, target_T, weight_T = problem(200, 300, 8, seed=0)
    with LargestTensor() as largest, chunks_of(10, 300):
        log_prob(query_TD, item_VD, target_T, 20.0).sum().backward()
        weighted_nll(query_TD, item_VD, target_T, weight_T, 20.0).backward()
    assert largest.size == 10 * 300
    with LargestTensor() as largest:
        plain_log_prob(query_TD, item_VD, target_T, 20.0)
    assert largest.size == 200 * 300  # the gauge works


negatives = st.lists(st.integers(0, 11), min_size=1, max_size=15)


@settings(deadline=None)
@given(sizes, scales, negatives, st.booleans(), st.booleans())
def test_sampled_log_prob_is_the_softmax_over_target_and_negatives(size, scale, drawn, shared, corrected):
    query_TD, item_VD, target_T, _ = problem(**size)
    negative_TN = torch.tensor(drawn).remainder(len(item_VD)).expand(len(target_T), -1)
    if not shared:  # negatives of their own
        negative_TN = (negative_TN + torch.arange(len(target_T))[:, None]).remainder(len(item_VD))
    log_count_V = torch.linspace(-3, 1, len(item_VD), dtype=torch.float64)

    rows = []
    for t, target in enumerate(target_T):
        others = [int(item) for item in negative_TN[t] if item != target]
        logit = scale * item_VD[[int(target), *others]] @ query_TD[t]
        correction = log_count_V[others] if corrected else torch.zeros(len(others), dtype=torch.float64)
        rows.append((logit - F.pad(correction, (1, 0))).log_softmax(dim=0)[0])
    plain = torch.stack(rows) if rows else query_TD.sum(dim=1)

    negative = torch.tensor(drawn).remainder(len(item_VD)) if shared else negative_TN
    log_count = log_count_V[negative] if corrected else None
    ours = sampled_log_prob(query_TD, item_VD[target_T], item_VD[negative], target_T, negative, scale, log_count)
    if len(target_T):
        assert_same(ours, plain, [query_TD, item_VD])
    assert ours.shape == target_T.shape
