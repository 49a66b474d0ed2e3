"""How far a policy may go so that enough of its ranking is kept."""

from __future__ import annotations

import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.metrics.rank import gain_ndcg
from recalign.recommender import RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.recommender.kept import HALVINGS, furthest, ndcg


@given(lost=st.floats(0.0, 1.0), power=st.floats(0.5, 4.0), enough=st.floats(0.5, 1.0))
def test_enough_is_kept_and_a_little_further_it_is_not(lost, power, enough):
    def kept(reach):
        return 1 - lost * reach**power

    reach, share = furthest(kept, enough)
    assert share >= enough
    assert share == (kept(reach) if reach else 1.0)
    if reach < 1:
        assert kept(reach + 2**-HALVINGS) < enough


def test_where_the_end_keeps_enough_nothing_else_is_measured():
    asked = []
    assert furthest(lambda reach: asked.append(reach) or 1.2, 0.97) == (1.0, 1.2)
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
