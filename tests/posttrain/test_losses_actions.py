"""Losses of sampled actions, against values worked out by hand and what must hold for all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recalign.posttrain.actions import clipped_surrogate, group_advantages, kl_to_start
from recalign.posttrain.reinforce import top_k_reinforce

small = st.floats(-3, 3)


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_the_clipped_surrogate_by_hand():
    old = tensor(0.5, 0.5, 0.5, 0.5, 0.5).log()
    now = tensor(0.75, 0.75, 0.25, 0.25, 0.5).log()  # ratios 1.5, 1.5, 0.5, 0.5, 1
    advantage = tensor(1, -1, 1, -1, 3)
    loss, figures = clipped_surrogate(now, old, advantage, clip=0.2)
    # min(rho A, clip(rho) A): 1.2 (clipped), -1.5, 0.5, -0.8 (clipped), 3
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 3) / 5)
    assert figures["clipped"].item() == pytest.approx(0.4)
    assert figures["ratio"].item() == pytest.approx(1.5)


def test_the_early_clip_by_hand():
    old, now, advantage = tensor(0.1).log(), tensor(0.5).log(), tensor(-1)
    now.requires_grad_()
    far, _ = clipped_surrogate(now, old, advantage, clip=0.2)
    assert far.item() == pytest.approx(5)  # ratio 5: pulls five times as hard as it would at 1
    early, figures = clipped_surrogate(now, old, advantage, clip=0.2, early=0.1)
    assert early.item() == pytest.approx(1.3)
    assert figures["ratio"].item() == pytest.approx(1.3)
    early.backward()
    assert now.grad.item() == pytest.approx(1.3)  # the ceiling itself carries no gradient


@given(small, small, st.floats(-2, 2))
def test_nothing_pulls_where_the_clip_holds(now, old, advantage):
    logp = tensor(now).requires_grad_()
    clipped_surrogate(logp, tensor(old), tensor(advantage), clip=0.2)[0].backward()
    ratio = math.exp(now - old)
    held = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
    edge = min(abs(ratio - 1.2), abs(ratio - 0.8)) < 1e-9
    expected = 0 if held else -ratio * advantage
    assert edge or logp.grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(small, min_size=1, max_size=6), st.floats(-2, 2))
def test_at_the_policy_that_drew_it_is_the_policy_gradient(values, advantage):
    logp = tensor(*values).requires_grad_()
    clipped_surrogate(logp, logp.detach().clone(), torch.full_like(logp, advantage), clip=0.2, early=0.1)[0].backward()
    torch.testing.assert_close(logp.grad, torch.full_like(logp, -advantage / len(values)))


def test_group_advantages_by_hand():
    assert group_advantages(tensor(1, 2, 3)).tolist() == [pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.floats(-100, 100))
def test_group_advantages_sum_to_nothing_whatever_the_level(values, level):
    advantage = group_advantages(tensor(*values))
    assert advantage.isfinite().all()
    assert advantage.sum().item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(group_advantages(tensor(*values) + level), advantage, atol=1e-6, rtol=1e-6)


def test_the_kl_to_the_start_by_hand():
    """An item of pi = 1/2 and start 1/4, drawn when pi was 1/5."""
    penalty, kl = kl_to_start(tensor(0.5).log(), tensor(0.2).log(), tensor(0.25).log())
    assert penalty.item() == pytest.approx(0.5 - math.log(0.5) - 1)
    assert kl.item() == pytest.approx(2.5 * penalty.item())


@given(st.lists(st.tuples(small, small, small), min_size=1, max_size=6))
def test_the_kl_to_the_start_is_never_negative(triples):
    logp, old, start = (tensor(*column) for column in zip(*triples, strict=True))
    assert all(figure.item() >= -1e-12 for figure in kl_to_start(logp, old, start))
    assert all(figure.item() == 0 for figure in kl_to_start(logp, old, logp))


def test_the_kl_estimate_has_no_bias_whoever_drew_and_the_penalty_is_another_kl():
    """Over all items, weighted by the policy that draws them; the penalty's gradient is that of KL(start || pi)."""
    logit = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    start, older = (torch.tensor(p, dtype=torch.float64) for p in ([0.2, 0.2, 0.6], [0.1, 0.6, 0.3]))
    logp = logit.log_softmax(dim=0)
    pi = logp.exp().detach()
    for old in (pi, older):
        items = [
            kl_to_start(p[None, None], o[None, None], s[None, None])
            for p, o, s in zip(logp, old.log(), start.log(), strict=True)
        ]
        penalty, kl = (torch.stack(column) for column in zip(*items, strict=True))
        assert (old * kl).sum().item() == pytest.approx((pi * (pi / start).log()).sum().item())
        assert ((old * penalty).sum().item() == pytest.approx((old * kl).sum().item())) == (old is pi)
        assert not kl.requires_grad
        if old is pi:
            (gradient,) = torch.autograd.grad((old * penalty).sum(), logit, retain_graph=True)
            torch.testing.assert_close(gradient, pi - start)


def test_top_k_reinforce_by_hand():
    logp = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64).log().requires_grad_()
    behaviour = torch.tensor([0.25, 0.2, 0.01], dtype=torch.float64).log()
    reward = torch.tensor([1.0, -2.0, math.nan], dtype=torch.float64)
    loss, figures = top_k_reinforce(logp, behaviour, reward, k=2, cap=1.5)
    # weights min(2, 1.5), 0.5; lambda 2 (1 - pi) = 1, 1.8; the third has no reward
    assert loss.item() == pytest.approx(-(1.5 * 1 * math.log(0.5) - 2 * 0.5 * 1.8 * math.log(0.1)) / 2)
    loss.backward()
    assert logp.grad.tolist() == pytest.approx([-1.5 / 2, 0.9, 0])
    assert figures["capped"].item() == 0.5
    assert figures["lambda"].item() == pytest.approx(1.4)
    assert figures["ess"].item() == pytest.approx(4 / (2 * 2.5))


@given(st.floats(0.001, 0.999), st.integers(1, 20))
def test_the_top_k_correction_is_the_slope_of_the_chance_to_be_among_k_draws(pi, k):
    """lambda_K = d(1 - (1 - pi)^K) / d pi; K = 1 corrects nothing."""
    logp = torch.tensor([pi], dtype=torch.float64).log()
    _, figures = top_k_reinforce(logp, logp, torch.ones(1, dtype=torch.float64), k, cap=10)
    p = torch.tensor(pi, dtype=torch.float64, requires_grad=True)
    (1 - (1 - p) ** k).backward()
    assert figures["lambda"].item() == pytest.approx(p.grad.item(), rel=1e-6)
