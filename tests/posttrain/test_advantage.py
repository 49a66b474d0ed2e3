from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.posttrain.data import state_values
from recalign.posttrain.weighted import Transform, weights

advantages = st.lists(st.floats(-4, 4), min_size=2, max_size=30).map(torch.tensor)


@pytest.mark.parametrize("transform", get_args(Transform))
@given(advantages, st.floats(0.2, 5))
def test_more_advantage_never_weighs_less(transform, advantage, temperature):
    weight, _ = weights(advantage, transform, temperature, None)
    assert (weight >= 0).all() or transform == "signed"
    assert (weight[advantage.argsort()].diff() >= -1e-6).all()


@pytest.mark.parametrize("transform", get_args(Transform))
def test_an_event_without_a_reward_drops_out(transform):
    weight, _ = weights(torch.tensor([1.0, torch.nan, -1.0, 2.0]), transform, 1.0, None)
    assert weight[1] == 0
    assert weight[0] > 0


def test_ties_rank_alike():
    weight, _ = weights(torch.tensor([4.0, 4.0, 5.0, 4.0, torch.nan]), "rank", 1.0, None)
    assert weight.tolist() == pytest.approx([math.exp(-1.25)] * 2 + [math.exp(-0.25), math.exp(-1.25), 0])


def test_exponential_by_hand():
    weight, _ = weights(torch.tensor([0.0, 1.0, -2.0]), "exponential", 2.0, None)
    assert (weight / weight[0]).tolist() == pytest.approx([1, math.exp(0.5), math.exp(-1)])


def test_rank_is_blind_to_outliers():
    first, _ = weights(torch.tensor([1.0, 2.0, 3.0]), "rank", 1.0, None)
    second, _ = weights(torch.tensor([1.0, 2.0, 3000.0]), "rank", 1.0, None)
    assert first.tolist() == second.tolist() == pytest.approx([math.exp(-5 / 3), math.exp(-1), math.exp(-1 / 3)])


def test_the_clip_cuts_and_says_how_much():
    weight, figures = weights(torch.tensor([0.0, 0.0, 0.0, 5.0]), "exponential", 1.0, 2.0)
    limit = 2 * (3 + math.exp(5)) / 4
    assert (weight / weight[0]).tolist() == pytest.approx([1, 1, 1, limit])
    assert figures["clipped"].item() == pytest.approx(0.25)


def test_the_clip_cuts_either_sign():
    weight, figures = weights(torch.tensor([1.0, -1.0, -6.0, torch.nan, 0.0]), "signed", 1.0, 1.5)
    assert weight.tolist() == [1, -1, -4, 0, 0]
    assert figures["clipped"].item() == pytest.approx(1 / 5)


def test_a_low_temperature_is_greedy_and_a_high_one_is_cloning():
    advantage = torch.linspace(-1, 1, 20)
    cold, _ = weights(advantage, "exponential", 0.01, None)
    warm, _ = weights(advantage, "exponential", 1e4, None)
    assert cold.argmax() == 19
    assert cold[-1] / cold.sum() > 0.99
    assert warm.max() / warm.min() < 1.001


class TwoItems:
    """A policy and a reward model over two items: pi = (0.25, 0.75), r = (4, 0)."""

    num_items = 2

    def encode(self, batch):
        return torch.zeros(len(batch.event_T), 1)

    def log_probs(self, state):
        return torch.tensor([0.25, 0.75]).log().repeat(len(state), 1)

    def states(self, batch):
        return torch.zeros(1, len(batch.event_T), 1)

    def predict(self, states, item=None):
        return torch.tensor([4.0, 0.0]).repeat(states.shape[1], 1)


class Events:
    event_T = torch.tensor([2, 0])


def test_state_values_by_hand():
    both = TwoItems()
    mean = state_values(both, both, [Events()], 4, None)
    soft = state_values(both, both, [Events()], 4, 2.0)
    assert mean[[2, 0]].tolist() == pytest.approx([1.0, 1.0])
    assert mean[[1, 3]].isnan().all()
    assert soft[2].item() == pytest.approx(2 * math.log(0.25 * math.exp(2) + 0.75))
    # the soft value is the exact normaliser of the tilt
    tilt = torch.tensor([0.25, 0.75]) * ((torch.tensor([4.0, 0.0]) - soft[2]) / 2).exp()
    assert tilt.sum().item() == pytest.approx(1.0)
