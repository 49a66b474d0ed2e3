"""The reward network: what it sees, what it starts from, and that its two ways of predicting agree."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import small
import torch

from recalign.recommender.checkpoint import build_net, load_net, recipe
from recalign.reward import MeanHead, OrdinalHead, RewardData, RewardEnsemble
from recalign.reward.initial_factors import copy_factors, event_influence, item_features
from recalign.reward.matrix_factorization import fit_variational_mf
from recalign.reward.module import bagging_weights


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(RewardData, log_root)


def ensemble(items: int, members: int = 2, wild: bool = True, **settings: Any) -> RewardEnsemble:
    """An ensemble all of whose parts speak: a new one's heads say nothing."""
    torch.manual_seed(0)
    made = RewardEnsemble(small.encoder(), items, members, **settings).eval()
    for name, parameter in made.named_parameters():
        if wild and not name.endswith(("log_ridge", "log_slope")):
            torch.nn.init.normal_(parameter, std=0.3)
    for net in made.nets:
        net.calibrate(np.array([1.5, 3.0, 4.5]), torch.randn(items).numpy() + 3)
    return made


@torch.no_grad()
def test_scores_of_catalogue_and_items_agree(data):
    reward, batch = ensemble(data.num_items), small.batch_of(data, rows=6)
    states = reward.states(batch)
    r_TV = reward.predict(states)
    assert states.shape[:2] == (2, len(batch.target_T))
    assert r_TV.shape == (len(batch.target_T), data.num_items)
    items_TC = torch.randint(1, data.num_items + 1, (len(r_TV), 7))
    torch.testing.assert_close(reward.predict(states, items_TC), r_TV.gather(1, items_TC - 1))
    torch.testing.assert_close(reward.predict(states, items_TC[:, 0]), r_TV.gather(1, items_TC[:, :1] - 1)[:, 0])
    torch.testing.assert_close(reward.predictions(states).mean(dim=0), r_TV)
    assert not reward.predictions(states)[0].allclose(reward.predictions(states)[1])


@torch.no_grad()
def test_an_untrained_network_knows_the_user_and_item_means(data):
    """Without kin, what it starts from is `reward_means`' user_item, the best of the averages, exactly."""
    reward = RewardEnsemble(small.encoder(), data.num_items, num_factors=0, cooccurrence_dim=0).eval()
    reward.nets[0].calibrate(data.rated_events["reward"].to_numpy(), data.reward_moments().item_mean_V)
    batch = small.batch_of(data, "validation")
    predicted = reward.predict(reward.states(batch), batch.target_T)
    expected = data.expected_rewards(batch.event_T.numpy())
    np.testing.assert_allclose(predicted.numpy(), expected["user_item"].to_numpy(), atol=1e-4)
    assert expected["user_item"].std() > 0.05
    np.testing.assert_allclose(batch.reward_T.numpy(), expected["reward"].to_numpy())


def sized(data: RewardData) -> tuple[tuple[int, int], list[np.ndarray]]:
    """Numbers of users and items, and the rated training events, as a factorisation takes them."""
    size = (int(data.target_events["user"].max()) + 1, data.num_items + 1)
    return size, [data.rated_events[name].to_numpy() for name in ("user", "item_id", "reward")]


@torch.no_grad()
@pytest.mark.parametrize("known", [0, 3])
def test_initialised_network_equals_the_factorization(data, known):
    """For whoever has a history: its items as believed, and the user by ridge regression on the events so far."""
    reward = RewardEnsemble(small.encoder(), data.num_items, num_factors=4, cooccurrence_dim=5).eval()
    size, rated = sized(data)
    factorization = fit_variational_mf(*rated, size, 2, item_features(data, known))
    net, batch = reward.nets[0], small.batch_of(data, "train", rows=2)
    net.calibrate(data.rated_events["reward"].to_numpy(), data.reward_moments().item_mean_V)
    copy_factors(net, factorization)
    predicted_T = reward.predict(reward.states(batch), batch.target_T)
    item_VF = factorization.items.mean_RF
    u_VF = np.concatenate([np.ones((len(item_VF), 1)), item_VF[:, 1:], factorization.features_RK], axis=1)
    doubt_VF = np.pad(factorization.items.variance_RF[:, 1:], ((0, 0), (1, known)))
    expected = []
    for row, column, item in zip(batch.row_T, batch.column_T, batch.target_T, strict=True):
        past = batch.item_BL[row, : column + 1].numpy()
        residual = batch.reward_BL[row, : column + 1].numpy() - factorization.mean - item_VF[past, 0]
        seen = ~np.isnan(residual)
        u_NF = u_VF[past][seen]
        gram_FF = u_NF.T @ u_NF + np.diag(doubt_VF[past][seen].sum(axis=0) + factorization.ridge_F)
        user_F = np.linalg.solve(gram_FF, u_NF.T @ residual[seen])
        expected.append(factorization.mean + item_VF[item, 0] + user_F @ u_VF[item])
    np.testing.assert_allclose(predicted_T.numpy(), expected, atol=1e-3)
    assert np.std(expected) > 0.05


@torch.no_grad()
def test_self_influence_is_subtracted_in_training(data):
    """A target is scored as if its item's level and traits had been fitted without it."""
    reward = RewardEnsemble(small.encoder(), data.num_items, num_factors=2, cooccurrence_dim=3).eval()
    size, rated = sized(data)
    factorization = fit_variational_mf(*rated, size, 2, item_features(data, 3))
    net, batch = reward.nets[0], small.batch_of(data, "train", rows=1)
    net.calibrate(data.rated_events["reward"].to_numpy(), data.reward_moments().item_mean_V)
    copy_factors(net, factorization)
    torch.nn.init.normal_(net.item_projection.weight)
    states, moved_EF = reward.states(batch), event_influence(factorization, data, 2)
    own_MT = net.self_influence(states, moved_EF[batch.event_T])
    for t in (0, 3):
        item, moved_F = batch.target_T[t], moved_EF[batch.event_T[t]]
        before = net.scores(states, batch.target_T)[0, t]
        net.item_bias[item] -= moved_F[0] / net.scale
        net.item_factors.weight[item, :2] -= moved_F[1:]
        after = net.scores(states, batch.target_T)[0, t]
        torch.testing.assert_close(own_MT[0, t], before - after)
        copy_factors(net, factorization)
    assert own_MT.abs().max() > 0.01


@torch.no_grad()
def test_prediction_depends_on_earlier_rewards_only(data):
    reward, batch = ensemble(data.num_items, members=1), small.batch_of(data, "train", rows=1)
    reward_BL = batch.reward_BL.clone()
    reward_BL[0, 5] += 2
    other = dataclasses.replace(batch, reward_BL=reward_BL, reward_T=batch.reward_T + 9, high_T=~batch.high_T)
    before, after = (reward.predict(reward.states(b)) for b in (batch, other))
    same_T = (before == after).all(dim=1)
    assert same_T[batch.column_T < 5].all()  # the state before event 5 is that of column 4
    assert not same_T[batch.column_T >= 5].any()


@torch.no_grad()
def test_prediction_ignores_later_events(data):
    reward, batch = ensemble(data.num_items, members=1), small.batch_of(data, "train", rows=1)
    item_BL = batch.item_BL.clone()
    item_BL[0, 8] = item_BL[0, 8] % data.num_items + 1
    before, after = (reward.states(b)[0] for b in (batch, dataclasses.replace(batch, item_BL=item_BL)))
    assert (before == after).all(dim=1)[batch.column_T < 8].all()
    assert not (before == after).all(dim=1)[batch.column_T >= 8].any()


@torch.no_grad()
def test_fold_in_ignores_missing_rewards(data):
    net, batch = ensemble(data.num_items, members=1).nets[0], small.batch_of(data, "train", rows=1)
    reward_BL = torch.full_like(batch.reward_BL, torch.nan)
    without = dataclasses.replace(batch, reward_BL=reward_BL)
    folded_MTR = net.fold_in(without)
    assert net.user_side(net.trunk.encode(without), folded_MTR).isfinite().all()
    assert folded_MTR.abs().sum() == 0
    assert net.fold_in(batch).abs().sum() > 0


@torch.no_grad()
def test_prediction_ignores_padding(data):
    reward, batch = ensemble(data.num_items), small.batch_of(data, "train", rows=3)
    wide = data.loader(data.training()).dataset.make(np.arange(3), int(batch.length_B.max()))
    torch.testing.assert_close(reward.states(batch), reward.states(wide))


@torch.no_grad()
@pytest.mark.parametrize("head", [MeanHead(), OrdinalHead()], ids=lambda h: type(h).__name__)
def test_members_on_a_shared_trunk_equal_single_members(data, head):
    """One product for all members, and the same figures as networks that hold one member's weights each."""
    reward, batch = ensemble(data.num_items, members=3, head=head), small.batch_of(data, rows=4)
    net = reward.nets[0]
    items_TC = torch.randint(1, data.num_items + 1, (len(batch.target_T), 4))
    together = [reward.predictions(reward.states(batch), item) for item in (batch.target_T, items_TC, None)]
    for m in range(3):
        alone = ensemble(data.num_items, members=1, head=build_net(recipe(head)))
        weights = alone.nets[0].state_dict()
        for name, weight in net.state_dict().items():
            if name == "item_bias":
                weight = weight[:, m : m + 1]
            elif name in ("user_bias.weight", "user_projection.weight"):
                weight = weight.chunk(3)[m]
            weights[name] = weight
        alone.nets[0].load_state_dict(weights)
        for item, figure_K in zip((batch.target_T, items_TC, None), together, strict=True):
            torch.testing.assert_close(alone.predictions(alone.states(batch), item)[0], figure_K[m])


def test_bagging_weights_depend_on_seed_user_and_member_only():
    user_B = torch.arange(5000)
    weight_KB = bagging_weights(user_B, 3, 0)
    assert weight_KB.equal(bagging_weights(user_B, 3, 0))
    shuffled = torch.randperm(5000)
    assert weight_KB[:, shuffled].equal(bagging_weights(user_B[shuffled], 3, 0))
    assert weight_KB.mean(dim=1).tolist() == pytest.approx([1.0] * 3, abs=0.05)
    assert weight_KB.var(dim=1).tolist() == pytest.approx([1.0] * 3, abs=0.1)  # as Poisson(1)
    assert (weight_KB == 0).float().mean(dim=1).tolist() == pytest.approx([np.exp(-1)] * 3, abs=0.03)


@pytest.mark.parametrize("users", [40, 5000])
def test_bagging_weights_of_members_are_independent(users):
    weight_KB = torch.cat([bagging_weights(torch.arange(users), 4, seed) for seed in (0, 1, 2**32 - 1)])
    correlation_KK = torch.corrcoef(weight_KB)
    assert (correlation_KK - torch.eye(12)).abs().max() < 4 / users**0.5


def test_reward_checkpoint_restores_calibration(rewarded, log_root):
    data = small.data_of(RewardData, log_root, "tastes")
    loaded = load_net(rewarded, "reward")
    mean, scale, _ = data.reward_moments()
    assert loaded.net.nets[0].mean.item() == pytest.approx(mean)
    assert loaded.net.nets[0].scale.item() == pytest.approx(scale)
    assert 0 < loaded.facts["reliability"] < 1
