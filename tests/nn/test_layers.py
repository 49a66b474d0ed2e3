"""Dropout and unit vectors against what torch has."""

import pytest
import torch
import torch.nn.functional as F

from recalign.nn.layers import Dropout, unit


def test_dropout_keeps_and_scales_the_right_share_forward_and_backward():
    torch.manual_seed(0)
    x = torch.ones(100_000, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.2)(x)
    assert set(y.tolist()) == {0.0, 65536 / round(0.8 * 65536)}
    assert abs(y.mean().item() - 1) < 0.01  # six standard errors
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("p", [0.001, 0.5, 0.999])
def test_dropout_treats_the_four_values_of_a_random_number_alike(p):
    torch.manual_seed(0)
    kept = (Dropout(p)(torch.ones(1_000_000)) > 0).view(-1, 4).double().mean(dim=0)  # four values share 64 bits
    assert (kept - (1 - p)).abs().max() < 6 * (p * (1 - p) / 250_000) ** 0.5 + 1 / 2**17


def test_dropout_follows_seed_and_precision():
    x = torch.randn(50, 3, dtype=torch.bfloat16)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(first, Dropout(0.5)(x))
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, Dropout(0.5)(x))


def test_dropout_does_nothing_in_evaluation_or_at_zero():
    x = torch.randn(7)
    assert Dropout(0.9).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(1e-6)(x) is x  # rounds to nothing


def test_unit_equals_normalize_with_gradients():
    torch.manual_seed(0)
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    goal = torch.randn_like(x)
    mine, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(unit(mine), F.normalize(reference, dim=-1), rtol=0, atol=1e-15)
    (unit(mine) * goal).sum().backward()
    (F.normalize(reference, dim=-1) * goal).sum().backward()
    torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-13, atol=1e-13)


def test_unit_of_zero_is_zero_without_gradient():
    x = torch.zeros(2, 5, requires_grad=True)
    assert not unit(x).any()
    unit(x).backward(torch.ones(2, 5))
    assert not x.grad.any()
