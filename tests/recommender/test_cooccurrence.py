"""Which items are chosen together: found, scaled, and told apart from how popular they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.data.sequences.splits import TRAIN
from recalign.recommender.cooccurrence import cooccurrence_embedding
from recalign.reward import RewardData, initial_factors
from recalign.reward.matrix_factorization import VariationalMF, fit_variational_mf

USERS, ITEMS = 200, 60


def choices(apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """15 items a user, of two halves of the catalogue one of which each user prefers; some items are popular."""
    rng = np.random.default_rng(seed)
    fame_V = rng.exponential(size=ITEMS)
    side_U, side_V = rng.integers(2, size=USERS), np.arange(ITEMS) % 2
    chance_UV = fame_V * np.where(side_U[:, None] == side_V, 1, max(1 - apart, 1e-300))
    item_UN = np.argsort(-np.log(rng.random((USERS, ITEMS))) / chance_UV, axis=1)[:, :15]
    return np.repeat(np.arange(USERS), 15), item_UN.ravel()


def test_cooccurrence_embedding_places_items_of_the_same_users_together():
    z_V = cooccurrence_embedding(*choices(0.9), ITEMS, 1)[:, 0]
    side_V = np.arange(ITEMS) % 2
    assert abs(np.corrcoef(z_V, side_V)[0, 1]) > 0.8
    popularity_V = np.bincount(choices(0.9)[1], minlength=ITEMS)
    assert abs(np.corrcoef(z_V, popularity_V)[0, 1]) < 0.3


def test_cooccurrence_embedding_has_unit_scale():
    user_N, item_N = choices(0.5)
    z_VK = cooccurrence_embedding(user_N, item_N, ITEMS, 4)
    np.testing.assert_allclose(z_VK[item_N].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(z_VK[item_N]).mean(), 1, atol=1e-6)


@given(st.integers(0, 5), st.integers(0, 70))
def test_cooccurrence_embedding_ignores_order_repetition_and_random_state(seed, count):
    user_N, item_N = choices(0.5)
    expected = cooccurrence_embedding(user_N, item_N, ITEMS, count)
    order = np.random.default_rng(seed).integers(len(user_N), size=4 * len(user_N))
    order = np.concatenate([order, np.arange(len(user_N))])
    torch.manual_seed(seed)
    found = cooccurrence_embedding(user_N[order], item_N[order], ITEMS, count)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_cooccurrence_embedding_of_too_few_events_is_zero():
    assert cooccurrence_embedding(np.array([0]), np.array([1]), 3, 4).tolist() == [[0] * 4] * 3  # one choice
    assert not cooccurrence_embedding(np.array([], dtype=int), np.array([], dtype=int), 3, 4).any()
    few = cooccurrence_embedding(np.array([0, 0, 1, 1, 2]), np.array([1, 2, 2, 3, 1]), 5, 9)
    assert not few[[0, 4]].any()  # nobody's
    assert few[1:4, :2].any()
    assert not few[:, 2:].any()  # three users tell no more than two numbers
    assert np.isfinite(few).all()


@pytest.mark.parametrize("alone", [1, 16, 40])
def test_cooccurrence_embedding_ignores_isolated_users(alone):
    """Each is a component of its own, which a decomposition of who chose what finds before anything else."""
    user_N, item_N = choices(0.9)
    own_N = np.arange(2 * alone)
    both = np.append(user_N, USERS + own_N // 2), np.append(item_N, ITEMS + own_N)
    z_VK = cooccurrence_embedding(*both, ITEMS + 2 * alone, 2)[:ITEMS]
    side_V, popularity_V = np.arange(ITEMS) % 2, np.sqrt(np.bincount(item_N, minlength=ITEMS))
    assert max(abs(np.corrcoef(z_V, side_V)[0, 1]) for z_V in z_VK.T) > 0.8
    assert max(abs(np.corrcoef(z_V, popularity_V)[0, 1]) for z_V in z_VK.T) < 0.5


def test_item_features_use_training_choices_of_the_group(log_root):
    data = small.data_of(RewardData, log_root, users="A")
    expected = initial_factors.item_features(data, 4)
    frame = data.sequences.frame
    others = pl.Series(data.sequences.users_in("B1") | data.sequences.users_in("B2")).gather(frame["user"])
    later = frame["split"] > TRAIN
    changed = frame.with_columns(pl.when(others | later).then(1).otherwise("item_id").cast(pl.Int32).alias("item_id"))
    assert (changed["item_id"] != frame["item_id"]).sum() > 50
    other = small.data_of(RewardData, log_root, users="A")
    other.sequences = dataclasses.replace(data.sequences, frame=changed)
    assert np.array_equal(initial_factors.item_features(other, 4), expected)
    assert not np.array_equal(
        initial_factors.item_features(small.data_of(RewardData, log_root, users="all"), 4), expected
    )


@pytest.mark.parametrize("read", [True, False])
def test_choose_factorization_validates_on_users_seen_in_training(log_root, monkeypatch, read):
    data = small.data_of(RewardData, log_root, "tastes")
    some = data.rated_events["user"].median()
    vars(data)["rated_events"] = data.rated_events.filter(pl.col("user") <= some)

    def shifted(*given):
        """A fit that is wrong for those it has met where what is known is read, or where it is not; and the other way
        round by more for those it has not."""
        found = fit_variational_mf(*given)
        right = (given[-1] is not None) == read

        def expected(user_N, item_N):
            return np.where(user_N <= some, 3.0 if right else 9.0, 99.0 if right else 3.0)

        monkeypatch.setattr(VariationalMF, "expected", lambda self, *event: self.doubled(*event), raising=False)
        object.__setattr__(found, "doubled", expected)
        return found

    monkeypatch.setattr(initial_factors, "fit_variational_mf", shifted)
    assert initial_factors.choose_factorization(data, 2, 3).features_RK.shape[1] == (3 if read else 0)
