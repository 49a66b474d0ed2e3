"""Tensors are made on the device of what they meet: the meta device finds where not, without a GPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import small
import torch

from recalign.data.sequences import Batch
from recalign.nn import HSTU, Pooled, SASRec
from recalign.posttrain.weighted import clip_weights, transform_advantages, weighted_likelihood
from recalign.recommender import RecommenderData, SequencePolicy
from recalign.recommender.module import estimated_log_prob
from recalign.reward import RewardEnsemble

ENCODERS = {
    "hstu": lambda: HSTU(dim=8, layers=1, max_length=32),
    "sasrec": lambda: SASRec(dim=8, layers=1, max_length=32),
    "pooled": lambda: Pooled(dim=8, max_length=32),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def batch(log_root) -> Batch:
    return small.batch_of(small.data_of(RecommenderData, log_root), "train", rows=4).to("meta")


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device does not know it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


def test_device_check_finds_tensors_on_the_cpu():
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device="meta") + torch.arange(3)


@pytest.mark.parametrize("loss", ["full", "sampled", "weighted", "candidates"])
def test_policy_creates_tensors_on_its_device(encoder, batch, loss):
    policy = SequencePolicy(ENCODERS[encoder](), 40, feedback=True).to("meta")
    state = policy.encode(batch)
    if loss == "full":
        value = policy.weighted_nll(state, batch.target_T, batch.reward_T)
    elif loss == "sampled":
        value = estimated_log_prob(policy, state, batch.target_T, 8).mean()
    elif loss == "candidates":
        value = policy.log_probs(state, batch.target_T[:, None].repeat(1, 3)).sum()
    else:
        weight_T, _ = clip_weights(transform_advantages(batch.reward_T, "exponential", 1.0), 10.0)
        value, _ = weighted_likelihood(policy, state, batch.target_T, weight_T)
    value.backward()
    assert value.device.type == policy.sample(state, 3).device.type == "meta"


def test_reward_model_creates_tensors_on_its_device(encoder, batch):
    reward = RewardEnsemble(ENCODERS[encoder](), 40).to("meta")
    value = reward.predict(reward.states(batch), batch.target_T).sum()
    value.backward()
    assert value.device.type == "meta"
