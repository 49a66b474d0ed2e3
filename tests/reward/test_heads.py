"""Heads: what they start from, what their losses are by hand, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recalign.errors import InputError
from recalign.recommender.checkpoint import build_net, recipe
from recalign.reward import MeanHead, OrdinalHead

STARS = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], [6, 11, 27, 34, 22])
MEAN, SCALE = STARS.mean(), STARS.std(ddof=1)


def started(head, rewards=STARS):
    head.calibrate(rewards, rewards.mean(), rewards.std(ddof=1))
    return head


def test_mean_head_expects_the_score_and_has_squared_loss():
    score, z = torch.tensor([[1.0, -2.0]]), torch.tensor([0.0, 1.0])
    assert MeanHead().expected(score).equal(score)
    assert MeanHead().loss(score, z).tolist() == [[1.0, 9.0]]


@torch.no_grad()
def test_untrained_ordinal_head_expects_the_averages():
    head = started(OrdinalHead())
    score = torch.linspace(-0.5, 0.5, 11)
    expected = head.expected(score)
    assert expected[5].item() == pytest.approx(0, abs=1e-6)  # at score 0 the mean of all, exactly
    torch.testing.assert_close(expected, score, atol=0.05, rtol=0)
    everywhere = MEAN + SCALE * head.expected(torch.linspace(-90, 90, 50))
    assert everywhere.min() == pytest.approx(1, abs=1e-4)  # a grade never leaves the scale
    assert everywhere.max() == pytest.approx(5, abs=1e-4)
    assert (everywhere.diff() >= 0).all()


@torch.no_grad()
def test_ordinal_loss_value():
    head = started(OrdinalHead())
    z = torch.tensor([(3.0 - MEAN) / SCALE], dtype=torch.float32)
    share = np.array([(level < STARS).mean() for level in (1, 2, 3, 4)])  # at score 0: the training shares
    by_hand = -np.mean(np.log(np.where([True, True, False, False], share, 1 - share)))
    assert head.loss(torch.zeros(1, 1), z).item() == pytest.approx(by_hand, rel=1e-4)


def test_ordinal_levels_are_in_the_recipe():
    head = started(OrdinalHead())
    again = build_net(recipe(head))
    again.load_state_dict(head.state_dict())
    assert recipe(again)["init_args"] == {"levels": [1.0, 2.0, 3.0, 4.0, 5.0]}
    assert again.expected(torch.ones(3)).equal(head.expected(torch.ones(3)))


def test_ordinal_head_refuses_rewards_outside_the_levels():
    started(OrdinalHead([0, 1, 2, 3, 4, 5]))  # a level that nobody gave is no harm
    single = np.repeat(np.float32([0.1, 0.2, 0.3]), [1, 2, 3]).astype(np.float64)  # a column of float32
    threshold = [started(OrdinalHead([0.1, 0.2, 0.3]), one).threshold_J for one in (single, single.round(1))]
    assert threshold[0].equal(threshold[1])
    with pytest.raises(InputError, match=r"contain 5, which is not among the head's levels \[1, 2, 3, 4\]"):
        started(OrdinalHead([1, 2, 3, 4]))
    with pytest.raises(InputError, match="has 99 levels, from 0 to 98, and an ordinal head takes at most 20"):
        started(OrdinalHead(), np.arange(99.0))
