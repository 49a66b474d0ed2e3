"""REINFORCE on the log: importance weights, the correction for a list, and where it goes."""

from __future__ import annotations

import pytest
import small
import torch

from recalign.posttrain import PostTrainingData, Reinforce


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PostTrainingData, log_root, "tastes", baseline="user")


def test_reinforce_raises_what_users_value(data, start, log_root, tmp_path):
    """And of opposite rewards, with the same draws, what they do not."""
    opposite = small.data_of(PostTrainingData, log_root, "tastes", baseline="user", reward="6 - rating")
    module, other = (small.free(Reinforce, policy=start, lr=1e-2, k=1) for _ in range(2))
    small.fit(other, opposite, tmp_path, epochs=10)
    watch = small.fit(module, data, tmp_path, epochs=10)
    up, before, down = (small.liked(policy, data, "train") for policy in (module.policy, start, other.policy))
    assert down < before < up
    assert small.liked(module.policy, data) > small.liked(start, data)  # at histories of which no reward was seen
    assert watch.steps[0]["reinforce/ess"] == pytest.approx(1)  # pi = beta before the first step
    assert watch.steps[0]["reinforce/lambda"] == pytest.approx(1)
    assert watch.steps[-1]["reinforce/ess"] < 1


def test_reinforce_counts_for_a_list_that_a_sure_item_needs_no_more(data, start, tmp_path):
    figures = small.fit(small.free(Reinforce, policy=start, k=10), data, tmp_path).steps[0]
    assert 1 < figures["reinforce/lambda"] < 10


def test_a_policy_of_several_tokens_an_item_runs_through_it(data, tmp_path):
    torch.manual_seed(0)
    tokens = small.coded(data.num_items)
    before = small.liked(tokens, data)
    module = small.free(Reinforce, policy=tokens, lr=5e-3)
    small.fit(module, data, tmp_path, epochs=10)
    assert small.liked(module.policy, data) > before + 0.02
