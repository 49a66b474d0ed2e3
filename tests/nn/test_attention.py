"""The tiles of attention, and what they add up to; test_hstu.py holds the whole network against its formula."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.nn import attention
from recalign.nn.attention import QUERIES, dense_attention, in_lanes, pointwise_attention, tiles
from recalign.nn.hstu import MASKED


@given(rows=st.integers(1, 450), sequences=st.integers(1, 300), cpu=st.booleans())
def test_tiles_hold_every_pair_that_may_see_each_other_once(rows, sequences, cpu):
    count = torch.zeros(sequences, rows, dtype=torch.int64)
    for tile in tiles(rows, sequences, cpu):
        assert tile.queries.stop - tile.queries.start <= QUERIES
        assert tile.keys == slice(0, tile.queries.stop)  # all keys up to the last query, and none that none can see
        count[tile.sequences, tile.queries] += 1
    assert (count == 1).all()


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(("heads", "queries", "scores"), [(1, 3, 1), (2, 5, 128), (2, 100, 2**22)])
def test_tiles_are_the_dense_form_in_values_and_gradients(monkeypatch, timed, heads, queries, scores):
    monkeypatch.setattr(attention, "QUERIES", queries)
    monkeypatch.setattr(attention, "CPU_SCORES", scores)
    torch.manual_seed(0)
    bucket_BLL = torch.randint(129, (3, 11, 11))
    position_LL = torch.randn(11, 11).masked_fill(torch.ones(11, 11).triu(1).bool(), MASKED)
    inputs = [*(torch.randn(3, heads, 11, 4) for _ in range(3)), position_LL, *[torch.randn(129)] * timed]
    leaves = [x.double().requires_grad_() for x in inputs]
    given = leaves if timed else [*leaves, None]
    work = [t._replace(bucket_SN=in_lanes(bucket_BLL[t[:3]].clone(), 129)) for t in tiles(11, 3, cpu=True)]
    bias = leaves[3] + leaves[4][bucket_BLL].unsqueeze(1) if timed else leaves[3]
    tiled, dense = pointwise_attention(*given, work), dense_attention(*leaves[:3], bias)
    torch.testing.assert_close(tiled, dense, rtol=0, atol=1e-12)
    goal = torch.randn_like(dense)
    for ours, plain in zip(*(torch.autograd.grad(out, leaves, goal) for out in (tiled, dense)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_bfloat16_stays_near_float64():
    """Relative error of the outputs and of every gradient, in norm, at HSTU's scale of values."""
    torch.manual_seed(0)
    work = tiles(150, 6, cpu=True)
    sizes = [(6, t.queries.stop - t.queries.start, t.keys.stop) for t in work]
    buckets = [
        t._replace(bucket_SN=in_lanes(torch.randint(30, size), 129)) for t, size in zip(work, sizes, strict=True)
    ]
    masked_LL = torch.randn(150, 150).mul(0.02).masked_fill(torch.ones(150, 150).triu(1).bool(), -1e30)
    inputs = [*(torch.randn(6, 1, 150, 50) for _ in range(3)), masked_LL, torch.randn(129) * 0.02]
    goal = torch.randn(6, 1, 150, 50)

    def outcome(wide, narrow):
        leaves = [x.to(narrow if n < 3 else wide).requires_grad_() for n, x in enumerate(inputs)]
        out = pointwise_attention(*leaves, buckets)
        return [out, *torch.autograd.grad(out, leaves, goal.to(out.dtype))]

    for mine, exact in zip(outcome(torch.float32, torch.bfloat16), outcome(*[torch.float64] * 2), strict=True):
        assert (mine.double() - exact).norm() < 0.01 * exact.norm()
