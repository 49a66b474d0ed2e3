"""Which items are chosen together: found, scaled, and told apart from how popular they are."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.reward.company import company

USERS, ITEMS = 200, 60


def choices(apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """15 items a user, of two halves of the catalogue one of which each user prefers; some items are popular."""
    rng = np.random.default_rng(seed)
    fame_V = rng.exponential(size=ITEMS)
    side_U, side_V = rng.integers(2, size=USERS), np.arange(ITEMS) % 2
    chance_UV = fame_V * np.where(side_U[:, None] == side_V, 1, max(1 - apart, 1e-300))
    item_UN = np.argsort(-np.log(rng.random((USERS, ITEMS))) / chance_UV, axis=1)[:, :15]
    return np.repeat(np.arange(USERS), 15), item_UN.ravel()


def test_items_that_the_same_users_choose_lie_together():
    z_V = company(*choices(0.9), ITEMS, 1)[:, 0]
    side_V = np.arange(ITEMS) % 2
    assert abs(np.corrcoef(z_V, side_V)[0, 1]) > 0.8
    popularity_V = np.bincount(choices(0.9)[1], minlength=ITEMS)
    assert abs(np.corrcoef(z_V, popularity_V)[0, 1]) < 0.3


def test_their_unit_is_one_whatever_the_log():
    user_N, item_N = choices(0.5)
    z_VK = company(user_N, item_N, ITEMS, 4)
    np.testing.assert_allclose(z_VK[item_N].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(z_VK[item_N]).mean(), 1, atol=1e-6)


@given(st.integers(0, 5), st.integers(0, 70))
def test_order_and_repetition_change_nothing_and_nothing_random_is_used_up(seed, count):
    user_N, item_N = choices(0.5)
    expected = company(user_N, item_N, ITEMS, count)
    order = np.random.default_rng(seed).integers(len(user_N), size=4 * len(user_N))
    order = np.concatenate([order, np.arange(len(user_N))])
    torch.manual_seed(seed)
    found = company(user_N[order], item_N[order], ITEMS, count)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    np.testing.assert_allclose(found, expected)


def test_what_is_too_little_to_tell_is_nought():
    assert company(np.array([0]), np.array([1]), 3, 4).tolist() == [[0] * 4] * 3  # one choice
    assert not company(np.array([], dtype=int), np.array([], dtype=int), 3, 4).any()
    few = company(np.array([0, 0, 1, 1, 2]), np.array([1, 2, 2, 3, 1]), 5, 9)
    assert not few[[0, 4]].any()  # nobody's
    assert few[1:4, :2].any()
    assert not few[:, 2:].any()  # three users tell no more than two numbers
    assert np.isfinite(few).all()


def test_users_who_share_nothing_are_as_good_as_any():
    user_N, item_N = choices(1.0)  # the two halves never meet: the first value is there twice
    z_VK = company(user_N, item_N, ITEMS, 3)
    assert np.isfinite(z_VK).all()
    assert np.square(z_VK).sum() > 0
