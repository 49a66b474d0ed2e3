from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recalign.posttrain.pairs import PairLoss, kto, preference

ratio = st.floats(-5, 5)
betas = st.floats(0.05, 3)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


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
def test_by_hand(loss):
    value, figures = preference(WINNER, LOSER, loss, beta=0.5, gamma=0.3)
    assert value.item() == pytest.approx(BY_HAND[loss], rel=1e-5)
    expected = {"accuracy": 0.75, "margin": 2.75 / 4, "winner": -0.25, "loser": -3.75 / 4}
    assert figures.pop("margins").equal(WINNER[:, None] - LOSER)
    assert {k: v.item() for k, v in figures.items()} == pytest.approx(expected)


def test_at_the_start_nothing_is_known():
    """Every log-ratio is 0: DPO and S-DPO with one loser say log 2, IPO its whole margin."""
    zero = torch.zeros(3)
    assert preference(zero, zero[:, None], "dpo", 0.1)[0].item() == pytest.approx(math.log(2))
    assert preference(zero, zero[:, None], "ipo", 0.1)[0].item() == pytest.approx(25)
    assert preference(zero, zero[:, None].expand(3, 4), "sdpo", 0.1)[0].item() == pytest.approx(math.log(5))


@given(st.lists(st.tuples(ratio, ratio), min_size=1, max_size=8), betas)
def test_with_one_loser_softmax_dpo_is_dpo_and_so_is_simpo_without_a_margin(values, beta):
    winner, loser = (torch.tensor(v, dtype=torch.float64) for v in zip(*values, strict=True))
    dpo = preference(winner, loser[:, None], "dpo", beta)[0]
    torch.testing.assert_close(preference(winner, loser[:, None], "sdpo", beta)[0], dpo)
    torch.testing.assert_close(preference(winner, loser[:, None], "simpo", beta, 0.0)[0], dpo)


@pytest.mark.parametrize("loss", ["dpo", "sdpo", "simpo"])
@given(ratio, st.lists(ratio, min_size=1, max_size=5), betas)
def test_a_step_raises_the_winner_and_lowers_every_loser(loss, winner, losers, beta):
    winner_T = torch.tensor([winner], dtype=torch.float64, requires_grad=True)
    loser_TN = torch.tensor([losers], dtype=torch.float64, requires_grad=True)
    preference(winner_T, loser_TN, loss, beta, gamma=0.5)[0].backward()
    assert winner_T.grad.item() < 0
    assert (loser_TN.grad > 0).all()
    assert winner_T.grad.item() == pytest.approx(-loser_TN.grad.sum().item())  # only the difference counts


@given(ratio, ratio, betas)
def test_identity_preference_stops_at_its_margin(winner, loser, beta):
    winner_T = torch.tensor([winner], dtype=torch.float64, requires_grad=True)
    preference(winner_T, torch.tensor([[loser]], dtype=torch.float64), "ipo", beta)[0].backward()
    assert winner_T.grad.item() == pytest.approx(2 * (winner - loser - 1 / (2 * beta)))


@given(st.lists(ratio, min_size=2, max_size=6), betas)
def test_softmax_dpo_minds_the_highest_loser_most(losers, beta):
    loser_TN = torch.tensor([losers], dtype=torch.float64, requires_grad=True)
    preference(torch.zeros(1, dtype=torch.float64), loser_TN, "sdpo", beta)[0].backward()
    assert (loser_TN.grad[0][loser_TN[0].argsort()].diff() >= -1e-12).all()


def test_kto_by_hand():
    ratio_T, mismatched_T = torch.tensor([1.0, -0.5, 2.0, 9.0, 9.0]), torch.tensor([0.1, 0.5, 0.1, 0.2, 0.1])
    advantage_T = torch.tensor([2.0, -0.1, -3.0, torch.nan, 0.0])
    loss, figures = kto(ratio_T, mismatched_T, advantage_T, beta=0.5, good=2.0, bad=1.0)
    z = 0.2
    expected = 2 * (1 - sigma(0.5 * (1 - z))) + (1 - sigma(0.5 * (z + 0.5))) + (1 - sigma(0.5 * (z - 2)))
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)
    wanted = {"accuracy": 2 / 3, "margin": 0.25, "winner": 1.0, "loser": 0.75, "share": 0.6, "good": 1 / 3, "z": z}
    assert figures.pop("margins").tolist() == pytest.approx([0.8, 0.7, -1.8, math.nan, math.nan], nan_ok=True)
    assert {k: v.item() for k, v in figures.items()} == pytest.approx(wanted)


events = st.lists(st.tuples(ratio, ratio, st.sampled_from([1.0, -1.0, 0.0, math.nan])), min_size=2, max_size=10)


@given(events, betas)
def test_kto_raises_the_good_and_lowers_the_bad_and_z_has_no_gradient(values, beta):
    ratio_T, mismatched_T, advantage_T = (torch.tensor(v, dtype=torch.float64) for v in zip(*values, strict=True))
    ratio_T.requires_grad_()
    mismatched_T.requires_grad_()
    kto(ratio_T, mismatched_T, advantage_T, beta)[0].backward()
    assert mismatched_T.grad is None
    assert ratio_T.grad.sign().equal(-advantage_T.nan_to_num())


def test_the_point_of_reference_is_never_below_nothing():
    _, figures = kto(torch.zeros(2), torch.tensor([-3.0, 1.0]), torch.tensor([1.0, -1.0]), 0.1)
    assert figures["z"] == 0


def test_without_another_users_item_the_point_of_reference_is_nothing():
    _, figures = kto(torch.ones(2), torch.tensor([torch.nan, 0.5]), torch.tensor([1.0, -1.0]), 0.1)
    assert figures["z"] == 0.5
    _, figures = kto(torch.ones(2), torch.full((2,), torch.nan), torch.tensor([1.0, -1.0]), 0.1)
    assert figures["z"] == 0


def test_a_batch_in_which_nothing_is_good_or_bad_is_no_loss():
    loss, figures = kto(torch.ones(2), torch.ones(2), torch.tensor([torch.nan, 0.0]), 0.1)
    assert loss == 0
    assert figures.pop("margins").isnan().all()
    assert not any(v.isnan() for v in figures.values())
