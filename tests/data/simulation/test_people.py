import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.data.simulation.people import DRIFT, POPULARITY_QUALITY_SHARE, QUALITY_SHARE, draw_people, mix


@settings(max_examples=20, deadline=None)
@given(users=st.integers(10, 60), items=st.integers(20, 60), seed=st.integers(0, 2**32))
def test_latent_variables_are_standardised_in_the_smallest_world(users: int, items: int, seed: int) -> None:
    people = draw_people(np.random.default_rng(seed), users, items)
    for values in (people.satisfaction_UI, people.fashion_TI, people.affinity_I, people.generosity_U):
        assert values.mean() == pytest.approx(0, abs=1e-4)
        assert values.std() == pytest.approx(1, abs=1e-4)
    assert (people.position_ID**2).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_satisfaction_is_quality_and_match_and_no_level_of_the_user() -> None:
    satisfaction_UI = draw_people(np.random.default_rng(0), 400, 600).satisfaction_UI.astype(np.float64)
    assert satisfaction_UI.mean(axis=1).std() < 1e-4
    assert satisfaction_UI.mean(axis=0).var() == pytest.approx(QUALITY_SHARE, abs=0.03)
    match_UI = satisfaction_UI - satisfaction_UI.mean(axis=0)
    assert (match_UI**2).mean() == pytest.approx(1 - QUALITY_SHARE, abs=0.03)


def test_satisfaction_correlates_with_popularity_only() -> None:
    draws = [draw_people(np.random.default_rng(seed), 50, 2000) for seed in range(5)]
    habit, occasion, fame = [], [], []
    for people in draws:
        quality_I = people.satisfaction_UI.mean(axis=0)
        habit_UI = people.habit_UD @ people.position_ID.T
        habit.append(np.corrcoef(habit_UI.ravel(), people.satisfaction_UI.ravel())[0, 1])
        occasion.append(np.corrcoef(people.affinity_I, quality_I)[0, 1])
        fame.append(np.corrcoef(people.fashion_TI.mean(axis=0), quality_I)[0, 1])
    assert abs(np.mean(habit)) < 0.05
    assert abs(np.mean(occasion)) < 0.05
    assert np.mean(fame) == pytest.approx(np.sqrt(POPULARITY_QUALITY_SHARE), abs=0.07)


def test_fashion_has_a_lasting_part_and_rises_and_falls() -> None:
    fashion_TI = draw_people(np.random.default_rng(0), 50, 2000).fashion_TI
    vogue_TI = fashion_TI - fashion_TI.min(axis=0)
    peak_I = vogue_TI.argmax(axis=0)
    inside_I = (peak_I > 8) & (peak_I < 40)  # of 64 slices: both flanks lie in the span
    rising = np.diff(vogue_TI, axis=0) > -1e-6
    before_TI = np.arange(63)[:, None] < peak_I
    assert (rising == before_TI)[:, inside_I].mean() > 0.8  # the far ends of the flanks are flat
    assert fashion_TI.std(axis=0).mean() > 0.5 * np.sqrt(DRIFT)
    peaks_TI = np.take_along_axis(vogue_TI, np.stack([peak_I - 6, peak_I + 6]).clip(0, 63), axis=0)
    assert (peaks_TI[0] < peaks_TI[1])[inside_I].all()  # quick to come, slow to go


@given(share=st.floats(0, 1))
def test_mix_keeps_the_variance(share: float) -> None:
    left, right = np.array([1, 1, -1, -1], np.float32), np.array([1, -1, 1, -1], np.float32)
    mixed = mix(left, right, share)
    assert mixed.var() == pytest.approx(1, rel=1e-5)
    assert (mixed @ left / 4) ** 2 == pytest.approx(share, abs=1e-5)


def test_drift_weakens_the_link_of_past_and_future_popularity() -> None:
    alike = []
    for drift in (0.0, 0.03, 0.5, 1.0):
        fashion_TI = draw_people(np.random.default_rng(0), 50, 500, drift).fashion_TI
        alike.append(np.corrcoef(fashion_TI[16], fashion_TI[56])[0, 1])
    assert alike[0] == pytest.approx(1)
    assert alike == sorted(alike, reverse=True)
    assert alike[3] < 0.2
