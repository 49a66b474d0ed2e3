from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.nn import HSTU
from recalign.posttrain.weighted import tapered_likelihood, weighted_likelihood, weights
from recalign.recommender import Policy, SequencePolicy


class Given(Policy):
    """A policy whose log-probabilities of the logged items are its states."""

    def __init__(self) -> None:
        super().__init__()
        self.num_items = 9

    def encode(self, batch):
        raise NotImplementedError

    def log_probs(self, state, items=None):
        return state[:, None]


def of(logp, weight):
    return weighted_likelihood(Given(), logp, torch.ones(len(logp)).long(), weight)


@pytest.mark.parametrize("transform", ["exponential", "rank"])
def test_no_temperature_overflows(transform):
    weight, _ = weights(torch.linspace(-3, 3, 3200), transform, 1e-3, 10.0)
    assert weight.isfinite().all()
    assert 0 < weight.sum() < 3200


def test_by_hand():
    logp = torch.tensor([0.5, 0.25, 0.1]).log()
    loss, figures = of(logp, torch.tensor([1.0, 3.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)
    assert figures["ess"].item() == pytest.approx(16 / (3 * 10))
    assert figures["max_weight"].item() == pytest.approx(3 / (4 / 3))


def test_over_item_ids_it_has_the_value_and_the_gradient_of_its_formula():
    torch.manual_seed(0)
    policy, state_TD = SequencePolicy(HSTU(8, layers=1), 9), torch.randn(6, 8)
    item_T, weight_T = torch.tensor([1, 9, 3, 3, 5, 2]), torch.tensor([0.0, 1.0, 0.5, 4.0, 2.0, 0.1])
    found = weighted_likelihood(policy, state_TD, item_T, weight_T)[0]
    expected = (weight_T * -policy.log_prob(state_TD, item_T)).sum() / weight_T.sum()
    torch.testing.assert_close(found, expected)
    table = policy.item_embedding.weight
    torch.testing.assert_close(*(torch.autograd.grad(loss, table)[0] for loss in (found, expected)))


def test_equal_weights_are_behaviour_cloning():
    logp = torch.randn(50, dtype=torch.float64)
    loss, figures = of(logp, torch.full((50,), 0.3, dtype=torch.float64))
    assert loss.item() == pytest.approx(-logp.mean().item())
    assert figures["ess"].item() == pytest.approx(1.0)


positive = st.lists(st.floats(0.01, 100), min_size=2, max_size=20)


@given(positive, st.floats(0.001, 1000))
def test_the_scale_of_the_weights_does_not_matter(values, factor):
    logp = torch.linspace(-5, 0, len(values), dtype=torch.float64)
    weight = torch.tensor(values, dtype=torch.float64)
    loss, figures = of(logp, weight)
    scaled, scaled_figures = of(logp, weight * factor)
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-12)
    assert scaled_figures["ess"].item() == pytest.approx(figures["ess"].item(), rel=1e-9)


@given(positive)
def test_the_gradient_is_the_normalised_weight(values):
    logp = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    of(logp, weight)[0].backward()
    torch.testing.assert_close(logp.grad, -weight.detach() / weight.detach().sum())
    assert weight.grad is None


def test_no_weight_at_all_is_no_loss():
    loss, figures = of(torch.tensor([-1.0, -2.0]), torch.zeros(2))
    assert loss.item() == 0
    assert figures["ess"].item() == 0


def test_a_negative_weight_by_hand():
    logp, start = torch.tensor([0.5, 0.1, 0.4]).log(), torch.tensor([0.25, 0.2, 0.2]).log()
    loss, figures = tapered_likelihood(logp, torch.tensor([1.0, -2.0, -3.0]), start)
    assert loss.item() == pytest.approx((math.log(2) + 2 * 0.5 + 3 * (1 + math.log(2))) / 6)
    assert figures["negative"].item() == pytest.approx(5 / 6)
    assert figures["ess"].item() == pytest.approx(36 / (3 * 14))
    assert figures["max_weight"].item() == pytest.approx(3 / 2)


def test_without_a_negative_weight_nothing_is_tapered():
    logp, weight = torch.randn(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    (loss, figures), (expected, same) = tapered_likelihood(logp, weight, torch.zeros(20)), of(logp, weight)
    torch.testing.assert_close(loss, expected)
    assert figures == same


@given(st.floats(-30, 30))
def test_what_is_lowered_is_lowered_by_how_much_of_it_is_left(delta):
    logp = torch.tensor([-5.0, -5.0 + delta], dtype=torch.float64, requires_grad=True)
    start = torch.full((2,), -5.0, dtype=torch.float64)
    tapered_likelihood(logp, torch.tensor([1.0, -1.0], dtype=torch.float64), start)[0].backward()
    assert logp.grad.tolist() == pytest.approx([-0.5, 0.5 * min(math.exp(delta), 1)])
