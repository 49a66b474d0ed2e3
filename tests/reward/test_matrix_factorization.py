"""The Bayesian factorisation: what it finds, what it drops, and what an event has done to its own item."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small

from recalign.reward import RewardData, initial_factors
from recalign.reward import matrix_factorization as module
from recalign.reward.matrix_factorization import MAX_SWEEPS, fit_variational_mf


def log(taste: float, noise: float, users=150, items=80, seed=0, traits=False):
    """Users, items and rewards: 30 training events a user, then 10 more, under levels and a taste of rank 2.

    And the items' true traits, where they are asked for.
    """
    rng = np.random.default_rng(seed)
    p_UR, q_IR = rng.normal(size=(users, 2)), taste * rng.normal(size=(items, 2))
    mean_UI = 3 + 0.5 * rng.normal(size=(users, 1)) + 0.5 * rng.normal(size=items) + p_UR @ q_IR.T
    item_UN = np.stack([rng.permutation(items)[:40] for _ in range(users)])
    user_UN = np.repeat(np.arange(users)[:, None], 40, axis=1)
    reward_UN = mean_UI[user_UN, item_UN] + noise * rng.normal(size=item_UN.shape)
    parts = [
        tuple(x_UN[:, part].ravel() for x_UN in (user_UN, item_UN, reward_UN)) for part in (slice(30), slice(30, 40))
    ]
    return [*parts, q_IR] if traits else parts


def rmse(factors, test) -> float:
    user_N, item_N, reward_N = test
    return float(np.sqrt(np.square(factors.expected(user_N, item_N) - reward_N).mean()))


def test_factorization_finds_noise_and_spread_of_biases():
    train, _ = log(0.5, 0.5)
    found = fit_variational_mf(*train, (150, 80), 2)
    assert found.noise == pytest.approx(0.25, rel=0.1)
    assert found.users.precision_F[0] == pytest.approx(4, rel=0.35)
    assert found.items.precision_F[0] == pytest.approx(4, rel=0.35)


def test_factorization_drops_unsupported_factors():
    train, _ = log(0.0, 1.0)
    found = fit_variational_mf(*train, (150, 80), 4)
    contribution_UI = found.users.mean_RF[:, 1:] @ found.items.mean_RF[:, 1:].T
    assert contribution_UI.std() < 0.05
    assert found.ridge_F[1:].min() > 10 * found.ridge_F[0]


def test_factorization_with_known_features_beats_latent_factors():
    train, test, q_IR = log(0.3, 1.0, traits=True)
    known, found = (fit_variational_mf(*train, (150, 80), 2, z_IK) for z_IK in (2 * q_IR, None))
    assert rmse(known, test) < 0.98 * rmse(found, test)
    assert known.noise == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("taste", [0.0, 0.5])
def test_factorization_drops_useless_features(taste):
    train, test = log(taste, 1.0)
    chance_IK = np.random.default_rng(1).normal(size=(80, 16))
    with_it, without = (fit_variational_mf(*train, (150, 80), 2, z_IK) for z_IK in (chance_IK, None))
    assert rmse(with_it, test) < 1.005 * rmse(without, test)
    assert (1 / with_it.users.precision_F[3:]).sum() < 0.03  # of 1, the noise's
    assert with_it.noise == pytest.approx(without.noise, rel=0.05)


@pytest.mark.parametrize("known", [0, 2])
def test_self_influence_equals_refitting_without_the_event(known):
    train, _, q_IR = log(0.5, 0.5, traits=True)
    user_N, item_N, reward_N = train
    found, left = fit_variational_mf(*train, (150, 80), 2, q_IR[:, :known]), 7
    moved_F = found.self_influence(*train)[left]
    reward_N = reward_N - (found.users.mean_RF[user_N, 3:] * found.features_RK[item_N]).sum(axis=1)
    others = np.arange(len(item_N)) != left
    mine = others & (item_N == item_N[left])
    x_RF, square_RFF, with_level_RF = found.users.moments()
    gram_FF = square_RFF[user_N[mine]].sum(axis=0) + found.noise * np.diag(found.items.precision_F)
    right_F = (x_RF[user_N[mine]] * (reward_N[mine] - found.mean)[:, None] - with_level_RF[user_N[mine]]).sum(axis=0)
    now_F = found.items.mean_RF[item_N[left]]
    np.testing.assert_allclose(now_F - moved_F, np.linalg.solve(gram_FF, right_F), atol=0.02)
    residual = train[2][left] - found.expected(user_N[[left]], item_N[[left]])[0]
    assert np.sign(moved_F @ x_RF[user_N[left]]) == np.sign(residual)  # towards its own reward


@pytest.mark.parametrize(("users", "items"), [(300, 100), (150, 60)])
def test_factorization_is_finite_for_an_exact_fit(users, items):
    rng = np.random.default_rng(0)
    quality_I = rng.normal(size=items)
    user_N = np.repeat(np.arange(users), items // 2)
    item_N = np.concatenate([rng.permutation(items)[: items // 2] for _ in range(users)])
    reward_N = 3 + quality_I[item_N]
    found = fit_variational_mf(user_N, item_N, reward_N, (users, items), 8)
    assert found.noise > 0
    assert np.isfinite(np.log(found.ridge_F)).all()
    np.testing.assert_allclose(found.expected(user_N, item_N), reward_N, atol=0.02)
    assert np.abs(found.self_influence(user_N, item_N, reward_N)).max() < 0.02  # of 75 and more that agree


def test_factorization_does_not_depend_on_blocks(monkeypatch):
    train, _, q_IR = log(0.5, 0.5, traits=True)
    user_N, item_N, reward_N = (x_N[7:] for x_N in train)  # so that users differ in how much they have
    log_of = 3 * user_N, item_N, reward_N  # and many have nothing
    whole = fit_variational_mf(*log_of, (451, 80), 2, q_IR)
    moved_NG = whole.self_influence(*log_of)
    monkeypatch.setattr(module, "CHUNK", 7)
    parts = fit_variational_mf(*log_of, (451, 80), 2, q_IR)
    np.testing.assert_allclose(parts.users.mean_RF, whole.users.mean_RF, atol=1e-6)
    np.testing.assert_allclose(parts.items.covariance_RGG, whole.items.covariance_RGG, atol=1e-6)
    np.testing.assert_allclose(parts.self_influence(*log_of), moved_NG, atol=1e-6)
    assert not whole.users.mean_RF[1::3].any()
    assert (whole.users.variance_RF[1::3] > 0).all()


def test_factorization_stops_when_noise_hardly_changes(monkeypatch):
    calls = []
    update = module._update
    monkeypatch.setattr(module, "_update", lambda *inputs: calls.append(1) or update(*inputs))
    train, test = log(0.5, 0.5)
    early = fit_variational_mf(*train, (150, 80), 8)
    assert len(calls) < 0.8 * 2 * MAX_SWEEPS
    monkeypatch.setattr(module, "TOLERANCE", 0)
    assert rmse(early, test) < 1.005 * rmse(fit_variational_mf(*train, (150, 80), 8), test)


def test_choose_factorization_never_takes_nan(log_root, monkeypatch):
    def broken(user_N, item_N, reward_N, size, rank, features_RK):
        found = fit_variational_mf(user_N, item_N, reward_N, size, rank, features_RK)
        return dataclasses.replace(found, mean=float("nan")) if rank == 2 else found

    monkeypatch.setattr(initial_factors, "fit_variational_mf", broken)
    assert np.isfinite(initial_factors.choose_factorization(small.data_of(RewardData, log_root, "tastes"), 8, 4).mean)
