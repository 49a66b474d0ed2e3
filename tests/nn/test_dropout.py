import pytest
import torch

from recalign.nn.layers import Dropout


def test_keeps_the_right_share_scaled_and_sends_gradients_the_same_way():
    torch.manual_seed(0)
    x = torch.ones(100_000, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.2)(x)
    assert set(y.tolist()) == {0.0, 65536 / round(0.8 * 65536)}
    assert abs(y.mean().item() - 1) < 0.01  # six standard errors
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("p", [0.001, 0.5, 0.999])
def test_every_value_of_a_draw_is_dropped_alike(p):
    torch.manual_seed(0)
    kept = (Dropout(p)(torch.ones(1_000_000)) > 0).view(-1, 4).double().mean(dim=0)  # four values share 64 bits
    assert (kept - (1 - p)).abs().max() < 6 * (p * (1 - p) / 250_000) ** 0.5 + 1 / 2**17


def test_follows_the_seed_and_the_precision():
    x = torch.randn(50, 3, dtype=torch.bfloat16)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(first, Dropout(0.5)(x))
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, Dropout(0.5)(x))


def test_does_nothing_out_of_training_or_at_zero():
    x = torch.randn(7)
    assert Dropout(0.9).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(1e-6)(x) is x  # rounds to nothing


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_refuses_what_is_no_probability_of_dropping(p):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        Dropout(p)
