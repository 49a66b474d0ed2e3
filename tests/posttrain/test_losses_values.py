"""Losses of the methods that learn values, against values worked out by hand and what must hold for all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recalign.posttrain.values import cql_loss, expectile_loss, exponential_weights, td_loss

values = st.lists(st.floats(-5, 5), min_size=1, max_size=8)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_squared_error_counts_events_with_a_reward():
    assert td_loss(tensor(1, 2, 7), tensor(0, 4, math.nan)).item() == pytest.approx((1 + 4) / 2)
    assert td_loss(tensor(1, 2), tensor(math.nan, math.nan)).item() == 0


def test_conservative_by_hand():
    q_TV = torch.tensor([[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], dtype=torch.float64)
    loss, figures = cql_loss(tensor(1, 0, 9), q_TV.logsumexp(dim=1), tensor(2, 0, math.nan), alpha=0.5)
    gap = (math.log(math.e + 1) - 1 + math.log(1 + math.e**2)) / 2
    assert figures["td"].item() == pytest.approx(0.5)
    assert figures["gap"].item() == pytest.approx(gap)
    assert loss.item() == pytest.approx(0.25 + 0.5 * gap)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.05, 5))
def test_the_conservative_term_is_never_negative_and_pulls_up_the_logged_item_alone(row, temperature):
    q_V = tensor(*row).requires_grad_()
    everything = temperature * (q_V / temperature).logsumexp(dim=0)
    _, figures = cql_loss(q_V[:1], everything[None], tensor(0.0), alpha=1)
    assert figures["gap"].item() >= -1e-12
    slope = torch.autograd.grad(everything - q_V[0], q_V)[0]
    assert slope[0].item() <= 1e-12  # the logged item is pulled up
    assert (slope[1:] >= 0).all()  # and all others down


def test_with_a_large_alpha_only_the_conservative_term_counts():
    q, reward = tensor(1, -1).requires_grad_(), tensor(3, 3)
    everything = tensor(2, 2)
    cql_loss(q, everything, reward, alpha=1e6)[0].backward()
    torch.testing.assert_close(q.grad / 1e6, tensor(-0.5, -0.5), atol=1e-5, rtol=0)


def test_expectile_by_hand():
    assert expectile_loss(tensor(2, -1), 0.7, tensor(0, 0)).item() == pytest.approx((0.7 * 4 + 0.3 * 1) / 2)
    assert expectile_loss(tensor(2, -1), 0.7, tensor(0, math.nan)).item() == pytest.approx(0.7 * 4)


@given(values, st.floats(0.05, 0.95))
def test_the_expectile_lies_between_the_extremes_and_rises(q, tau):
    def minimum(level: float) -> float:
        low, high = min(q), max(q)
        for _ in range(60):  # the loss is convex in V: halve where its slope changes sign
            middle = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
            expectile_loss(tensor(*q) - middle, level, torch.zeros(len(q), dtype=torch.float64)).backward()
            low, high = (middle.item(), high) if middle.grad < 0 else (low, middle.item())
        return (low + high) / 2

    value = minimum(tau)
    assert min(q) - 1e-9 <= value <= max(q) + 1e-9
    assert minimum(0.5) == pytest.approx(sum(q) / len(q), abs=1e-6)
    assert (value - minimum(0.5)) * (tau - 0.5) >= -1e-6


def test_exponential_weights_by_hand():
    weight = exponential_weights(tensor(0, 1, 50, 1), 2.0, tensor(0, 0, 0, math.nan))
    assert weight.tolist() == pytest.approx([1, math.exp(2), 100, 0])


@given(values, st.floats(0, 5))
def test_exponential_weights_rise_with_the_advantage(advantage, beta):
    ordered = tensor(*sorted(advantage)).requires_grad_()
    weight = exponential_weights(ordered, beta, torch.zeros(len(advantage), dtype=torch.float64))
    assert (weight.diff() >= 0).all()
    assert not weight.requires_grad
