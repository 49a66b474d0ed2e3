"""Permuted rewards: what is kept, what is destroyed, and how much of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences import correlation_within_users, permuted_rewards

events = st.lists(st.tuples(st.integers(0, 4), st.integers(-20, 20)), min_size=1, max_size=40)
seeds = st.integers(0, 1000)


def columns(drawn):
    """Rewards and users; whole numbers over four, so that sums hardly round."""
    user_N, reward_N = np.array(drawn).T
    return reward_N / 4, user_N


def means(reward_N, user_N):
    return np.array([np.nanmean(reward_N[user_N == user]) for user in user_N])


@given(events, seeds)
def test_residuals_are_permuted_over_all_users(drawn, seed):
    reward_N, user_N = columns(drawn)
    mean_N, given_N = means(reward_N, user_N), permuted_rewards(reward_N, user_N, seed)
    np.testing.assert_allclose(np.sort(given_N - mean_N), np.sort(reward_N - mean_N), atol=1e-9)


@given(events, seeds, st.integers(-8, 8))
def test_user_mean_is_kept_and_affects_no_other_user(drawn, seed, more):
    reward_N, user_N = columns(drawn)
    first_N = more * (user_N == user_N[0])
    kept_N = permuted_rewards(reward_N, user_N, seed) + first_N
    np.testing.assert_allclose(permuted_rewards(reward_N + first_N, user_N, seed), kept_N, atol=1e-9)


@given(events, seeds, st.data())
def test_permutation_skips_missing_rewards(drawn, seed, data):
    reward_N, user_N = columns(drawn)
    missing_N = np.array(data.draw(st.lists(st.booleans(), min_size=len(user_N), max_size=len(user_N))))
    some_N = np.where(missing_N, np.nan, reward_N)
    given_N = permuted_rewards(some_N, user_N, seed)
    np.testing.assert_array_equal(np.isnan(given_N), missing_N)
    known_N = ~missing_N
    if known_N.any():
        mean_N = means(some_N[known_N], user_N[known_N])
        residuals = (np.sort(one_N[known_N] - mean_N) for one_N in (given_N, some_N))
        np.testing.assert_allclose(*residuals, atol=1e-9)


@given(seeds)
def test_equal_seeds_permute_two_columns_alike(seed):
    random = np.random.default_rng(seed)
    user_N, first_N, second_N = random.integers(0, 9, 60), random.normal(size=60), random.normal(size=60)
    one_N, other_N = (permuted_rewards(reward_N, user_N, seed) for reward_N in (first_N, second_N))
    np.testing.assert_allclose(permuted_rewards(0.3 * first_N + second_N, user_N, seed), 0.3 * one_N + other_N)


def test_correlation_within_users_has_worked_out_value():
    user_N = np.array([0, 0, 0, 1, 1, 1])
    first_N, second_N = np.array([1, 2, 3, 10, 11, np.nan]), np.array([5, 4, 0, 7, np.nan, 1.0])
    # the first user's residuals are -1 0 1 and 2 1 -3; the second's only event that has both, 0 and 0
    assert correlation_within_users(first_N, second_N, user_N) == pytest.approx(-5 / np.sqrt(2 * 14))
    assert correlation_within_users(first_N, 3 * first_N + user_N, user_N) == pytest.approx(1)
    assert np.isnan(correlation_within_users(first_N, 1.0 * user_N, user_N))


@pytest.mark.parametrize(("events", "left"), [(2, 0.90), (4, 0.71), (6, 0.51), (20, 0.12)])
def test_user_means_of_short_histories_keep_item_quality(events, left):
    random = np.random.default_rng(0)
    user_N = np.repeat(np.arange(12000 // events), events)
    item_N, quality_I = random.integers(0, 200, len(user_N)), random.normal(size=200)
    reward_N = 0.5 * quality_I[item_N] + 0.5 * random.normal(size=user_N[-1] + 1)[user_N]
    reward_N += 0.7 * random.normal(size=len(user_N))
    given_N = permuted_rewards(reward_N, user_N, seed=1)
    mean_I = np.bincount(item_N, given_N) / np.bincount(item_N)
    assert np.corrcoef(mean_I, quality_I)[0, 1] == pytest.approx(left, abs=0.1)
    assert abs(correlation_within_users(reward_N, given_N, user_N)) < 0.05  # which does not show it
