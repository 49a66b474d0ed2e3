"""Every method moves the same start towards what users value; placebos do not."""

from __future__ import annotations

import math

import pytest
import small
import torch

from recalign.posttrain import (
    CQL,
    GBPO,
    GRPO,
    IPA,
    PPO,
    WBC,
    PermutedPostTrainingData,
    PostTrainingData,
    Preferences,
    ShuffledPostTrainingData,
    SignedSFT,
    WeightedSFT,
)
from recalign.posttrain.experimental import AWAC, IQL, KTO, Reinforce

ECPO = {"early": 0.1, "cloning": 0.1, "kl": 0.0}
USER = {"baseline": "user"}
METHODS = {
    "asft": (WeightedSFT, {"temperature": 0.5}, {}),
    "signed": (SignedSFT, {}, {}),
    "gbpo": (GBPO, {}, USER),
    "wbc": (WBC, {}, USER),
    "dpo": (Preferences, {}, {}),
    "ipo": (Preferences, {"loss": "ipo"}, {}),
    "sdpo": (Preferences, {"loss": "sdpo"}, {}),
    "simpo": (Preferences, {"loss": "simpo"}, {}),
    "kto": (KTO, {}, USER),
    "reinforce": (Reinforce, {"k": 1}, USER),
    "cql": (CQL, {}, {}),
    "iql": (IQL, {}, {}),
    "awac": (AWAC, {}, {}),
    "ppo": (PPO, {"kl": 0.01, "candidates": 1000, "refresh": 2}, {}),
    "grpo": (GRPO, {"kl": 0.01, "candidates": 1000, "refresh": 2}, {}),
    "ecpo": (GRPO, {**ECPO, "candidates": 1000}, {}),
    "ipa": (IPA, {"share": 1.0, "cloning": 0.1}, {}),
}
LOGGED = {"ppo": "sampled/value_error", "grpo": "sampled/kl", "ipa": "ipa/gap", "cql": "value/gap", "kto": "pairs/z"}


def data_of(method, root, **settings):
    return small.data_of(method.LEARNS_FROM, root, "tastes", **settings)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one != "asft")) for one in METHODS])
def test_methods_raise_the_value_of_the_policy(log_root, start, taste, tmp_path, name):
    method, settings, of_data = METHODS[name]
    data = data_of(method, log_root, **of_data)
    asks = {"reward_net": taste} if "reward_model" in method.UPSTREAM else {}
    module = small.free(method, policy=start, lr=5e-3, **settings, **asks)
    watch = small.fit(module, data, tmp_path, epochs=6)
    assert small.liked(module.policy, data) > small.liked(start, data) + 0.03
    first, last = watch.steps[0], watch.steps[-1]
    assert first["policy/kl"] == pytest.approx(0, abs=1e-6)
    assert last["policy/kl"] > 1e-3
    assert all(math.isfinite(figure) for step in watch.steps for figure in step.values())
    assert LOGGED.get(name, "train/loss") in first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asft", "gbpo", "ppo"])
def test_methods_raise_the_value_of_a_code_policy(log_root, taste, tmp_path, name):
    method, settings, of_data = METHODS[name]
    data = data_of(method, log_root, **of_data)
    torch.manual_seed(0)
    start = small.coded(data.num_items)
    asks = {"reward_net": taste} if "reward_model" in method.UPSTREAM else {}
    module = small.free(method, policy=start, lr=5e-3, **settings, **asks)
    small.fit(module, data, tmp_path, epochs=6)
    assert small.liked(module.policy, data) > small.liked(start, data) + 0.02


@pytest.mark.slow
def test_placebos_gain_less_than_half_of_what_asft_gains_over_cloning(log_root, start, tmp_path):
    def value(transform="exponential", kind=PostTrainingData):
        data = small.data_of(kind, log_root, "tastes")
        module = small.free(WeightedSFT, policy=start, lr=5e-3, temperature=0.5, transform=transform)
        small.fit(module, data, tmp_path, epochs=8)
        return small.liked(module.policy, data)

    cloned, gain = value("constant"), value() - value("constant")
    assert gain > 0.03
    for placebo in (PermutedPostTrainingData, ShuffledPostTrainingData):
        assert gain > 2 * (value(kind=placebo) - cloned)
