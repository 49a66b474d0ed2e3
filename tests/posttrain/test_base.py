"""What every post-training method keeps: where nothing has moved, nothing is different; steps, events, the KL."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import polars as pl
import pytest
import small
import torch
from lightning.pytorch.callbacks import Callback

from recalign import posttrain
from recalign.errors import InputError
from recalign.posttrain import (
    CQL,
    GBPO,
    GRPO,
    IPA,
    PPO,
    WBC,
    PairData,
    PostTrainingData,
    Preferences,
    SignedSFT,
    WeightedSFT,
    signed,
)
from recalign.posttrain.base import PostTraining
from recalign.posttrain.data import StateValue
from recalign.posttrain.experimental import AWAC, IQL, KTO, Reinforce
from recalign.posttrain.pairs_data import Pairing
from recalign.recommender import Recommender, RecommenderData
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData, RewardEnsemble


@pytest.fixture(scope="module")
def dropping(log_root, tmp_path_factory):
    """The checkpoint of a policy with much dropout and an item prior."""
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    folder = tmp_path_factory.mktemp("dropping")
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(dropout=0.5), temperature=0.05, lr=5e-3)
    small.fit(module, data, folder, epochs=2)
    module.policy.prior_strength = 0.7
    return small.saved(module, folder / "policy.ckpt")


class Modes(Callback):
    """Keeps whether units of the policy drop out at each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append(module.policy.training or any(part.training for part in module.policy.modules()))


COMPARING = {
    PPO: (RewardData, {"sampled/ratio": 1}),
    GRPO: (RewardData, {"sampled/ratio": 1, "sampled/kl": 0}),
    IPA: (RewardData, {"ipa/margin": 0, "ipa/winner": 0}),
    Reinforce: (PostTrainingData, {"reinforce/ess": 1}),
    Preferences: (PairData, {"pairs/margin": 0, "pairs/winner": 0, "train/loss": math.log(2)}),
    KTO: (PostTrainingData, {"pairs/margin": 0, "pairs/winner": 0, "pairs/z": 0, "train/loss": 0.5}),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("method", COMPARING, ids=lambda method: method.__name__)
def test_policy_equals_its_reference_before_the_first_step(log_root, dropping, rewarded, tmp_path, method, precision):
    kind, expected = COMPARING[method]
    own = {"reward_model": str(rewarded)} if kind is RewardData else {}
    module, modes = small.free(method, init_from=str(dropping), lr=1e-3, **own), Modes()
    data, watch = small.data_of(kind, log_root, "tastes"), small.Watch()
    settings = {"limit_train_batches": 3, "limit_val_batches": 1, "num_sanity_val_steps": 1, "precision": precision}
    small.trainer_of(tmp_path, 2, watch, modes, **settings).fit(module, data)
    assert {k: watch.steps[0][k] for k in expected} == pytest.approx(expected, abs=1e-5)
    assert watch.steps[0]["policy/kl"] == pytest.approx(0, abs=1e-6)
    assert modes.seen == [False] * 6
    module.train()
    assert not module.policy.training


CONSUMERS = [  # every method, and whatever else it may ask the start for: its settings, those of its data
    (WeightedSFT, {}, {}),
    (SignedSFT, {}, {}),
    (WeightedSFT, {}, {"baseline": "value"}),
    (WeightedSFT, {}, {"baseline": "soft"}),
    (Preferences, {}, {}),
    (Preferences, {"loss": "simpo"}, {"pairs": "sampled"}),
    (Preferences, {}, {"pairs": "generated"}),
    (KTO, {}, {}),
    (Reinforce, {}, {}),
    (GBPO, {}, {}),
    (WBC, {}, {}),
    (CQL, {}, {}),
    (IQL, {}, {}),
    (AWAC, {}, {}),
    (PPO, {}, {}),
    (GRPO, {"cloning": 0.1}, {}),
    (IPA, {"share": 1.0}, {}),
]


def test_consumers_list_has_every_method():
    every = [getattr(package, name) for package in (posttrain, posttrain.experimental) for name in package.__all__]
    methods = {one for one in every if issubclass(one, PostTraining)}
    assert {method for method, *_ in CONSUMERS} == methods
    for kind, setting, choices, count in (
        (PostTrainingData, "baseline", StateValue, 2),
        (PairData, "pairs", Pairing, 1),
    ):
        needs = {one: kind.upstream({"source": "observed", setting: one}) for one in get_args(choices)}
        asking = {one for one, checkpoints in needs.items() if "init_from" in checkpoints}
        assert len(asking) == count
        assert asking <= {data.get(setting) for *_, data in CONSUMERS}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "settings", "of_data"), CONSUMERS)
def test_training_ignores_the_item_prior_and_ranking_uses_it(log_root, cloned, tmp_path, method, settings, of_data):
    def trained(strength):
        start = load_net(cloned, "policy").net
        start.prior_strength = strength
        torch.manual_seed(0)
        reward = RewardEnsemble(small.pooled(), start.num_items, members=3)
        for net in reward.nets:
            torch.nn.init.normal_(net.item_bias)
        asks = {"reward_net": reward} if "reward_model" in method.UPSTREAM else {}
        module = small.free(method, policy=start, lr=1e-3, **settings, **asks)
        given = {"policy": start, "reward_net": reward}
        upstream = {RewardData: {}, PairData: {"policy": start}}.get(method.LEARNS_FROM, given)
        small.fit(module, small.data_of(method.LEARNS_FROM, log_root, "tastes", **of_data, **upstream), tmp_path)
        assert module.policy.prior_strength == module.reference.prior_strength == start.prior_strength == strength
        return module

    without, with_it = trained(0.0), trained(0.7)
    for one, other in zip(without.policy.parameters(), with_it.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    batch = small.batch_of(with_it.data)
    scores = [one.policy.eval().log_probs(one.policy.encode(batch)) for one in (without, with_it)]
    assert not torch.allclose(*scores)
    kl = without.drift(batch)["kl"].item()
    assert 0 < kl != pytest.approx(with_it.drift(batch)["kl"].item(), rel=1e-4)


@pytest.mark.parametrize("over", ["items", "codes"])
def test_generated_pairs_ignore_the_starts_prior_and_keep_it(log_root, cloned, over):
    start = load_net(cloned, "policy").net
    start = start if over == "items" else small.coded(start.num_items)
    losers = []
    for strength in (0.0, 0.5):
        start.prior_strength = strength
        data = small.data_of(PairData, log_root, "tastes", pairs="generated", policy=start)
        losers.append(data.training().rejected)
        assert start.prior_strength == strength
    np.testing.assert_array_equal(*losers)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_signed_sft_computes_start_and_policy_in_the_same_precision(
    log_root, dropping, tmp_path, monkeypatch, precision
):
    found, likelihood = [], signed.tapered_likelihood
    compared = lambda logp_T, *rest: found.append((logp_T.detach(), rest[-1])) or likelihood(logp_T, *rest)  # noqa: E731
    monkeypatch.setattr(signed, "tapered_likelihood", compared)
    data = small.data_of(PostTrainingData, log_root, "tastes")
    module = small.free(SignedSFT, init_from=str(dropping))
    small.trainer_of(tmp_path, 1, limit_train_batches=1, precision=precision).fit(module, data)
    torch.testing.assert_close(*found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [WeightedSFT, SignedSFT])
def test_dropout_follows_use_dropout_and_drift_restores_the_mode(log_root, dropping, tmp_path, method):
    module, modes = small.free(method, init_from=str(dropping), lr=1e-9), Modes()
    data = small.data_of(PostTrainingData, log_root, "tastes")
    watch = small.Watch()
    small.trainer_of(tmp_path, 2, watch, modes).fit(module, data)
    assert set(modes.seen) == {method is WeightedSFT}  # not the other, which compares the policy with its start
    assert watch.steps[-1]["policy/kl"] == pytest.approx(0, abs=1e-6)  # without dropout


def test_drift_is_computed_only_at_logged_steps(log_root, cloned, tmp_path, monkeypatch):
    steps = []
    module = small.free(WeightedSFT, init_from=str(cloned))
    monkeypatch.setattr(module, "drift", lambda batch: steps.append(module.global_step) or {})
    data = small.data_of(PostTrainingData, log_root, "tastes")
    small.trainer_of(tmp_path, 3, log_every_n_steps=2).fit(module, data)
    assert steps == [1, 3, 5, 7]


def test_sampled_actions_use_events_with_a_reward(log_root, cloned, rewarded, tmp_path):
    checkpoint = torch.load(rewarded, weights_only=True)
    del checkpoint["facts"]["rewards"]  # by which a model of the whole log is known
    torch.save(checkpoint, tmp_path / "reward.ckpt")

    def states(log):
        log.write_csv(tmp_path / "tastes.csv")
        module, counts = small.free(GRPO, init_from=str(cloned), reward_model=str(tmp_path / "reward.ckpt")), []
        module.surrogate = lambda rollout, logp_TS, state, nll: counts.append(len(state)) or (nll, {})
        small.fit(module, small.data_of(RewardData, tmp_path, "tastes"), tmp_path)
        return sum(counts)

    log = pl.read_csv(log_root / "tastes.csv")
    half = log.with_columns(pl.when(pl.col("item") % 2 == 0).then(pl.col("rating")).alias("rating"))
    assert 0.3 * states(log) < states(half) < 0.7 * states(log)


def test_batch_without_counting_events_has_no_gradient(log_root, cloned, rewarded, tmp_path, monkeypatch):
    module = small.free(GRPO, init_from=str(cloned), reward_model=str(rewarded), lr=1e-2)
    data = small.data_of(RewardData, log_root, "tastes")
    before = {k: v.clone() for k, v in module.policy.state_dict().items()}
    windows = data.training().in_memory()
    unrated = dataclasses.replace(windows, reward=np.full_like(windows.reward, np.nan))
    monkeypatch.setattr(module.frozen_reward, "setup", lambda data: None)
    monkeypatch.setattr(data, "training", lambda: unrated)
    small.fit(module, data, tmp_path)
    assert all(v.equal(before[k]) for k, v in module.policy.state_dict().items())


@pytest.mark.parametrize("method", [WeightedSFT, Preferences, PPO], ids=lambda method: method.__name__)
def test_networks_that_are_handed_in_are_copied(log_root, cloned, rewarded, tmp_path, method):
    policy, reward = load_net(cloned, "policy"), load_net(rewarded, "reward")
    before = [{k: v.clone() for k, v in loaded.net.state_dict().items()} for loaded in (policy, reward)]
    own = {"reward_net": reward} if method is PPO else {}
    module = small.free(method, policy=policy, lr=1e-2, **own)
    small.fit(module, small.data_of(method.LEARNS_FROM, log_root, "tastes"), tmp_path)
    for loaded, weights in zip((policy, reward), before, strict=True):
        assert all(v.equal(weights[k]) for k, v in loaded.net.state_dict().items())
    assert all(p.requires_grad for p in policy.net.parameters())
    assert not module.policy.item_embedding.weight.equal(before[0]["item_embedding.weight"])
    other = small.data_of(method.LEARNS_FROM, log_root, "small")
    with pytest.raises(InputError, match="another catalogue"):
        small.fit(small.free(method, policy=policy, **own), other, tmp_path)
