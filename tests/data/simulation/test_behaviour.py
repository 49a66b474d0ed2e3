import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.data.simulation.behaviour import (
    BLOCK,
    CIRCUMSTANCE_SHARE,
    LATEST_ARRIVAL,
    SESSION_EVENTS,
    SPAN,
    choose,
    draw_activity,
    draw_times,
)
from recalign.data.simulation.people import draw_people


@given(users=st.integers(1, 200), most=st.integers(1, 500), fill=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_draw_activity_sums_to_the_events_within_its_bounds(users: int, most: int, fill: float, seed: int) -> None:
    events = round(users + fill * users * (most - 1))
    count_U = draw_activity(np.random.default_rng(seed), users, events, most)
    assert count_U.sum() == events
    assert count_U.min() >= 1
    assert count_U.max() <= most


@settings(max_examples=50)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=40), seed=st.integers(0, 2**32))
def test_draw_times_orders_events_and_sessions_have_one_circumstance(counts: list[int], seed: int) -> None:
    second_N, under_N = draw_times(np.random.default_rng(seed), np.array(counts))
    assert len(second_N) == len(under_N) == sum(counts)
    assert second_N.min() >= 0
    user_N = np.repeat(np.arange(len(counts)), counts)
    same_user = user_N[1:] == user_N[:-1]
    assert (np.diff(second_N)[same_user] >= 1).all()


def test_users_arrive_in_the_first_half_and_come_until_the_end() -> None:
    count_U = np.full(2000, 100)
    second_N, under_N = draw_times(np.random.default_rng(0), count_U)
    second_UL, under_UL = second_N.reshape(2000, 100), under_N.reshape(2000, 100)
    first_U, last_U = second_UL[:, 0] / SPAN, second_UL[:, -1] / SPAN
    assert first_U.min() < 0.05
    assert 0.5 * LATEST_ARRIVAL < np.median(first_U) < 0.7 * LATEST_ARRIVAL  # uniform, plus a gap
    assert np.median(last_U) > 0.9
    assert last_U.max() < 1.01
    pause_N = np.diff(second_UL, axis=1)
    assert (pause_N > 3600).mean() == pytest.approx(1 / SESSION_EVENTS, abs=0.01)
    assert under_N.mean() == pytest.approx(CIRCUMSTANCE_SHARE, abs=0.01)
    changes = under_UL[:, 1:] != under_UL[:, :-1]
    assert changes[pause_N > 3600].mean() == pytest.approx(2 * CIRCUMSTANCE_SHARE * (1 - CIRCUMSTANCE_SHARE), abs=0.02)
    assert changes[pause_N <= 3600].mean() < 0.01  # a few short breaks pass for pauses


def test_choose_follows_the_formula_of_its_docstring() -> None:
    """First choices of many users that are all alike, against the softmax worked out by hand."""
    users, items = 20_000, 20
    rng = np.random.default_rng(0)
    one = draw_people(rng, 10, items)
    people = type(one)(
        satisfaction_UI=np.tile(one.satisfaction_UI[0], (users, 1)),
        habit_UD=one.habit_UD[:1].repeat(users, axis=0),
        position_ID=one.position_ID,
        fashion_TI=one.fashion_TI,
        affinity_I=one.affinity_I,
        generosity_U=np.zeros(users, np.float32),
    )
    count_U, slice_N = np.ones(users, dtype=np.int64), np.full(users, 7)
    circumstance_N = np.full(users, 1.5, np.float32)
    item_N, _ = choose(rng, people, count_U, slice_N, circumstance_N, habit=0, fashion=2, confounding=0.5)
    logit_I = 0.8 * (one.satisfaction_UI[0] + 2 * one.fashion_TI[7] + 0.5 * 1.5 * one.affinity_I)
    expected_I = np.exp(logit_I) / np.exp(logit_I).sum()
    assert np.bincount(item_N, minlength=items) / users == pytest.approx(expected_I, abs=0.015)


def test_choose_never_repeats_an_item_of_a_user() -> None:
    users, items = BLOCK + 44, 40
    people = draw_people(np.random.default_rng(0), users, items)
    count_U = np.random.default_rng(1).integers(1, 21, size=users)
    total = count_U.sum()
    everything = {"habit": 5.0, "fashion": 5.0, "confounding": 5.0}
    item_N, _ = choose(
        np.random.default_rng(2), people, count_U, np.zeros(total, np.int64), np.ones(total, np.float32), **everything
    )
    user_N = np.repeat(np.arange(users), count_U)
    assert len(set(zip(user_N.tolist(), item_N.tolist(), strict=True))) == total
    assert item_N.min() >= 0
    assert item_N.max() < items
