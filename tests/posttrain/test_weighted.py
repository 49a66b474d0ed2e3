"""A-SFT in training: its limits are behaviour cloning, it moves towards what is valued, and a placebo does not."""

from __future__ import annotations

import math

import pytest
import small
import torch

from recalign.posttrain import PostTrainingData, WeightedSFT
from recalign.posttrain.drift import KL_TARGETS
from recalign.recommender import SequencePolicy
from recalign.recommender.checkpoint import load_net


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PostTrainingData, log_root, "tastes")


def a_policy(items: int, dropout: float = 0.0) -> SequencePolicy:
    torch.manual_seed(0)
    return SequencePolicy(small.encoder(dropout), items, temperature=0.3)


def test_weighted_sft_logs_its_metrics(log_root, tmp_path):
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


def test_reference_is_not_trained(data, cloned, tmp_path):
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


def test_drift_is_the_kl_to_the_start_and_restores_the_mode(data, cloned):
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
