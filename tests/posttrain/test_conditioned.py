"""Return-conditioned: a higher reward asked for shows more of what is liked, and none leaks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small
import torch

from recalign.posttrain import PostTrainingData, ReturnConditioned, WeightedSFT
from recalign.recommender.checkpoint import load_net


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PostTrainingData, log_root, "tastes", baseline="global")


@pytest.fixture(scope="module")
def conditioned(data, start, tmp_path_factory):
    module = small.free(ReturnConditioned, policy=start, lr=1e-3, condition_lr=3e-2)
    small.fit(module, data, tmp_path_factory.mktemp("conditioned"), epochs=40)
    return module


def test_more_is_liked_the_higher_the_reward_that_is_asked_for(data, start, conditioned, tmp_path):
    asked = conditioned.policy.asked.clone()
    assert asked.item() == pytest.approx(np.nanquantile(data.advantages, 0.9))
    shares = []
    for reward in (-2.0, -1.0, asked.item()):
        conditioned.policy.asked.fill_(reward)
        shares.append(small.liked(conditioned.policy, data))
    conditioned.policy.asked.copy_(asked)
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > shares[0] + 0.1
    assert shares[2] > small.liked(start, data) + 0.05
    loaded = load_net(small.saved(conditioned, tmp_path / "it.ckpt"), "policy").net
    assert small.liked(loaded, data) == pytest.approx(shares[2], abs=1e-6)


@pytest.mark.parametrize("method", [WeightedSFT, ReturnConditioned])
def test_a_conditioned_policy_can_be_aligned_further(data, conditioned, tmp_path, method):
    module = method(policy=conditioned.policy, lr=1e-3, keep=0.9)
    small.fit(module, data, tmp_path, limit_train_batches=1, limit_val_batches=1)
    assert module.interpolation_alpha is not None


def test_a_targets_own_reward_is_never_read_when_it_serves(data, conditioned):
    batch = small.batch_of(data, "train")
    told = dataclasses.replace(
        batch,
        reward_T=-batch.reward_T,
        advantage_T=-batch.advantage_T,
        high_T=~batch.high_T,
        reward_BL=torch.full_like(batch.reward_BL, torch.nan),
    )
    policy = conditioned.policy.eval()
    with torch.no_grad():
        assert policy.encode(batch).equal(policy.encode(told))
        assert not policy.encode_given(batch, batch.advantage_T).equal(policy.encode_given(told, told.advantage_T))


def test_before_the_first_step_it_is_the_start(data, start):
    module, batch = small.free(ReturnConditioned, policy=start), small.batch_of(data, "test")
    with torch.no_grad():
        assert module.policy.eval().encode(batch).equal(start.encode(batch))


def test_what_reads_the_reward_learns_at_a_rate_of_its_own(start):
    module = small.free(ReturnConditioned, policy=start, lr=1e-4, condition_lr=1e-2)
    groups = {id(p): group["lr"] for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert {groups[id(p)] for p in module.policy.base.parameters()} == {1e-4}
    assert {groups[id(p)] for p in module.policy.condition.parameters()} == {1e-2}


def test_a_policy_of_several_tokens_an_item_runs_through_it(data, tmp_path):
    torch.manual_seed(0)
    tokens = small.coded(data.num_items)
    before = small.liked(tokens, data)
    module = small.free(ReturnConditioned, policy=tokens, lr=5e-3, condition_lr=3e-2)
    small.fit(module, data, tmp_path, epochs=30)
    assert small.liked(module.policy, data) > before + 0.02
