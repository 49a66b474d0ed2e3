"""Losses as plain functions: values worked out by hand, and what must hold for all."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recalign.nn import HSTU
from recalign.posttrain.actions import clipped_surrogate, group_advantages, kl_to_start
from recalign.posttrain.binary import gbpo, wbc
from recalign.posttrain.experimental.kto import kto
from recalign.posttrain.experimental.reinforce import top_k_reinforce
from recalign.posttrain.experimental.values import expectile_loss, exponential_weights
from recalign.posttrain.ipa import best_and_worst
from recalign.posttrain.pairs import PairLoss, preference
from recalign.posttrain.signed import tapered_likelihood
from recalign.posttrain.values import cql_loss, td_loss
from recalign.posttrain.weighted import Transform, clip_weights, transform_advantages, weighted_likelihood
from recalign.recommender import Policy, SequencePolicy

NAN = float("nan")
advantages = st.lists(st.floats(-4, 4), min_size=2, max_size=30).map(torch.tensor)
positive = st.lists(st.floats(0.01, 100), min_size=2, max_size=20)
small, ratio, betas = st.floats(-3, 3), st.floats(-5, 5), st.floats(0.05, 3)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def leaf(*values: float) -> Tensor:
    return tensor(*values).requires_grad_()


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


@pytest.mark.parametrize(
    ("transform", "advantage", "temperature", "clip", "expected", "clipped"),
    [
        ("constant", [1, NAN, -1], 1.0, None, [1, 0, 1], 0),
        ("linear", [1.5, -2, NAN], 1.0, None, [1.5, 0, 0], 0),
        ("exponential", [0, 1, -2], 2.0, None, [math.exp(-0.5), 1, math.exp(-1.5)], 0),
        ("exponential", [0, 0, 0, 5], 1.0, 2.0, [math.exp(-5)] * 3 + [(1 + 3 * math.exp(-5)) / 2], 0.25),
        ("rank", [1, 2, 3000], 1.0, None, [math.exp(-5 / 3), math.exp(-1), math.exp(-1 / 3)], 0),
        ("rank", [4, 4, 5, 4, NAN], 1.0, None, [*[math.exp(-1.25)] * 2, math.exp(-0.25), math.exp(-1.25), 0], 0),
        ("sign", [0.1, 0, -1, NAN], 1.0, None, [1, 0, 0, 0], 0),
    ],
)
def test_transform_advantages_values(transform, advantage, temperature, clip, expected, clipped):
    weight_T = transform_advantages(tensor(*advantage), transform, temperature).nan_to_num(nan=0.0)
    weight, figures = clip_weights(weight_T, clip)
    assert weight.tolist() == pytest.approx(expected)
    assert figures["clipped"].item() == pytest.approx(clipped)


@pytest.mark.parametrize("transform", get_args(Transform))
@given(advantages, st.floats(0.2, 5))
def test_transform_advantages_is_monotonic(transform, advantage, temperature):
    weight = transform_advantages(advantage, transform, temperature)
    assert (weight >= 0).all()
    assert (weight[advantage.argsort()].diff() >= -1e-6).all()


def test_clip_weights_keeps_signs():
    weight, figures = clip_weights(tensor(1, -1, -6, 0, 0), 1.5)
    assert weight.tolist() == [1, -1, -4, 0, 0]
    assert figures["clipped"].item() == pytest.approx(0.2)


def test_weighted_likelihood_values():
    logp = torch.tensor([0.5, 0.25, 0.1]).log()
    loss, figures = of(logp, torch.tensor([1.0, 3.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)
    assert figures["ess"].item() == pytest.approx(16 / (3 * 10))
    assert figures["max_weight"].item() == pytest.approx(3 / (4 / 3))


def test_weighted_likelihood_of_a_sequence_policy_has_value_and_gradient_of_the_formula():
    torch.manual_seed(0)
    policy, state_TD = SequencePolicy(HSTU(8, layers=1), 9), torch.randn(6, 8)
    item_T, weight_T = torch.tensor([1, 9, 3, 3, 5, 2]), torch.tensor([0.0, 1.0, 0.5, 4.0, 2.0, 0.1])
    found = weighted_likelihood(policy, state_TD, item_T, weight_T)[0]
    expected = (weight_T * -policy.log_prob(state_TD, item_T)).sum() / weight_T.sum()
    torch.testing.assert_close(found, expected)
    table = policy.item_embedding.weight
    torch.testing.assert_close(*(torch.autograd.grad(loss, table)[0] for loss in (found, expected)))


@given(positive, st.floats(0.001, 1000))
def test_weighted_likelihood_ignores_the_scale_of_weights(values, factor):
    logp = torch.linspace(-5, 0, len(values), dtype=torch.float64)
    weight = torch.tensor(values, dtype=torch.float64)
    loss, figures = of(logp, weight)
    scaled, scaled_figures = of(logp, weight * factor)
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-12)
    assert scaled_figures["ess"].item() == pytest.approx(figures["ess"].item(), rel=1e-9)


@given(positive)
def test_weighted_likelihood_gradient_is_the_normalised_weight(values):
    logp = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    of(logp, weight)[0].backward()
    torch.testing.assert_close(logp.grad, -weight.detach() / weight.detach().sum())
    assert weight.grad is None


def test_weighted_likelihood_of_zero_weights_is_zero():
    loss, figures = of(torch.tensor([-1.0, -2.0]), torch.zeros(2))
    assert loss.item() == 0
    assert figures["ess"].item() == 0


def test_tapered_likelihood_values():
    logp, start = torch.tensor([0.5, 0.1, 0.4]).log(), torch.tensor([0.25, 0.2, 0.2]).log()
    loss, figures = tapered_likelihood(logp, torch.tensor([1.0, -2.0, -3.0]), start)
    assert loss.item() == pytest.approx((math.log(2) + 2 * 0.5 + 3 * (1 + math.log(2))) / 6)
    assert figures["negative"].item() == pytest.approx(5 / 6)
    assert figures["ess"].item() == pytest.approx(36 / (3 * 14))
    assert figures["max_weight"].item() == pytest.approx(3 / 2)


@given(st.floats(-30, 30))
def test_tapered_likelihood_gradient_shrinks_with_the_ratio(delta):
    logp = torch.tensor([-5.0, -5.0 + delta], dtype=torch.float64, requires_grad=True)
    start = torch.full((2,), -5.0, dtype=torch.float64)
    tapered_likelihood(logp, torch.tensor([1.0, -1.0], dtype=torch.float64), start)[0].backward()
    assert logp.grad.tolist() == pytest.approx([-0.5, 0.5 * min(math.exp(delta), 1)])


# gaps Delta+ - Delta-: 1 and 2 at the first state, -0.5 and 0.25 at the second
WINNER = torch.tensor([0.5, -1.0])
LOSER = torch.tensor([[-0.5, -1.5], [-0.5, -1.25]])
GAPS = [1.0, 2.0, -0.5, 0.25]
BY_HAND = {
    "dpo": sum(-math.log(sigma(0.5 * g)) for g in GAPS) / 4,
    "ipo": sum((g - 1) ** 2 for g in GAPS) / 4,  # 1 / (2 beta) = 1
    "sdpo": (
        -math.log(sigma(-math.log(math.exp(-0.5) + math.exp(-1))))
        - math.log(sigma(-math.log(math.exp(0.25) + math.exp(-0.125))))
    )
    / 2,
    "simpo": sum(-math.log(sigma(0.5 * g - 0.3)) for g in GAPS) / 4,
}


@pytest.mark.parametrize("loss", get_args(PairLoss))
def test_preference_values(loss):
    value, figures = preference(WINNER, LOSER, loss, beta=0.5, gamma=0.3)
    assert value.item() == pytest.approx(BY_HAND[loss], rel=1e-5)
    expected = {"accuracy": 0.75, "margin": 2.75 / 4, "winner": -0.25, "loser": -3.75 / 4}
    assert figures.pop("margins").equal(WINNER[:, None] - LOSER)
    assert {k: v.item() for k, v in figures.items()} == pytest.approx(expected)


@given(st.lists(st.tuples(ratio, ratio), min_size=1, max_size=8), betas)
def test_sdpo_with_one_loser_and_simpo_without_margin_equal_dpo(values, beta):
    winner, loser = (torch.tensor(v, dtype=torch.float64) for v in zip(*values, strict=True))
    dpo = preference(winner, loser[:, None], "dpo", beta)[0]
    torch.testing.assert_close(preference(winner, loser[:, None], "sdpo", beta)[0], dpo)
    torch.testing.assert_close(preference(winner, loser[:, None], "simpo", beta, 0.0)[0], dpo)


@pytest.mark.parametrize("loss", ["dpo", "sdpo", "simpo"])
@given(ratio, st.lists(ratio, min_size=1, max_size=5), betas)
def test_preference_step_raises_winner_and_lowers_losers(loss, winner, losers, beta):
    winner_T = torch.tensor([winner], dtype=torch.float64, requires_grad=True)
    loser_TN = torch.tensor([losers], dtype=torch.float64, requires_grad=True)
    preference(winner_T, loser_TN, loss, beta, gamma=0.5)[0].backward()
    assert winner_T.grad.item() < 0
    assert (loser_TN.grad > 0).all()
    assert winner_T.grad.item() == pytest.approx(-loser_TN.grad.sum().item())  # only the difference counts


@given(ratio, ratio, betas)
def test_ipo_gradient_is_zero_at_its_margin(winner, loser, beta):
    winner_T = torch.tensor([winner], dtype=torch.float64, requires_grad=True)
    preference(winner_T, torch.tensor([[loser]], dtype=torch.float64), "ipo", beta)[0].backward()
    assert winner_T.grad.item() == pytest.approx(2 * (winner - loser - 1 / (2 * beta)))


def test_best_and_worst_values():
    item_TC = torch.tensor([[4, 7, 0, 2], [5, 6, 0, 0], [0, 0, 0, 0]])
    reward_TC = torch.tensor([[1.0, 3.0, 9.0, 2.0], [2.0, 2.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    pair_T2, gap_T = best_and_worst(item_TC, reward_TC)
    assert pair_T2[0].tolist() == [7, 4]
    assert gap_T.tolist() == [2.0, 0.0, 0.0]  # equal rewards, and nothing shown, make no pair


def row(*values: float) -> Tensor:
    """Items drawn at one state. Shape: (1, S)."""
    return tensor(*values)[None]


def test_clipped_surrogate_values():
    old = row(0.5, 0.5, 0.5, 0.5, 0.5).log()
    now = row(0.75, 0.75, 0.25, 0.25, 0.5).log()  # ratios 1.5, 1.5, 0.5, 0.5, 1
    advantage = row(1, -1, 1, -1, 3)
    loss, figures = clipped_surrogate(now, old, advantage, clip=0.2)
    # min(rho A, clip(rho) A): 1.2 (clipped), -1.5, 0.5, -0.8 (clipped), 3
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 3) / 5)
    assert figures["clipped"].item() == pytest.approx(0.4)
    assert figures["ratio"].item() == pytest.approx(1.5)


def test_clipped_surrogate_early_clip_values():
    old, now, advantage = row(0.1).log(), row(0.5).log(), row(-1)
    now.requires_grad_()
    far, _ = clipped_surrogate(now, old, advantage, clip=0.2)
    assert far.item() == pytest.approx(5)  # ratio 5: pulls five times as hard as it would at 1
    early, figures = clipped_surrogate(now, old, advantage, clip=0.2, early=0.1)
    assert early.item() == pytest.approx(1.3)
    assert figures["ratio"].item() == pytest.approx(1.3)
    early.backward()
    assert now.grad.item() == pytest.approx(1.3)  # the ceiling itself carries no gradient


@given(small, small, st.floats(-2, 2))
def test_clipped_surrogate_has_no_gradient_if_clipped(now, old, advantage):
    logp = row(now).requires_grad_()
    clipped_surrogate(logp, row(old), row(advantage), clip=0.2)[0].backward()
    ratio = math.exp(now - old)
    held = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
    edge = min(abs(ratio - 1.2), abs(ratio - 0.8)) < 1e-9
    expected = 0 if held else -ratio * advantage
    assert edge or logp.grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(small, min_size=1, max_size=6), st.floats(-2, 2))
def test_clipped_surrogate_at_old_is_the_policy_gradient(values, advantage):
    logp = row(*values).requires_grad_()
    clipped_surrogate(logp, logp.detach().clone(), torch.full_like(logp, advantage), clip=0.2, early=0.1)[0].backward()
    torch.testing.assert_close(logp.grad, torch.full_like(logp, -advantage / len(values)))


def test_group_advantages_values():
    assert group_advantages(row(1, 2, 3)).tolist() == [pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])]


def test_kl_to_start_values():
    """An item of pi = 1/2 and start 1/4, drawn when pi was 1/5."""
    penalty, kl = kl_to_start(row(0.5).log(), row(0.2).log(), row(0.25).log())
    assert penalty.item() == pytest.approx(0.5 - math.log(0.5) - 1)
    assert kl.item() == pytest.approx(2.5 * penalty.item())


def test_kl_to_start_estimate_is_unbiased_for_any_old():
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


def test_gbpo_values():
    """Good: .5 / max(.25, .5), .1 / max(.4, .1). Bad: .2 / max(.9, .8), .3 / max(.1, .7). One without a reward."""
    logp = leaf(0.5, 0.1, 0.2, 0.3, 0.9).log()
    loss, figures = gbpo(logp, tensor(0.25, 0.4, 0.9, 0.1, 0.5).log(), tensor(3, 1, -1, -2, NAN))
    assert loss.item() == pytest.approx((-3 * 1 - 1 * 0.25 + 1 * 2 / 9 + 2 * 3 / 7) / 7)
    slope_T = torch.autograd.grad(loss, logp)[0]
    assert (7 * slope_T).tolist() == pytest.approx([-3, -0.25, 2 / 9, 6 / 7, 0])
    assert figures["negative"].item() == pytest.approx(3 / 7)
    assert figures["pi"].item() == pytest.approx(0.25)


@given(st.floats(1e-6, 0.999), st.floats(1e-6, 0.999), st.floats(0.01, 10))
def test_gbpo_gradient_is_bounded(pi, old, advantage):
    """|d loss / d log pi| is at most 1 for a good event, and at most min(pi / old, pi / (1 - pi)) for a bad one."""
    for sign, bound in ((1, min(1, pi / old)), (-1, min(pi / old, pi / (1 - pi)))):
        logp = leaf(pi).log().detach().requires_grad_()
        gbpo(logp, tensor(old).log(), tensor(sign * advantage))[0].backward()
        assert -sign * logp.grad.item() == pytest.approx(bound, rel=1e-6)


def test_wbc_values():
    """A good row of weight 3 and two bad ones of weight 1: sigma(1), sigma(-1) and sigma(-2) where b is 1."""
    z_T = torch.tensor([1.0, -1.0, -2.0], dtype=torch.float64)
    up = (sigma(-1.0) + sigma(-2.0)) / sigma(-1.0)  # its weight at which 0 is the shift
    reward_T = torch.tensor([up, -1.0, -1.0, NAN])
    loss, figures = wbc(torch.cat([z_T + 1.0, torch.zeros(1)]), reward_T)
    good, bad = -up * math.log(sigma(1.0)), -math.log(sigma(1.0)) - math.log(sigma(2.0))
    assert figures["shift"].item() == pytest.approx(1.0, abs=1e-6)
    assert loss.item() == pytest.approx((good + bad) / (up + 2), rel=1e-6)
    assert figures["negative"].item() == pytest.approx(2 / (up + 2))
    assert figures["right"].item() == pytest.approx(1.0)


@given(st.lists(st.floats(-8, 0), min_size=4, max_size=4), st.lists(st.floats(0.1, 5), min_size=4, max_size=4))
def test_wbc_shift_minimises_the_loss_and_is_equivariant(scores, weights):
    logp_T, reward_T = torch.tensor(scores, dtype=torch.float64), torch.tensor(weights) * torch.tensor([1, -1, 1, -1])
    loss, figures = wbc(logp_T, reward_T)
    moved, shifted = wbc(logp_T + 3, reward_T)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-6)
    assert (shifted["shift"] - figures["shift"]).item() == pytest.approx(3, abs=1e-5)
    up_T, down_T = reward_T.clamp(min=0), (-reward_T).clamp(min=0)
    for step in (-0.05, 0.05):
        z_T = logp_T - figures["shift"] + step
        assert (up_T * F.softplus(-z_T) + down_T * F.softplus(z_T)).sum() / reward_T.abs().sum() > loss


@given(st.floats(-6, 0), st.floats(0.1, 10))
def test_wbc_step_raises_good_and_lowers_bad_items(logp, weight):
    logp_T = torch.full((3,), logp, dtype=torch.float64, requires_grad=True)
    wbc(logp_T, torch.tensor([2 * weight, -weight, -weight]))[0].backward()
    assert logp_T.grad.tolist() == pytest.approx([-0.25, 0.125, 0.125], rel=1e-5)  # half of the weight is good


@pytest.mark.parametrize("advantage", [[-1.0, NAN], [0.0, 0.0], [NAN, NAN]])
def test_losses_are_finite_for_certain_items_and_empty_batches(advantage):
    of = torch.zeros(2, requires_grad=True)
    for loss, figures in (
        gbpo(of, torch.zeros(2), torch.tensor(advantage)),
        wbc(of, torch.tensor(advantage)),
    ):
        (slope,) = torch.autograd.grad(loss, of)
        assert loss.isfinite()
        assert slope.isfinite().all()
        assert all(figure.isfinite() for figure in figures.values())


def test_td_loss_counts_events_with_a_reward():
    assert td_loss(tensor(1, 2, 7), tensor(0, 4, math.nan)).item() == pytest.approx((1 + 4) / 2)
    assert td_loss(tensor(1, 2), tensor(math.nan, math.nan)).item() == 0


def test_cql_loss_values():
    q_TV = torch.tensor([[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], dtype=torch.float64)
    loss, figures = cql_loss(tensor(1, 0, 9), q_TV.logsumexp(dim=1), tensor(2, 0, math.nan), alpha=0.5)
    gap = (math.log(math.e + 1) - 1 + math.log(1 + math.e**2)) / 2
    assert figures["td"].item() == pytest.approx(0.5)
    assert figures["gap"].item() == pytest.approx(gap)
    assert loss.item() == pytest.approx(0.25 + 0.5 * gap)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.05, 5))
def test_cql_gap_is_nonnegative_and_raises_only_the_logged_item(row, temperature):
    q_V = tensor(*row).requires_grad_()
    everything = temperature * (q_V / temperature).logsumexp(dim=0)
    _, figures = cql_loss(q_V[:1], everything[None], tensor(0.0), alpha=1)
    assert figures["gap"].item() >= -1e-12
    slope = torch.autograd.grad(everything - q_V[0], q_V)[0]
    assert slope[0].item() <= 1e-12  # the logged item is pulled up
    assert (slope[1:] >= 0).all()  # and all others down


def test_expectile_loss_and_exponential_weights_values():
    assert expectile_loss(tensor(2, -1), 0.7, tensor(0, 0)).item() == pytest.approx((0.7 * 4 + 0.3 * 1) / 2)
    assert expectile_loss(tensor(2, -1), 0.7, tensor(0, NAN)).item() == pytest.approx(0.7 * 4)
    weight = exponential_weights(tensor(0, 1, 50, 1), 2.0, tensor(0, 0, 0, NAN))
    assert weight.tolist() == pytest.approx([1, math.exp(2), 100, 0])


def test_kto_values():
    ratio_T, mismatched_T = torch.tensor([1.0, -0.5, 2.0, 9.0, 9.0]), torch.tensor([0.1, 0.5, 0.1, 0.2, 0.1])
    advantage_T = torch.tensor([2.0, -0.1, -3.0, torch.nan, 0.0])
    loss, figures = kto(ratio_T, mismatched_T, advantage_T, beta=0.5, good=2.0, bad=1.0)
    z = 0.2
    expected = 2 * (1 - sigma(0.5 * (1 - z))) + (1 - sigma(0.5 * (z + 0.5))) + (1 - sigma(0.5 * (z - 2)))
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)
    wanted = {"accuracy": 2 / 3, "margin": 0.25, "winner": 1.0, "loser": 0.75, "share": 0.6, "good": 1 / 3, "z": z}
    assert figures.pop("margins").tolist() == pytest.approx([0.8, 0.7, -1.8, math.nan, math.nan], nan_ok=True)
    assert {k: v.item() for k, v in figures.items()} == pytest.approx(wanted)


def test_top_k_reinforce_values():
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
