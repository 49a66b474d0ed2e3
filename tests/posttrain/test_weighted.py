"""A-SFT in training: its limits are behaviour cloning, it moves towards what is valued, and a placebo does not."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import small
import torch
from small import liked

from recalign.errors import InputError
from recalign.posttrain import PostTrainingData, WeightedSFT
from recalign.posttrain.base import KL_TARGETS
from recalign.recommender import SequencePolicy
from recalign.recommender.checkpoint import load_net


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PostTrainingData, log_root, "tastes")


def a_policy(items: int, dropout: float = 0.0) -> SequencePolicy:
    torch.manual_seed(0)
    return SequencePolicy(small.encoder(dropout), items, temperature=0.3)


def first_step(module: WeightedSFT, data: PostTrainingData, folder) -> dict[str, torch.Tensor]:
    """The weights after one step on the whole training part."""
    small.fit(module, data, folder, limit_train_batches=1)
    return {k: v.clone() for k, v in module.policy.state_dict().items()}


@pytest.mark.parametrize(
    "settings", [{"transform": "constant"}, {"temperature": 1e6}, {"transform": "rank", "temperature": 1e6}]
)
def test_its_limit_is_the_gradient_of_behaviour_cloning(data, tmp_path, settings):
    module = small.free(WeightedSFT, policy=a_policy(data.num_items), **settings)
    other = copy.deepcopy(module.policy)
    batch = next(iter(data.train_dataloader()))
    loss = -other.log_prob(other.encode(batch), batch.target_T).mean()
    loss.backward()
    gradients: dict[str, torch.Tensor] = {}
    module.on_before_optimizer_step = lambda _: gradients.update(
        {k: p.grad.clone() for k, p in module.policy.named_parameters() if p.grad is not None}
    )
    watch = small.fit(module, data, tmp_path, limit_train_batches=1)
    assert watch.steps[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_weights_move_it_elsewhere_than_cloning(data, tmp_path):
    clone = first_step(small.free(WeightedSFT, policy=a_policy(data.num_items), transform="constant"), data, tmp_path)
    tilted = first_step(small.free(WeightedSFT, policy=a_policy(data.num_items), temperature=0.3), data, tmp_path)
    assert not clone["item_embedding.weight"].allclose(tilted["item_embedding.weight"], atol=1e-5)


def post_trained(policy, log_root, folder, transform="exponential", **settings):
    module = small.free(WeightedSFT, policy=policy, transform=transform, temperature=0.5, lr=5e-3)
    small.fit(module, small.data_of(PostTrainingData, log_root, "tastes", **settings), folder, epochs=20)
    return module


@pytest.mark.slow
def test_it_raises_what_users_value_and_a_placebo_does_not(data, cloned, log_root, tmp_path):
    start = load_net(cloned, "policy").net
    values = {
        "start": liked(start, data),
        "bc": liked(post_trained(start, log_root, tmp_path, "constant").policy, data),
        "asft": liked(post_trained(start, log_root, tmp_path).policy, data),
        "permuted": liked(post_trained(start, log_root, tmp_path, placebo="permuted").policy, data),
        "random": liked(post_trained(start, log_root, tmp_path, placebo="random").policy, data),
    }
    assert values["asft"] > values["bc"] + 0.05, values
    assert values["asft"] > values["start"] + 0.05, values
    for placebo in ("permuted", "random"):  # less than half of the gain, as the decision asks
        assert values["asft"] - values["bc"] > 2 * (values[placebo] - values["bc"]), values


@pytest.mark.slow
def test_signed_lowers_what_was_valued_less(data, cloned, log_root, tmp_path):
    start = load_net(cloned, "policy").net
    tilted = post_trained(start, log_root, tmp_path, "signed").policy
    assert liked(tilted, data) > liked(post_trained(start, log_root, tmp_path, "constant").policy, data) + 0.05
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        before, after = (p.eval().log_prob(p.encode(batch), batch.target_T) for p in (start, tilted))
    assert (after - before)[batch.advantage_T < 0].mean() < 0 < (after - before)[batch.advantage_T > 0].mean()


def test_the_first_step_of_signed_is_the_gradient_of_the_advantage(data, cloned, tmp_path):
    """At the start nothing is tapered: the gradient is that of sum A * -log pi / sum |A|."""
    module = small.free(WeightedSFT, policy=load_net(cloned, "policy").net, transform="signed", clip=None)
    other, batch = copy.deepcopy(module.policy), next(iter(data.train_dataloader()))
    other.prior_strength = 0
    a_T = batch.advantage_T.nan_to_num()
    (-(a_T * other.log_prob(other.encode(batch), batch.target_T)).sum() / a_T.abs().sum()).backward()
    gradients: dict[str, torch.Tensor] = {}
    module.on_before_optimizer_step = lambda _: gradients.update(
        {k: p.grad.clone() for k, p in module.policy.named_parameters() if p.grad is not None}
    )
    small.fit(module, data, tmp_path, limit_train_batches=1)
    for name, parameter in other.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_policy_of_several_tokens_an_item_runs_through_it(data, log_root, tmp_path):
    torch.manual_seed(0)
    start = small.coded(data.num_items)
    clone = post_trained(start, log_root, tmp_path, "constant").policy
    tilted = post_trained(start, log_root, tmp_path)
    assert liked(tilted.policy, data) > liked(clone, data) + 0.05
    loaded = load_net(small.saved(tilted, tmp_path / "tokens.ckpt"), "policy").net
    assert liked(loaded, data) == pytest.approx(liked(tilted.policy, data), abs=1e-6)


def test_what_is_logged(log_root, tmp_path):
    data = small.data_of(PostTrainingData, log_root, "tastes", batch_tokens=256)
    module = small.free(WeightedSFT, policy=a_policy(data.num_items, dropout=0.5), temperature=0.7, clip=1.5, lr=1e-2)
    watch = small.fit(module, data, tmp_path, epochs=2)
    names = {"ess", "max_weight", "negative", "clipped", "share"}
    assert {f"advantage/{n}" for n in names} | {"train/loss", "policy/kl"} <= set(watch.steps[0])
    first, last = watch.steps[0], watch.steps[-1]
    assert first["policy/kl"] == pytest.approx(0, abs=1e-6)  # before the first step, and without dropout
    assert last["policy/kl"] > 1e-3
    assert all(step["policy/kl"] >= -1e-6 for step in watch.steps)
    assert 0 < first["advantage/ess"] < 1
    assert 0 < first["advantage/clipped"] < 0.5
    assert 1 < first["advantage/max_weight"] < 2.5
    assert first["advantage/share"] == 1


def test_the_reference_stays_where_it_started(data, cloned, tmp_path):
    module = small.free(WeightedSFT, init_from=str(cloned), lr=1e-2)
    small.fit(module, data, tmp_path)
    start = load_net(cloned, "policy").net.state_dict()
    assert all(v.equal(start[k]) for k, v in module.reference.state_dict().items())
    assert not module.policy.item_embedding.weight.equal(start["item_embedding.weight"])
    module.train()
    assert module.policy.training
    assert not any(part.training for part in module.reference.modules())
    assert not any(p.requires_grad for p in module.reference.parameters())
    optimised = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in module.reference.parameters()}
    assert optimised == {id(p) for p in module.policy.parameters()}


def test_the_drift_is_the_kl_to_the_start_and_leaves_the_policy_in_training(data, cloned):
    module = small.free(WeightedSFT, init_from=str(cloned))
    with torch.no_grad():
        module.policy.item_embedding.weight[1:] += 0.05 * torch.randn_like(module.policy.item_embedding.weight[1:])
    batch = small.batch_of(data, "train")
    probe = batch.head(4)
    probe = probe.keep(torch.arange(len(probe.row_T)) % math.ceil(len(probe.row_T) / KL_TARGETS) == 0)
    pi, start = (p.eval().log_probs(p.encode(probe)).double() for p in (module.policy, module.reference))
    module.policy.train()
    found = module.drift(batch)
    assert found["kl"].item() == pytest.approx((pi.exp() * (pi - start)).sum(1).mean().item(), rel=1e-3)
    assert found["entropy"].item() == pytest.approx(-(pi.exp() * pi).sum(1).mean().item(), rel=1e-3)
    assert module.policy.training


def test_it_needs_a_start():
    with pytest.raises(InputError, match=r"model\.init_from"):
        WeightedSFT()


def test_no_weight_at_all_is_no_step(data, tmp_path):
    """A batch in which nothing is better than expected does nothing, and does not fail."""
    module = small.free(WeightedSFT, policy=a_policy(data.num_items), transform="linear")
    module._require_weights = lambda _: None  # what other batches would have
    before = {k: v.clone() for k, v in module.policy.state_dict().items()}
    sad = small.data_of(PostTrainingData, data.root, "tastes")
    sad.advantages = np.full(len(sad.sequences.frame), -1.0, np.float32)
    after = first_step(module, sad, tmp_path)
    assert all(v.equal(after[k]) for k, v in before.items())


def with_advantages(log_root, value) -> PostTrainingData:
    data = small.data_of(PostTrainingData, log_root, "tastes")
    data.advantages = np.full(len(data.sequences.frame), value, np.float32)
    return data


@pytest.mark.parametrize("transform", ["linear", "sign"])
def test_a_log_in_which_nothing_has_a_weight_is_refused(log_root, tmp_path, transform):
    data = with_advantages(log_root, -1.0)
    with pytest.raises(InputError, match=f"model.transform {transform}: every weight is 0: .*the largest is -1"):
        small.fit(small.free(WeightedSFT, policy=a_policy(data.num_items), transform=transform), data, tmp_path)
