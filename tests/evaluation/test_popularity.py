"""What showing popular items buys, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.evaluation.baselines import ItemScores, Rerank, log_counts
from recalign.evaluation.popularity import STRENGTHS, PopularityCurve, _means, _neighbours, popularity_curve
from recalign.evaluation.value import Scorers, evaluate
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData

CPU = torch.device("cpu")


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True).map(sorted),
    st.lists(st.integers(0, 5), min_size=8, max_size=8),
    st.integers(-60, 60),
)
def test_a_value_lies_between_those_of_the_nearest_strengths(counts, values, asked):
    curve = PopularityCurve(np.array(counts, float), np.array(values[: len(counts)], float))
    found = curve.value_at(asked)
    if not counts[0] <= asked <= counts[-1]:
        assert math.isnan(found)
        return
    after = next(place for place, count in enumerate(counts) if count >= asked)
    ends = values[after], values[after if counts[after] == asked else after - 1]
    assert min(ends) - 1e-9 <= found <= max(ends) + 1e-9


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True),
    st.lists(st.integers(-60, 60), min_size=1, max_size=4),
)
def test_what_is_next_to_a_popularity_is_all_that_its_value_takes(counts, asked):
    known, value = np.array(counts, float), np.arange(len(counts), dtype=float)
    taken = _neighbours(known, asked)
    whole, part = PopularityCurve(known, value), PopularityCurve(known[taken], value[taken])
    for one in asked:
        np.testing.assert_equal(part.value_at(one), whole.value_at(one))
    assert len(set(taken)) == len(taken) <= 2 * len(asked)


def test_it_is_what_the_tilted_start_shows(log_root, cloned, rewarded):
    data = small.data_of(RewardData, log_root, "tastes")
    start, judge = load_net(cloned, "policy").net, load_net(rewarded, "reward").net
    tilt, scorers = ItemScores(log_counts(data.sequences)), Scorers(start, {"judge@10": judge})
    popular, valued = [], []
    for strength in (STRENGTHS[0], 0.0, 1.0, STRENGTHS[-1]):
        policy = {"it": Rerank(start, tilt, strength)}
        shown, judged = (evaluate(policy, scorers, data, part, CPU)["it"] for part in ("validation", "test"))
        popular.append(shown["log_count@10"].mean())
        valued.append(judged["judge@10"].mean())
    assert popular == sorted(set(popular))
    curve = popularity_curve(start, judge, data, CPU, asked=popular[1:3])
    assert [curve.value_at(one) for one in popular[1:3]] == pytest.approx(valued[1:3])
    assert len(curve.value_S) < len(STRENGTHS)
    ends = popularity_curve(start, judge, data, CPU, asked=[popular[0] - 1, popular[-1] + 1])
    assert ends.log_count_S[[0, -1]] == pytest.approx([popular[0], popular[-1]])
    assert ends.value_S[[0, -1]] == pytest.approx([valued[0], valued[-1]])
    assert math.isnan(ends.value_at(math.nan))


def test_the_ends_of_a_curve_belong_to_it():
    curve = PopularityCurve(np.array([3.0, 1.0, 2.0]), np.array([30.0, 10.0, 20.0]))
    assert [curve.value_at(asked) for asked in (1, 1.5, 3)] == [10, 15, 30]
    assert math.isnan(curve.value_at(0.999))
    assert math.isnan(curve.value_at(3.001))


def test_strengths_rise_each_once_and_the_start_is_among_them():
    assert list(STRENGTHS) == sorted(set(STRENGTHS))
    assert 0.0 in STRENGTHS


def test_means_are_over_histories_to_which_anything_is_shown():
    """Of three histories the first is shown item 1 alone, the second items 3 and 5, the third nothing."""
    logp_TV = torch.full((3, 5), -torch.inf)
    logp_TV[0, 0] = logp_TV[1, 2] = logp_TV[1, 4] = -1.0
    shows = SimpleNamespace(
        num_items=5,
        strength=1.0,
        encode=lambda batch: torch.arange(3),
        scored=lambda state: (logp_TV[state], torch.zeros(len(state), 5)),
    )
    batch = SimpleNamespace(to=lambda device: batch, seen_N=torch.zeros(2, 0, dtype=torch.int64))

    def predict(states, shown_TK):
        assert not torch.is_grad_enabled()
        return shown_TK.float()

    scores = SimpleNamespace(states=lambda batch: None, predict=predict)
    means_S = _means([shows, shows], scores, [(batch, batch)] * 2, CPU)
    assert means_S.tolist() == [(1 + 4) / 2] * 2
