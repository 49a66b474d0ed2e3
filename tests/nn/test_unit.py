import torch
import torch.nn.functional as F

from recalign.nn import unit


def test_values_and_gradients_are_those_of_normalize():
    torch.manual_seed(0)
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    goal = torch.randn_like(x)
    mine, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(unit(mine), F.normalize(reference, dim=-1), rtol=0, atol=1e-15)
    (unit(mine) * goal).sum().backward()
    (F.normalize(reference, dim=-1) * goal).sum().backward()
    torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-13, atol=1e-13)


def test_zero_stays_zero_and_has_no_gradient():
    x = torch.zeros(2, 5, requires_grad=True)
    assert not unit(x).any()
    unit(x).backward(torch.ones(2, 5))
    assert not x.grad.any()


def test_a_gradient_along_the_vector_goes_nowhere():
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    unit(x).backward(torch.tensor([[6.0, 8.0]]))
    assert x.grad.abs().max() < 1e-6
