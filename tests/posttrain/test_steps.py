"""The losses of the modules: which of their networks' answers go into the functions of `test_losses`, and settings."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import small
import torch
import torch.nn.functional as F
import yaml
from taste import Taste

from recalign.errors import InputError
from recalign.posttrain import CQL, GRPO, IPA, PPO, PairData, PostTrainingData, Preferences, SignedSFT, WeightedSFT
from recalign.posttrain.experimental import AWAC, IQL, KTO, Reinforce
from recalign.posttrain.rollout import Rollout, seen_pairs
from recalign.recommender import RecommenderData, SequencePolicy
from recalign.recommender.training import StageModule
from recalign.reward import RewardData
from recalign.run.words import imported

CONF = Path(__file__).parents[2] / "conf/methods"


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PostTrainingData, log_root)


@pytest.fixture(scope="module")
def batch(data):
    return small.batch_of(data, "train", rows=3)


@pytest.fixture(scope="module")
def start(data):
    torch.manual_seed(1)
    return SequencePolicy(small.encoder(), data.num_items, temperature=0.1).eval()


@pytest.fixture
def make(data, start):
    """A method on that start, with a reward model where it takes one, whose policy has moved a little."""

    def made(method, moved=True, **settings):
        asks = "reward_model" in method.UPSTREAM
        reward = {"reward_net": Taste([int(item) % 2 for item in data.sequences.items])} if asks else {}
        module = small.free(method, policy=start, **reward, **settings)
        torch.manual_seed(2)
        for weight in module.policy.parameters() if moved else ():
            weight.data += 0.01 * torch.randn_like(weight)
        return module

    return made


def log_ratio(module, batch, item_TC):
    now, before = (policy.log_probs(policy.encode(batch), item_TC) for policy in (module.policy, module.reference))
    return now - before


def log_probs(module, batch, item_TC):
    return module.policy.log_probs(module.policy.encode(batch), item_TC)


def defaults(method):
    """What a method's constructor and those of its base classes take where nothing is given."""
    own = [kind for kind in reversed(method.__mro__) if issubclass(kind, StageModule)]
    return {name: one.default for kind in own for name, one in inspect.signature(kind).parameters.items()}


def nll(module, batch):
    return -module.policy.log_prob(module.policy.encode(batch), batch.target_T)


def test_cql_step(make, batch):
    """Q = V + tau log pi. The term that is conservative, V - Q, is -tau log pi."""
    module = make(CQL, temperature=0.2, alpha=3.0)
    torch.nn.init.constant_(module.critic.read.bias, 0.4)
    nll_T = nll(module, batch)
    q_T = 0.4 - 0.2 * nll_T
    loss, figures = module.loss(batch)
    torch.testing.assert_close(loss, (q_T - batch.advantage_T).square().mean() / 2 + 3 * 0.2 * nll_T.mean())
    torch.testing.assert_close(figures["values"], q_T.detach())
    torch.testing.assert_close(figures["advantages"], -0.2 * nll_T.detach())


def test_cql_values_start_at_the_mean_reward(make, data):
    """It is 0, and so is the mean Q of the first batch's items. V is constant at first."""
    module = make(CQL, moved=False, temperature=0.2)
    module.bind(data)
    module.setup("fit")
    _, figures = module.loss(data.first_batch())
    assert figures["advantages"].abs().min() > 0
    assert figures["values"].mean().item() == pytest.approx(0, abs=1e-5)


# Two states, two items drawn at each; the first one has become a tenth more likely since.
OLD = torch.tensor([[0.5, 0.5], [0.25, 0.25]]).log()
NOW = OLD + torch.tensor([[1.1, 1.0], [1.0, 1.0]]).log()
REWARD = torch.tensor([[1.0, 0.0], [2.0, 1.0]])


def test_ppo_step(make, batch):
    """Rewards less 0.1 for a start that is e times less likely, V = 0.4: errors 0.5, -0.5, 1.5, 0.5."""
    module, state = make(PPO, kl=0.1), torch.zeros(2, 16)
    torch.nn.init.constant_(module.value.read.bias, 0.4)
    loss, figures = module.surrogate(Rollout(OLD, OLD - 1, REWARD), NOW, state, torch.tensor(9.0))
    value_error = (0.25 + 0.25 + 2.25 + 0.25) / 4
    assert figures["value_error"].item() == pytest.approx(value_error)
    assert loss.item() == pytest.approx(value_error)  # the first advantage is the mean: 0
    first = Rollout(OLD, OLD - 1, REWARD.flip(1))  # errors -0.5, 0.5, 0.5, 1.5: the first is -1 from the mean
    loss, _ = module.surrogate(first, NOW, state, torch.tensor(9.0))
    assert loss.item() == pytest.approx(value_error + 0.1 / 4 / (math.sqrt(0.5) + 1e-4))


def test_grpo_step(make, batch):
    module = make(GRPO, kl=0.2, cloning=0.5)
    loss, figures = module.surrogate(Rollout(OLD, NOW + math.log(2), REWARD), NOW, None, torch.tensor(3.0))
    pulled = 0.1 * 0.5 / (math.sqrt(0.5) + 1e-4) / 4
    assert figures["kl"].item() == pytest.approx(1.025 * (1 - math.log(2)))  # pi / old is 1.1 once, and else 1
    assert loss.item() == pytest.approx(-pulled + 0.2 * (1 - math.log(2)) + 0.5 * 3)


@pytest.mark.parametrize("method", [GRPO, IPA])
def test_old_policy_has_no_dropout(make, method):
    module = make(method).eval().train()
    assert module.training
    assert not module.old.training


def at_step(module, step):
    module.trainer = SimpleNamespace(global_step=step, log_every_n_steps=1000)
    return module


def test_old_policy_is_that_of_the_rounds_beginning(make, batch, data):
    module = at_step(make(PPO, samples=40, candidates=data.num_items, refresh=4), 4)
    _, figures = module.loss(batch)
    assert figures["ratio"].item() == pytest.approx(1, abs=1e-5)  # of any item, the first one too
    assert figures["nll"].item() == pytest.approx(nll(module, batch).mean().item())
    before = {name: value.clone() for name, value in module.old.state_dict().items()}
    for weight in module.policy.parameters():
        weight.data += 0.05
    at_step(module, 5).loss(batch)
    assert all(value.equal(before[name]) for name, value in module.old.state_dict().items())
    at_step(module, 8).loss(batch)
    assert not all(value.equal(before[name]) for name, value in module.old.state_dict().items())


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_preferences_step(make, batch, kind):
    rejected_TN = torch.where(batch.target_T % 2 == 0, 0, batch.target_T % 7 + 1)[:, None]
    batch = dataclasses.replace(batch, rejected_TN=rejected_TN)
    module = at_step(make(Preferences, loss=kind, beta=2.0, gamma=0.5), 0)
    module.bind(SimpleNamespace(share=0.5))
    item_TC = torch.stack([batch.target_T, rejected_TN[:, 0].clamp(min=1)], dim=1)
    value_TC = log_ratio(module, batch, item_TC)
    if kind == "simpo":
        value_TC = module.policy.log_probs(module.policy.encode(batch), item_TC)
    gap_T = (value_TC[:, 0] - value_TC[:, 1])[rejected_TN[:, 0] > 0]
    loss, figures = module.loss(batch)
    torch.testing.assert_close(loss, -F.logsigmoid(2 * gap_T - (0.5 if kind == "simpo" else 0)).mean())
    assert figures["share"] == 0.5
    assert module.loss(dataclasses.replace(batch, rejected_TN=torch.zeros_like(rejected_TN))) is None


def test_ipa_share_limits_the_histories_with_pairs(make, batch, monkeypatch):
    module, shown = make(IPA, share=0.3), []
    monkeypatch.setattr(module, "_pairs", lambda few: shown.append(few) or IPA._pairs(module, few))
    torch.manual_seed(5)
    chosen_T = torch.rand(len(batch.target_T)) < 0.3
    torch.manual_seed(5)
    module.loss(batch)
    assert 0 < chosen_T.sum() < len(chosen_T)
    assert shown[0].event_T.equal(batch.event_T[chosen_T])


def test_ipa_leaves_out_events_without_a_reward(make, batch):
    module, reward_T = make(IPA, share=1.0, cloning=0.5), batch.reward_T.clone()
    reward_T[::3] = torch.nan
    rated = batch.keep(~reward_T.isnan())
    torch.testing.assert_close(module.loss(dataclasses.replace(batch, reward_T=reward_T))[0], module.loss(rated)[0])
    assert module.loss(dataclasses.replace(batch, reward_T=torch.full_like(reward_T, torch.nan))) is None


def test_ipa_pairs_unseen_items_that_the_policy_shows(make, batch, start):
    """At the start pi = old, so that each pair costs log 2."""
    module = make(IPA, moved=False, share=1.0, candidates=6, cloning=0.5)
    pair_T2, gap_T = module._pairs(batch)
    shown_TC = start.top_k(start.encode(batch), 6, seen_pairs(batch))[1]
    assert (gap_T > 0).any()
    for pair, shown, gap in zip(pair_T2.tolist(), shown_TC.tolist(), gap_T, strict=True):
        assert gap == 0 or set(pair) <= set(shown)
    torch.testing.assert_close(module.loss(batch)[0], 0.5 * nll(module, batch).mean() + math.log(2))


def test_asft_logs_the_effective_sample_size(make, batch):
    advantage_T = batch.advantage_T.clone()
    advantage_T[::3] = torch.nan
    module = make(WeightedSFT, transform="constant")
    loss, figures = module.loss(dataclasses.replace(batch, advantage_T=advantage_T))
    known_T = ~advantage_T.isnan()
    torch.testing.assert_close(loss, nll(module, batch)[known_T].mean())
    assert figures["share"].item() == pytest.approx(known_T.float().mean().item())


def test_signed_asft_computes_the_start_of_every_training_event_once(make, batch, data):
    module = make(SignedSFT)
    module.trainer = SimpleNamespace(precision_plugin=SimpleNamespace(train_step_context=nullcontext))
    module.bind(data)
    module.on_train_start()
    expected_T = module.reference.log_prob(module.reference.encode(batch), batch.target_T)
    torch.testing.assert_close(module.start_E[batch.event_T], expected_T)
    assert (~module.start_E.isnan()).sum() == len(data.training().event)


@pytest.mark.parametrize(("transform", "heavy", "warns"), [("exponential", 9.0, True), ("linear", 1e4, False)])
def test_asft_warns_if_few_events_dominate_and_a_temperature_would_help(make, recwarn, transform, heavy, warns):
    """100 events: even ones weigh as they should; then two of them weigh nearly everything."""
    module, advantage_T = (
        make(WeightedSFT, transform=transform, temperature=0.3, clip=None),
        torch.linspace(0, 0.1, 100),
    )
    module.prepare_weights(advantage_T)
    assert not [one for one in recwarn if "model.temperature" in str(one.message)]
    advantage_T[:2] = heavy
    module.prepare_weights(advantage_T)
    said = [str(one.message) for one in recwarn if "model.temperature" in str(one.message)]
    assert len(said) == warns
    assert not warns or "(temperature 0.3: the effective sample size is 2.0% of 100 events)" in said[0]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (WeightedSFT, {"temperature": 0.0}),
        (WeightedSFT, {"temperature": float("nan")}),
        (WeightedSFT, {"clip": 0.0}),
        (WeightedSFT, {"keep": 97.0}),
        (WeightedSFT, {"keep": float("nan")}),
        (WeightedSFT, {"lr": -1e-3}),
        (WeightedSFT, {"top_k": 0}),
        (Preferences, {"beta": 0.0}),
        (KTO, {"good": -1.0}),
        (CQL, {"temperature": 0.0}),
        (IQL, {"beta": -1.0}),
        (IQL, {"expectile": 1.0}),
        (AWAC, {"samples": 0}),
        (Reinforce, {"cap": 0.0}),
        (PPO, {"refresh": 0}),
        (PPO, {"candidates": 1}),
        (PPO, {"samples": 0}),
        (GRPO, {"samples": 1}),
        (GRPO, {"early": 0.0}),
        (IPA, {"share": 0.0}),
        (IPA, {"share": 1.1}),
    ],
)
def test_settings_outside_their_range_are_refused_early(make, log_root, tmp_path, method, settings):
    with pytest.raises(InputError, match=rf"model\.{next(iter(settings))}: "):
        small.fit(make(method, **settings), small.data_of(RewardData, log_root), tmp_path)


@pytest.mark.parametrize(("settings", "key"), [({"losers": 0}, "losers"), ({"losers": 4, "candidates": 4}, "losers")])
def test_pair_settings_outside_their_range_are_refused(log_root, settings, key):
    with pytest.raises(InputError, match=rf"data\.{key}"):
        small.data_of(PairData, log_root, **settings)


YAMLS = sorted(path for path in CONF.glob("*.yaml") if "model" in yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_yaml_settings_exist_and_equal_constructor_defaults(path):
    run = yaml.safe_load(path.read_text())["model"]
    kind = imported(run.get("class_path", "recalign.posttrain.WeightedSFT"))
    python = defaults(kind)
    given = run.get("init_args", {})
    assert set(given) <= set(python)
    if path.stem in ("awac", "cql", "dpo", "grpo", "ipa", "iql", "kto", "ppo", "reinforce", "wbc"):
        assert given == {setting: python[setting] for setting in given}


@pytest.mark.parametrize("method", [PPO, CQL, IQL, AWAC])
def test_value_heads_send_no_gradient_to_the_policy(make, batch, monkeypatch, method):
    module, summary_TD = at_step(make(method), 0), torch.randn(len(batch.target_T), 16, requires_grad=True)
    head = module.value if method is PPO else module.critic
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    monkeypatch.setattr(module.policy, "hidden", lambda state: summary_TD)
    module.loss(batch)[0].backward()
    assert summary_TD.grad is None
    assert all(weight.grad is not None for weight in head.parameters())


@pytest.mark.parametrize(
    ("method", "kind", "needed"),
    [
        (WeightedSFT, RecommenderData, "PostTrainingData"),
        (WeightedSFT, RewardData, "PostTrainingData"),
        (CQL, RecommenderData, "PostTrainingData"),
        (Reinforce, RecommenderData, "PostTrainingData"),
        (KTO, PairData, "PostTrainingData"),
        (Preferences, PostTrainingData, "PairData"),
        (PPO, RecommenderData, "RewardData"),
    ],
)
def test_method_refuses_data_of_another_class(log_root, start, tmp_path, method, kind, needed):
    own = {"reward_net": Taste([0, 1])} if method is PPO else {}
    data = small.data_of(kind, log_root, "tastes")
    with pytest.raises(InputError, match=rf"cannot learn from {kind.__name__}\n  -> give recalign\.\w+\.{needed},"):
        small.fit(small.free(method, policy=start, **own), data, tmp_path)


def gradient(policy, loss) -> torch.Tensor:
    """Of the policy's weights, as one vector."""
    policy.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (WeightedSFT, {"transform": "constant"}),
        (WeightedSFT, {"temperature": 1e6}),
        (WeightedSFT, {"transform": "rank", "temperature": 1e6}),
        (CQL, {"alpha": 1e6}),
        (IQL, {"beta": 0.0}),
        (AWAC, {"beta": 0.0}),
    ],
)
def test_weighted_sft_with_equal_weights_is_cloning(make, batch, method, settings):
    module = make(method, moved=False, **settings)
    clone = copy.deepcopy(module.policy)
    cloning = gradient(clone, nll(SimpleNamespace(policy=clone), batch).mean())
    found = gradient(module.policy, module.loss(batch)[0])
    scale = settings.get("alpha", 1 / 0.1) * 0.1  # CQL's conservative term is alpha tau -log pi
    torch.testing.assert_close(found / scale, cloning, atol=1e-5, rtol=1e-3)


def test_signed_sft_first_gradient_is_that_of_the_advantage(make, batch):
    """At the start nothing is tapered: the gradient is that of sum A * -log pi / sum |A|."""
    module = make(SignedSFT, moved=False, clip=None)
    start_T = module.reference.log_prob(module.reference.encode(batch), batch.target_T).detach()
    module.start_E = torch.zeros(int(batch.event_T.max()) + 1).index_put((batch.event_T,), start_T)
    clone, a_T = copy.deepcopy(module.policy), batch.advantage_T.nan_to_num()
    expected = gradient(clone, (a_T * nll(SimpleNamespace(policy=clone), batch)).sum() / a_T.abs().sum())
    torch.testing.assert_close(gradient(module.policy, module.loss(batch)[0]), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("spread", "raised"), [(0.1, False), (0.6, True), (40.0, True)])
def test_auto_temperature_is_the_smallest_with_a_tenth_effective_sample_size(make, recwarn, spread, raised):
    advantage_T, module = (
        spread * torch.randn(500, generator=torch.Generator().manual_seed(0)),
        make(WeightedSFT, clip=None),
    )
    module.prepare_weights(torch.cat([advantage_T, torch.tensor([torch.nan])]))
    share = [
        (advantage_T.double() / (0.3 * 1.25**step)).softmax(dim=0).square().sum() ** -1 / 500 for step in range(48)
    ]
    step = [one >= 0.1 for one in share].index(True)
    assert (step > 0) == raised
    assert module.temperature == module.facts()["temperature"] == pytest.approx(0.3 * 1.25**step, rel=0.01)
    assert not [one for one in recwarn if "model.temperature" in str(one.message)]
    fixed, resumed = make(WeightedSFT, temperature=0.4), make(WeightedSFT)
    for other in (fixed, resumed):
        other.on_load_checkpoint({"facts": module.facts()})
    assert (fixed.temperature, resumed.temperature) == (0.4, module.temperature)


def test_transform_without_a_temperature_searches_none(make):
    module = make(WeightedSFT, transform="linear")
    module.prepare_weights(torch.linspace(0.0, 30.0, 100) ** 8)
    assert module.temperature == 0.3
    assert "temperature" not in module.facts()


@pytest.mark.parametrize(
    ("method", "settings", "advantage"),
    [(WeightedSFT, {"transform": "linear"}, -1.0), (WeightedSFT, {"transform": "sign"}, -1.0), (SignedSFT, {}, 0.0)],
)
def test_weights_that_are_all_zero_are_refused(make, method, settings, advantage):
    module = make(method, moved=False, **settings)
    with pytest.raises(InputError, match=rf"^model: .* {advantage:g}\)"):
        module.prepare_weights(torch.full((9,), advantage))


@pytest.mark.parametrize("transform", ["linear", "sign"])
def test_batch_whose_weights_are_all_zero_has_no_gradient(make, batch, transform):
    module = make(WeightedSFT, moved=False, transform=transform)
    bad = dataclasses.replace(batch, advantage_T=torch.full_like(batch.advantage_T, -1.0))
    assert not gradient(module.policy, module.loss(bad)[0]).any()
