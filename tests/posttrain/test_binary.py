"""WBC: values worked out by hand, the policy that it leaves alone, and where it goes."""

from __future__ import annotations

import math

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.posttrain import WBC, PostTrainingData
from recalign.posttrain.binary import wbc
from recalign.recommender.checkpoint import load_net

NAN = float("nan")


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_loss_by_hand():
    """A good event of weight 3 with two items drawn, two bad ones of weight 1, whose drawn items do not count."""
    drawn = torch.tensor([[-1.0, 0.5], [9.0, 9.0], [9.0, 9.0], [0.0, 0.0]])
    loss, figures = wbc(torch.tensor([2.0, -1.0, 0.5, 4.0]), drawn, torch.tensor([3.0, -1.0, -1.0, NAN]))
    good = -math.log(sigma(2.0)) - math.log(sigma(1.0)) - math.log(sigma(-0.5))
    assert loss.item() == pytest.approx((3 * good - math.log(sigma(1.0)) - math.log(sigma(-0.5))) / 5, rel=1e-5)
    assert figures["negative"].item() == pytest.approx(0.4)
    assert figures["right"].item() == pytest.approx(0.8)
    assert figures["drawn"].item() == pytest.approx(drawn.sigmoid().mean().item())


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=6), st.lists(st.floats(0.1, 5), min_size=6, max_size=6))
def test_it_is_at_rest_where_the_policy_chooses_in_proportion_to_the_weights(shares, weights):
    """Each item is logged once with a weight, and drawn once for every logged one: noise-contrastive estimation."""
    weight_V = torch.tensor(weights[: len(shares)], dtype=torch.float64) * torch.tensor(shares, dtype=torch.float64)
    logit_V = weight_V.log().requires_grad_()
    z_V = logit_V.log_softmax(0)  # N = V
    loss, _ = wbc(z_V, z_V.expand(len(shares), -1), weight_V)
    loss.backward()
    assert logit_V.grad.abs().max().item() < 1e-9
    with torch.no_grad():
        moved_V = (logit_V + torch.linspace(-0.3, 0.3, len(shares), dtype=torch.float64)).log_softmax(0)
        assert wbc(moved_V, moved_V.expand(len(shares), -1), weight_V)[0] > loss


@given(st.floats(-30, 30), st.floats(0.01, 10))
def test_a_step_raises_a_good_item_above_those_drawn_and_lowers_a_bad_one(z, advantage):
    for sign in (1, -1):
        z_TC = torch.full((1, 3), z, dtype=torch.float64, requires_grad=True)
        wbc(z_TC[:, 0], z_TC[:, 1:], torch.tensor([sign * advantage], dtype=torch.float64))[0].backward()
        own, *drawn = z_TC.grad[0].tolist()
        assert own == pytest.approx(-sigma(-z) if sign > 0 else sigma(z), rel=1e-6)
        assert drawn == pytest.approx([sigma(z) if sign > 0 else 0.0] * 2, rel=1e-6)


@pytest.mark.parametrize("advantage", [[-1.0, NAN], [0.0, 0.0], [NAN, NAN]])
def test_nothing_to_learn_from_is_finite(advantage):
    z = torch.zeros(2, requires_grad=True)
    loss, figures = wbc(z, torch.zeros(2, 3), torch.tensor(advantage))
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert all(figure.isfinite() for figure in figures.values())


@pytest.mark.parametrize("over", ["items", "codes"])
def test_it_raises_what_users_value(log_root, cloned, tmp_path, over):
    data = small.data_of(PostTrainingData, log_root, "tastes", baseline="user")
    torch.manual_seed(0)
    start = load_net(cloned, "policy").net.eval() if over == "items" else small.coded(data.num_items)
    before = small.liked(start, data)
    module = small.free(WBC, policy=start, lr=3e-3)
    watch = small.fit(module, data, tmp_path, epochs=8)
    assert small.liked(module.policy, data) > before + 0.02
    assert {"wbc/negative", "wbc/right", "wbc/drawn", "train/loss"} <= set(watch.steps[0])
