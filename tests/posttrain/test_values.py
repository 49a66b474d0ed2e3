"""Methods that learn values: their limits, where they go, and that what they serve is a policy."""

from __future__ import annotations

import copy

import pytest
import small
import torch

from recalign.posttrain import AWAC, CQL, IQL, PostTrainingData
from recalign.recommender.checkpoint import load_net


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PostTrainingData, log_root, "tastes", baseline="global")


def gradient(module, data) -> torch.Tensor:
    """Of the policy's weights on all training events, as one vector."""
    batch = small.batch_of(data, "train")
    module.policy.zero_grad()
    module.loss(batch)[0].backward()
    return torch.cat([p.grad.flatten() for p in module.policy.parameters() if p.grad is not None])


def cloning_gradient(start, data) -> torch.Tensor:
    policy, batch = copy.deepcopy(start), small.batch_of(data, "train")
    policy.requires_grad_()
    (-policy.log_prob(policy.encode(batch), batch.target_T).mean()).backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_conservative_q_learning_with_a_large_alpha_goes_where_cloning_goes(data, start):
    module = small.free(CQL, policy=start, alpha=1e4)
    bold = small.free(CQL, policy=start, alpha=0.0)
    cloning = cloning_gradient(start, data)
    assert torch.cosine_similarity(gradient(module, data), cloning, dim=0) > 0.999
    assert torch.cosine_similarity(gradient(bold, data), cloning, dim=0) < 0.9


@pytest.mark.parametrize("kind", [IQL, AWAC])
def test_weights_with_beta_zero_are_cloning(data, start, kind):
    module = small.free(kind, policy=start, beta=0.0)
    torch.testing.assert_close(gradient(module, data), cloning_gradient(start, data), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("kind", "settings"), [(CQL, {"alpha": 0.5}), (IQL, {}), (AWAC, {})])
@pytest.mark.slow
def test_they_raise_what_users_value(data, start, tmp_path, kind, settings):
    module = small.free(kind, policy=start, lr=5e-3, **settings)
    watch = small.fit(module, data, tmp_path, epochs=20)
    clone = small.free(IQL, policy=start, lr=5e-3, beta=0.0)
    small.fit(clone, data, tmp_path, epochs=20)
    assert small.liked(module.policy, data) > max(small.liked(start, data), small.liked(clone.policy, data)) + 0.03
    assert watch.steps[-1]["value/td"] < watch.steps[0]["value/td"]
    assert watch.steps[0]["policy/kl"] == pytest.approx(0, abs=1e-6)
    loaded = load_net(small.saved(module, tmp_path / "it.ckpt"), "policy").net
    assert small.liked(loaded, data) == pytest.approx(small.liked(module.policy, data), abs=1e-6)


def test_q_begins_right_on_average(data, start, tmp_path):
    module = small.free(CQL, policy=start, lr=1e-9, value_lr=1e-9)
    steps = small.fit(module, data, tmp_path).steps
    batch = small.batch_of(data, "train")
    with torch.no_grad():
        state = module.policy.eval().encode(batch)
        q_T = module.critic(state) + module.temperature * module.policy.log_prob(state, batch.target_T)
    assert q_T.mean().item() == pytest.approx(0, abs=0.05)
    assert steps[0]["value/gap"] > 0


@pytest.mark.parametrize("kind", [CQL, IQL, AWAC])
@pytest.mark.slow
def test_a_policy_of_several_tokens_an_item_runs_through_them(data, tmp_path, kind):
    torch.manual_seed(0)
    tokens = small.coded(data.num_items)
    before = small.liked(tokens, data)
    module = small.free(kind, policy=tokens, lr=5e-3)
    small.fit(module, data, tmp_path, epochs=10)
    assert small.liked(module.policy, data) > before + 0.02


def test_other_learning_rates_reach_what_learns_values(start):
    module = small.free(IQL, policy=start, lr=1e-4, value_lr=1e-2)
    groups = {id(p): group["lr"] for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert {groups[id(p)] for p in module.policy.parameters()} == {1e-4}
    assert {groups[id(p)] for p in module.critic.parameters()} == {1e-2}


@pytest.mark.parametrize("kind", [CQL, IQL, AWAC])
def test_values_and_advantages_are_histograms_of_logged_steps(data, start, tmp_path, kind):
    kept = small.histograms(small.free(kind, policy=start), data, tmp_path)
    assert {name: len(found) for name, found in kept.items()} == {"value/values": 1, "value/advantages": 1}
    assert all(values.size > 1 for found in kept.values() for values in found)
