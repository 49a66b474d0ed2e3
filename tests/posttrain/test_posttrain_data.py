"""Advantages: by hand, blind to what they must not see, and placebos that say nothing."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
import small
import torch

from recalign.data.sequences import Batch, UserCohort, correlation_within_users, permuted_rewards
from recalign.errors import InputError
from recalign.posttrain import PermutedPostTrainingData, PostTrainingData, ShuffledPostTrainingData
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData, RewardModel

# two users of six events each; the last of each is the test, the one before it validation
TINY = {
    "user": [1] * 6 + [2] * 6,
    "item": [10, 20, 30, 40, 10, 20, 20, 10, 40, 30, 30, 40],
    "timestamp": [*range(6), *range(6)],
    "rating": [4.0, 2.0, 5.0, 1.0, 3.0, 3.0, 1.0, None, 2.0, 3.0, 5.0, 5.0],
}
TRAINED = [1, 2, 3, 7, 8, 9]  # all training events but each user's first

PLACEBOS = {"none": PostTrainingData, "permuted": PermutedPostTrainingData, "random": ShuffledPostTrainingData}


def tiny(root, rating=None, placebo="none", **settings) -> PostTrainingData:
    frame = pl.DataFrame({**TINY, "rating": rating or TINY["rating"]})
    frame.write_csv(root / "tiny.csv")
    own = {"split": small.LeaveLast(1, 1), "users": "all", **settings}
    return small.data_of(PLACEBOS[placebo], root, "tiny", **own)


def by_hand(baseline: str) -> list[float]:
    """r - V of the trained events: k = 5 pseudo-events, mu the mean of the seven training rewards."""
    r = TINY["rating"]
    mu = (4 + 2 + 5 + 1 + 1 + 2 + 3) / 7
    item = {10: (4 + 5 * mu) / 6, 20: (2 + 1 + 5 * mu) / 7, 30: (5 + 3 + 5 * mu) / 7, 40: (1 + 2 + 5 * mu) / 7}
    past = {1: [0], 2: [0, 1], 3: [0, 1, 2], 7: [6], 8: [6], 9: [6, 8]}  # rated events before
    values = {
        "none": dict.fromkeys(TRAINED, 0.0),
        "global": dict.fromkeys(TRAINED, mu),
        "item": {e: item[TINY["item"][e]] for e in TRAINED},
        "user": {e: (sum(r[p] for p in past[e]) + 5 * mu) / (len(past[e]) + 5) for e in TRAINED},
        "user_item": {
            e: item[TINY["item"][e]] + sum(r[p] - item[TINY["item"][p]] for p in past[e]) / (len(past[e]) + 5)
            for e in TRAINED
        },
    }[baseline]
    return [np.nan if r[e] is None else r[e] - values[e] for e in TRAINED]


@pytest.mark.parametrize("baseline", ["none", "global", "user", "item", "user_item"])
def test_advantages_values(tmp_path, baseline):
    advantages = tiny(tmp_path, baseline=baseline).advantages
    unit = np.std([4, 2, 5, 1, 1, 2, 3], ddof=1)  # of the training rewards
    np.testing.assert_allclose(advantages[TRAINED], np.array(by_hand(baseline)) / unit, rtol=1e-5)
    assert np.isnan(np.delete(advantages, TRAINED)).all()  # first events, validation and test
    assert np.isnan(advantages[7])  # no reward


@pytest.mark.parametrize("baseline", ["none", "global", "user", "item", "user_item"])
@pytest.mark.parametrize("placebo", ["none", "permuted", "random"])
def test_validation_and_test_rewards_change_nothing(tmp_path, baseline, placebo):
    before = tiny(tmp_path, baseline=baseline, placebo=placebo).advantages
    rating = [99.0 if i % 6 >= 4 else r for i, r in enumerate(TINY["rating"])]
    after = tiny(tmp_path, rating, baseline=baseline, placebo=placebo).advantages
    np.testing.assert_array_equal(before, after)


def test_other_users_rewards_change_nothing(log_root):
    """Those of judges' users reach no advantage: means are of the group's own."""
    data = small.data_of(PostTrainingData, log_root)
    frame = data.sequences.frame
    outside = ~pl.Series(data.sequences.users_in("A")).gather(frame["user"])
    changed = frame.with_columns(pl.when(outside).then(-7.0).otherwise(pl.col("reward")).alias("reward"))
    again = small.data_of(PostTrainingData, log_root)
    again.sequences = dataclasses.replace(again.sequences, frame=changed)
    np.testing.assert_array_equal(data.advantages, again.advantages)
    assert outside.any()


@torch.no_grad()
def test_advantages_with_predicted_rewards_and_state_values(log_root, cloned, rewarded):
    paths = {"reward_model": str(rewarded), "init_from": str(cloned)}
    data = small.data_of(PostTrainingData, log_root, "tastes", source="predicted", baseline="value", **paths)
    loaded = load_net(rewarded, "reward")
    reward, policy = loaded.net.eval(), load_net(cloned, "policy").net.eval()
    assert policy.prior_strength or policy.memory
    policy.prior_strength, policy.memory = 0.0, None  # the start as it was cloned
    batch = small.batch_of(data, "train")
    self_influence_EF = torch.load(rewarded, weights_only=True)["self_influence"]
    predicted_T = reward.predict(reward.states(batch), batch.target_T, self_influence_EF[batch.event_T])
    p_TV = policy.log_probs(policy.encode(batch)).exp()
    r_TV = reward.predict(reward.states(batch))
    value_T = (p_TV * r_TV).sum(dim=1)
    soft_T = 0.5 * (p_TV.log() + r_TV / 0.5).logsumexp(dim=1)
    rho = loaded.facts["reliability"]
    shrunk_T = rho * predicted_T + (1 - rho) * batch.reward_T
    cases = {("predicted", "value"): predicted_T - value_T, ("observed", "soft"): batch.reward_T - soft_T}
    cases[("shrunk", "none")] = shrunk_T
    unit = data.reward_moments().sd
    for (source, baseline), expected_T in cases.items():
        settings = {"source": source, "baseline": baseline, "soft": 0.5, **paths}
        found = small.data_of(PostTrainingData, log_root, "tastes", **settings).advantages[batch.event_T.numpy()]
        np.testing.assert_allclose(found, expected_T.numpy() / unit, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{"source": "shrunk", "baseline": "none"}, {"baseline": "value"}])
def test_advantages_are_computed_on_the_trainers_device(log_root, cloned, rewarded, monkeypatch, settings):
    settings = settings | {"reward_model": str(rewarded), "init_from": str(cloned)}
    here, there = (small.data_of(PostTrainingData, log_root, "tastes", **settings) for _ in range(2))
    expected = here.advantages
    moved = small.on_a_gpu(there, monkeypatch)
    np.testing.assert_array_equal(there.advantages, expected)
    assert len(moved[torch.nn.Module]) == len(PostTrainingData.upstream({"source": "observed"} | settings))
    assert len(moved[Batch]) == len(there.loader(there.training(), seen=False))


def test_source_shrunk_refuses_a_reward_model_without_reliability(log_root, rewarded, tmp_path):
    checkpoint = torch.load(rewarded, weights_only=True)
    torch.save({**checkpoint, "facts": {"reward": "rating"}}, tmp_path / "reward.ckpt")
    settings = {"source": "shrunk", "reward_model": str(tmp_path / "reward.ckpt")}
    with pytest.raises(InputError, match="never validated"):
        _ = small.data_of(PostTrainingData, log_root, "tastes", **settings).advantages


def test_source_predicted_does_not_contain_the_events_noise(tmp_path):
    """What an event did to the figures of its item would bring its own reward back as if predicted."""
    random = np.random.default_rng(0)
    rows = [(u, int(v), t) for u in range(60) for t, v in enumerate(random.permutation(40)[:25])]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    frame.with_columns(pl.Series("rating", random.normal(size=len(frame)))).write_csv(tmp_path / "noise.csv")
    torch.manual_seed(0)
    of_log = small.data_of(RewardData, tmp_path, "noise", high=None, users="all")
    module = RewardModel(of_log.num_items, encoder=small.encoder(), members=1)
    small.fit(module, of_log, tmp_path)
    path = str(small.saved(module, tmp_path / "reward.ckpt"))
    settings = {"source": "predicted", "baseline": "none", "reward_model": path, "high": None, "users": "all"}
    data = small.data_of(PostTrainingData, tmp_path, "noise", **settings)
    event = data.training().event
    reward = data.sequences.frame["reward"].to_numpy()[event]
    assert abs(np.corrcoef(data.advantages[event], reward)[0, 1]) < 0.09  # three standard errors of chance


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"reward": "rating >= 4"}, r"predicts 'rating >= 4', and the reward here is 'rating'.*\n.*data\.reward"),
        ({"reward": "rating", "rewards": "others"}, "trained on other rewards of the same events"),
    ],
)
@pytest.mark.parametrize("settings", [{"source": "shrunk"}, {"baseline": "value"}])
def test_source_predicted_refuses_a_model_of_another_reward(
    log_root, cloned, rewarded, tmp_path, facts, said, settings
):
    torch.save({**torch.load(rewarded, weights_only=True), "facts": facts}, tmp_path / "reward.ckpt")
    paths = {"reward_model": str(tmp_path / "reward.ckpt"), "init_from": str(cloned)}
    with pytest.raises(InputError, match=said):
        _ = small.data_of(PostTrainingData, log_root, "tastes", **settings, **paths).advantages


@pytest.mark.parametrize("source", ["observed", "predicted", "shrunk"])
def test_permuted_data_permutes_deviations_from_user_means_for_any_source(log_root, rewarded, source):
    settings = {"source": source, "baseline": "none", "reward_model": str(rewarded)}
    real, placebo = (
        small.data_of(PLACEBOS[placebo], log_root, "tastes", **settings) for placebo in ("none", "permuted")
    )
    trained, event = placebo.logged_events.filter(split=0), real.training().event
    reward_E = real.advantages.astype(float) * real.reward_moments().sd
    if source == "observed":  # an event that is no target has a reward all the same
        reward_E = real.logged_rewards.copy()
    expected = permuted_rewards(reward_E[trained["event"].to_numpy()], trained["user"].to_numpy(), placebo.seed)
    reward_E[trained["event"].to_numpy()] = expected
    np.testing.assert_allclose(placebo.advantages[event] * placebo.reward_moments().sd, reward_E[event], atol=1e-4)
    np.testing.assert_allclose(placebo.reward_moments().sd, real.reward_moments().sd, rtol=0.05)


@pytest.mark.parametrize("source", ["observed", "predicted"])
@pytest.mark.parametrize("placebo", ["permuted", "random"])
def test_placebo_facts_have_the_remaining_correlation(log_root, rewarded, placebo, source):
    settings = {"source": source, "baseline": "none", "reward_model": str(rewarded)}
    real, sham = (small.data_of(PLACEBOS[one], log_root, "tastes", **settings) for one in ("none", placebo))
    event = real.training().event
    user = real.sequences.frame["user"].to_numpy()[event]
    left = correlation_within_users(real.advantages[event], sham.advantages[event], user)
    assert sham.facts() == {"placebo/correlation": pytest.approx(left, abs=1e-5)}
    assert abs(left) < 0.1
    assert real.facts() == {}


@pytest.mark.parametrize("baseline", ["none", "user", "item", "user_item"])
def test_placebo_advantages_do_not_correlate_with_item_quality(tmp_path, baseline):
    """Means of true rewards would make the advantage of a shuffled reward fall with its item's quality."""
    random = np.random.default_rng(0)
    quality = random.normal(size=40)
    rows = [(u, int(v), t) for u in range(150) for t, v in enumerate(random.permutation(40)[:25])]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    rating = quality[frame["item"].to_numpy()] + random.normal(size=len(frame)) / 2
    frame.with_columns(pl.Series("rating", rating)).write_csv(tmp_path / "good.csv")
    settings = {"baseline": baseline, "users": "all", "reward": "rating", "high": None}
    for placebo in ("permuted", "random"):
        data = small.data_of(PLACEBOS[placebo], tmp_path, "good", **settings)
        event = data.training().event
        of_item = quality[data.table.items.gather(data.sequences.frame["item"].gather(event)).to_numpy()]
        assert abs(np.corrcoef(data.advantages[event], of_item)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("source", "baseline", "needed"),
    [
        ("observed", "user_item", {}),
        ("predicted", "none", {"reward_model": "reward"}),
        ("shrunk", "global", {"reward_model": "reward"}),
        ("observed", "value", {"reward_model": "reward", "init_from": "recommender"}),
        ("predicted", "soft", {"reward_model": "reward", "init_from": "recommender"}),
    ],
)
def test_upstream_names_the_needed_checkpoints(log_root, source, baseline, needed):
    assert PostTrainingData.upstream({"source": source, "baseline": baseline}) == needed
    data = small.data_of(PostTrainingData, log_root, source=source, baseline=baseline)
    if needed:
        with pytest.raises(InputError, match=r"needs a (policy|reward)"):
            _ = data.advantages
    else:
        assert np.isfinite(data.advantages).any()


@pytest.mark.parametrize("baseline", ["none", "global"])
@pytest.mark.parametrize("usual", [3.0, 0.1, 0.7])  # the mean of some equal numbers is another one, by rounding
def test_equal_advantages_are_refused(tmp_path, usual, baseline):
    rating = [5.0 if i % 6 == 0 else usual for i in range(12)]  # only first events differ, and they are not trained on
    with pytest.raises(InputError, match="no two events differ in their advantage"):
        _ = tiny(tmp_path, rating, baseline=baseline).advantages


@pytest.mark.parametrize("settings", [{"source": "shrunk", "baseline": "value"}, {"source": "predicted"}])
def test_advantages_from_networks_equal_those_from_checkpoints(log_root, cloned, rewarded, settings):
    paths = {"init_from": str(cloned), "reward_model": str(rewarded)}
    nets = {"policy": load_net(cloned, "policy"), "reward_net": load_net(rewarded, "reward", self_influence=True)}
    of_paths, of_nets = (
        small.data_of(PostTrainingData, log_root, "tastes", **settings, **given).advantages for given in (paths, nets)
    )
    np.testing.assert_array_equal(of_paths, of_nets)


def test_source_predicted_refuses_a_bare_reward_model(log_root, rewarded):
    bare = load_net(rewarded, "reward").net
    data = small.data_of(PostTrainingData, log_root, "tastes", source="predicted", reward_net=bare)
    with pytest.raises(InputError, match="has no self-influence"):
        _ = data.advantages


@pytest.mark.parametrize(("group", "share"), [("all", 0.7), ("A", 0.95)])
def test_source_predicted_refuses_a_reward_model_of_other_users(log_root, rewarded, tmp_path, group, share):
    kin = small.data_of(RewardData, log_root, "tastes", share_a=share).sequences
    path = small.says_users(shutil.copy(rewarded, tmp_path / "wide.ckpt"), UserCohort.of(kin, group, share))
    data = small.data_of(PostTrainingData, log_root, "tastes", source="predicted", reward_model=str(path))
    with pytest.raises(InputError, match="judges learn from some of them"):
        _ = data.advantages
