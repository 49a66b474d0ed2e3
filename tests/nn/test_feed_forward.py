"""A mixture of experts: what its formula says, token by token, and experts that are chosen about equally often."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recalign.errors import InputError
from recalign.nn.feed_forward import Experts

TOKENS, DIM = 200, 6


def made(experts: int = 5, chosen: int = 2) -> Experts:
    torch.manual_seed(0)
    return Experts(DIM, 4, experts, chosen)


@torch.no_grad()
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_each_token_has_the_weighted_sum_of_its_experts(chosen):
    layer, x_TND = made(chosen=chosen).eval(), torch.randn(4, 5, DIM)
    layer.bias_E.copy_(torch.tensor([0.2, -0.1, 0.0, 0.0, 0.1]))
    for x_D, y_D in zip(x_TND.flatten(0, 1), layer(x_TND).flatten(0, 1), strict=True):
        affinity_E = (layer.router.weight @ x_D).sigmoid()
        best = sorted(range(5), key=lambda e: -(affinity_E[e] + layer.bias_E[e]))[:chosen]
        expected_D = torch.zeros(DIM)
        for e in best:
            gate, up = (layer.experts[e].gate_up.weight @ x_D).chunk(2)
            swiglu_D = layer.experts[e].down.weight @ (F.silu(gate) * up)
            expected_D += affinity_E[e] / affinity_E[best].sum() * swiglu_D
        torch.testing.assert_close(y_D, expected_D)


def test_training_balances_the_experts_and_passes_without_gradients_leave_them_alone():
    layer, x_ND = made(), torch.randn(TOKENS, DIM) + 2  # a common direction, so that some experts are preferred

    def spread() -> float:
        chosen_NK = (layer.router(x_ND).sigmoid() + layer.bias_E).topk(2).indices
        return chosen_NK.flatten().bincount(minlength=5).float().std().item()

    before = spread()
    layer.eval()(x_ND)
    with torch.no_grad():
        layer.train()(x_ND)
    assert (layer.bias_E == 0).all()
    for _ in range(1000):
        layer(x_ND)
    assert spread() < before / 5


def test_router_and_chosen_experts_get_a_gradient():
    layer = made()
    layer(torch.randn(TOKENS, DIM)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in layer.parameters())


def test_more_experts_a_token_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"experts_per_token: 3 of 2 experts"):
        made(experts=2, chosen=3)
