"""Policies that need no training."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.evaluation.reranking import ItemScores, Rerank
from recalign.evaluation.rows import ROWS
from recalign.recommender.checkpoint import load_net


@pytest.fixture
def nets(cloned, rewarded):
    return load_net(cloned, "policy").net.eval(), load_net(rewarded, "reward").net.eval()


def order(policy, batch) -> list[int]:
    return policy.top_k(policy.encode(batch), policy.num_items)[1][0].tolist()


@pytest.mark.parametrize("high_only", [False, True])
def test_popularity_counts_training_events_alone(data, high_only):
    batch = small.batch_of(data, rows=1)
    policy = ROWS["popularity_high" if high_only else "popularity"].counted(data)
    frame = data.sequences.frame.filter(pl.col("split") == 0)
    if high_only:
        in_a = pl.Series(data.sequences.users_in("A")).gather(frame["user"])
        frame = frame.filter(in_a & pl.col("high") & pl.col("reward").is_not_null())
    counts = dict(frame.group_by("item_id").len().iter_rows())
    shown = [counts.get(v, 0) for v in order(policy, batch)]
    assert shown == sorted(shown, reverse=True)
    p_V = policy.log_probs(policy.encode(batch))[0].exp()
    half = np.array([counts.get(v, 0) + 0.5 for v in range(1, data.num_items + 1)])
    np.testing.assert_allclose(p_V.numpy(), half / half.sum(), rtol=1e-5)


def test_item_mean_goes_by_the_mean(data):
    item_mean_V = data.reward_moments().item_mean_V
    policy = ROWS["item_mean"].counted(data)
    shown = item_mean_V[np.array(order(policy, small.batch_of(data, rows=1))) - 1]
    assert (np.diff(shown) <= 1e-7).all()


@torch.no_grad()
def test_reranking_tilts_the_start(data, nets):
    start, reward = nets
    batch = small.batch_of(data, rows=3)
    logp_TV, r_TV = start.log_probs(start.encode(batch)), reward.predict(reward.states(batch))
    policy = Rerank(start, reward, 0.7)
    torch.testing.assert_close(
        policy.log_probs(policy.encode(batch)), (logp_TV + 0.7 * r_TV).log_softmax(dim=1), atol=1e-4, rtol=1e-4
    )
    mean_V = torch.randn(data.num_items)
    by_mean = Rerank(start, ItemScores(mean_V), 0.7)
    torch.testing.assert_close(by_mean.log_probs(by_mean.encode(batch)), (logp_TV + 0.7 * mean_V).log_softmax(dim=1))


@torch.no_grad()
def test_states_of_reranking_are_sliced_together_and_nothing_is_remembered(data, nets):
    """Batches of other lengths may be encoded before a state is read."""
    policy = Rerank(*nets, 0.7)
    first, second = small.batch_of(data, rows=3), small.batch_of(data, rows=5)
    state = policy.encode(first)
    expected = policy.log_probs(state)
    other = policy.encode(second)
    torch.testing.assert_close(policy.log_probs(state), expected)
    assert (len(state), len(other)) == (len(first.target_T), len(second.target_T))
    torch.testing.assert_close(policy.log_probs(state[1:3]), expected[1:3])
