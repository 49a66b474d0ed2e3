"""How far a policy may go so that enough of its ranking is kept."""

from __future__ import annotations

import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.metrics.rank import gain_ndcg
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.recommender.interpolation import HALVINGS, largest_interpolation, ndcg


@given(lost=st.floats(0.0, 1.0), power=st.floats(0.5, 4.0), enough=st.floats(0.5, 1.0))
def test_enough_is_kept_and_a_little_further_it_is_not(lost, power, enough):
    def kept(alpha):
        return 1 - lost * alpha**power

    alpha, share = largest_interpolation(kept, enough)
    assert share >= enough
    assert share == (kept(alpha) if alpha else 1.0)
    if alpha < 1:
        assert kept(alpha + 2**-HALVINGS) < enough


def test_where_the_end_keeps_enough_nothing_else_is_measured():
    asked = []
    assert largest_interpolation(lambda alpha: asked.append(alpha) or 1.2, 0.97) == (1.0, 1.2)
    assert asked == [1.0]


def test_the_ranking_is_that_of_all_targets(log_root, cloned):
    data = small.data_of(RecommenderData, log_root, "tastes", batch_tokens=64)
    policy = load_net(cloned, "policy").net.eval()
    batch = small.batch_of(data, "validation")
    with torch.no_grad():
        rank_T = policy.ranks(policy.encode(batch), batch.target_T, batch.seen_N)
    found = ndcg(policy, data.loader(data.windows("validation")), torch.device("cpu"))
    assert abs(found - gain_ndcg(rank_T, 10).mean().item()) < 1e-6
    assert found > 0
