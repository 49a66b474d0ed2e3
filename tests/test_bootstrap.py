"""Crossed bootstrap and Holm: hand-worked values, exact properties, and coverage on worlds whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.bootstrap import CrossedBootstrap, Estimate, holm, holm_intervals


def test_mean_of_two_users_has_worked_out_draws():
    # Draws of two users: both the first (1/4), one each (1/2), both the second (1/4).
    estimate = CrossedBootstrap(users=2, draws=4000).mean(np.array([[0.0, 3.0]]), np.array([[1.0, 3.0]]))
    values, share = np.unique(estimate.draws_D, return_counts=True)
    assert values == pytest.approx([0, 0.75, 1])
    assert share / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert estimate.interval() == (0, 1)


def test_variance_over_seeds_is_unbiased():
    # Users that are all alike leave the seeds alone: variance of the mean of 3 seeds is s^2 / 3.
    seeds = np.array([1.0, 2.0, 6.0])
    estimate = CrossedBootstrap(users=5, draws=20_000).mean(np.repeat(seeds[:, None], 5, axis=1), np.ones((3, 5)))
    assert estimate.draws_D.var() == pytest.approx(seeds.var(ddof=1) / 3, rel=0.03)


def test_rare_events_and_nan():
    bootstrap = CrossedBootstrap(users=3, draws=500)
    rare = bootstrap.mean(np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 0.0, 0.0]]))  # 8 in 27 draws miss the user
    assert np.isnan(rare.draws_D).any()
    assert (rare.value, *rare.interval()) == (0.5, 0.5, 0.5)
    diverged = bootstrap.mean(np.array([[1.0, np.nan, 0.0]]), np.ones((1, 3)))
    assert np.isnan([diverged.value, *diverged.interval()]).all()
    assert diverged.p_value() == 1


# standard deviations of: user, seed, user within seed; (seeds, what a 95 % interval must cover at least, at most)
WORLDS = {
    "users and seeds": (1.0, 0.1, 0.5, 5, 0.92, 0.985),
    "users mostly": (1.0, 0.02, 0.3, 3, 0.92, 0.985),
    "three seeds": (1.0, 0.1, 0.5, 3, 0.90, 0.985),
    "one seed": (1.0, 0.0, 0.3, 1, 0.92, 0.985),
    "seeds mostly: known to fall short": (0.2, 0.2, 0.2, 5, 0.84, 0.95),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_intervals_cover_the_truth(world):
    user, seed, both, seeds, least, most = world
    worlds, users = 300, 100
    rng = np.random.default_rng(0)
    events = rng.integers(1, 6, size=(worlds, 1, users)).astype(float)
    reward = 0.3 + user * rng.normal(size=(worlds, 1, users)) + seed * rng.normal(size=(worlds, seeds, 1))
    reward = reward + both * rng.normal(size=(worlds, seeds, users))
    count = np.broadcast_to(events, reward.shape)
    bootstrap = CrossedBootstrap(users, draws=1000)
    value_R, drawn_DR = bootstrap.ratios((reward * count).reshape(-1, users), count.reshape(-1, users))
    covered = 0
    for world_index in range(worlds):
        rows = slice(world_index * seeds, (world_index + 1) * seeds)
        low, high = bootstrap.over_seeds(value_R[rows], drawn_DR[:, rows]).interval()
        covered += low <= 0.3 <= high
    assert least <= covered / worlds <= most


def test_interval_and_p_value_of_known_draws():
    # 39 draws: k = 40 * 0.025 = 1 for 95 %, so the ends are the extremes.
    estimate = Estimate(10.0, np.arange(-3.0, 36.0))
    assert estimate.interval() == (-3, 35)
    assert estimate.interval(0.9) == (-2, 34)
    assert estimate.p_value() == pytest.approx(2 * (1 + 4) / 40)  # -3, -2, -1 and 0 are not above 0
    assert estimate.interval(0.96) == (-np.inf, np.inf)


def test_holm_returns_worked_out_p_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.02]) == pytest.approx([0.02])


def test_holm_stops_at_the_first_p_value_not_rejected():
    """Two p-values of 0.04: 0.05 / 2 rejects neither, so both intervals have that level, and 0.05 is never tried."""
    estimate = Estimate(50.0, np.array([-1.0, *range(1, 99)]))
    assert estimate.p_value() == pytest.approx(0.04)
    assert estimate.interval() == (1, 97)
    assert holm_intervals([estimate, estimate]) == [(-1, 98)] * 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=12), st.integers(0, 10_000))
def test_holm_intervals_reject_what_holm_rejects(shifts, seed):
    noise = np.random.default_rng(seed).normal(size=(len(shifts), 999))
    estimates = [Estimate(shift, shift + draws) for shift, draws in zip(shifts, noise, strict=True)]
    rejected = holm([estimate.p_value() for estimate in estimates]) <= 0.05 + 1e-9
    shut_out = [low > 0 or high < 0 for low, high in holm_intervals(estimates)]
    assert shut_out == list(rejected)


@pytest.mark.parametrize("users", [3, 50])
def test_draws_in_chunks_equal_draws_at_once(monkeypatch, users):
    """As many draws as fit into CHUNK bytes, one at least; the figures are the same to the bit."""
    rng = np.random.default_rng(4)
    data = rng.normal(size=(2, users)), rng.integers(1, 4, size=(2, users)).astype(float)
    monkeypatch.setattr("recalign.bootstrap.CHUNK", 3 * 8 * 7)
    held = CrossedBootstrap(users, draws=20)
    assert [len(weight_DU) for weight_DU in held._weights()] == ([7, 7, 6] if users == 3 else [1] * 20)
    monkeypatch.setattr("recalign.bootstrap.MAX_STORED", 0)
    drawn = CrossedBootstrap(users, draws=20)
    for _ in range(2):
        assert np.array_equal(drawn.mean(*data).draws_D, held.mean(*data).draws_D)
