"""GBPO: values worked out by hand, and where it goes."""

from __future__ import annotations

import math

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.posttrain import GBPO, PostTrainingData
from recalign.posttrain.bounded import gbpo
from recalign.recommender.checkpoint import load_net

NAN = float("nan")


def test_the_loss_by_hand():
    """Weights 3 and 1: (3 * -log .5 + 1 * -log(1 - .2)) / 4; the event without a reward does not count."""
    loss, figures = gbpo(torch.tensor([0.5, 0.2, 0.9]).log(), torch.tensor([3.0, -1.0, NAN]))
    assert loss.item() == pytest.approx((3 * math.log(2) - math.log(0.8)) / 4)
    assert figures["negative"].item() == pytest.approx(0.25)
    assert figures["pi"].item() == pytest.approx(0.2)


@given(st.floats(1e-6, 0.999), st.floats(0.01, 10))
def test_the_gradient_by_hand(pi, advantage):
    """d loss / d pi is -1 / pi for a good event and 1 / (1 - pi) for a bad one, whatever its weight is alone."""
    for sign, slope in ((1, -1 / pi), (-1, 1 / (1 - pi))):
        p = torch.tensor([pi], dtype=torch.float64, requires_grad=True)
        gbpo(p.log(), torch.tensor([sign * advantage], dtype=torch.float64))[0].backward()
        assert p.grad is not None
        assert p.grad.item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("advantage", [[-1.0, NAN], [0.0, 0.0], [NAN, NAN]])
def test_a_sure_item_and_nothing_to_learn_from_are_finite(advantage):
    logp = torch.zeros(2, requires_grad=True)
    loss, figures = gbpo(logp, torch.tensor(advantage))
    loss.backward()
    assert loss.isfinite()
    assert logp.grad is not None
    assert logp.grad.isfinite().all()
    assert all(figure.isfinite() for figure in figures.values())


@pytest.mark.parametrize("over", ["items", "codes"])
def test_it_raises_what_users_value(log_root, cloned, tmp_path, over):
    data = small.data_of(PostTrainingData, log_root, "tastes", baseline="user")
    torch.manual_seed(0)
    start = load_net(cloned, "policy").net.eval() if over == "items" else small.coded(data.num_items)
    before = small.liked(start, data)
    module = small.free(GBPO, policy=start, lr=3e-3)
    watch = small.fit(module, data, tmp_path, epochs=8)
    assert small.liked(module.policy, data) > before + 0.02
    assert {"gbpo/negative", "gbpo/pi", "train/loss"} <= set(watch.steps[0])
