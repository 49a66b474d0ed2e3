"""The tiles of attention, and what they add up to; test_hstu.py holds the whole network against its formula."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.nn.attention import QUERIES, TiledAttention, in_lanes, tiles


@given(rows=st.integers(1, 450), sequences=st.integers(1, 300), cpu=st.booleans())
def test_tiles_cover_every_visible_pair_once(rows, sequences, cpu):
    count = torch.zeros(sequences, rows, dtype=torch.int64)
    for tile in tiles(rows, sequences, cpu):
        assert tile.queries.stop - tile.queries.start <= QUERIES
        assert tile.keys == slice(0, tile.queries.stop)  # all keys up to the last query, and none that none can see
        count[tile.sequences, tile.queries] += 1
    assert (count == 1).all()


def test_tiled_attention_in_bfloat16_is_near_float64():
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
        out = TiledAttention()(*leaves, buckets)
        return [out, *torch.autograd.grad(out, leaves, goal.to(out.dtype))]

    for mine, exact in zip(outcome(torch.float32, torch.bfloat16), outcome(*[torch.float64] * 2), strict=True):
        assert (mine.double() - exact).norm() < 0.01 * exact.norm()
