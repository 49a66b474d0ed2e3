"""What a rule for the price takes and what it then keeps, by hand."""

import numpy as np
import pytest
from price import GRID, Curve, at, outcomes

RNG = np.random.default_rng(0)
LOSS_U = 0.02 + 0.1 * np.tile([-1.0, 1.0], 50)  # of its NDCG, a unit of alpha
IN_A = np.arange(100) < 70


def curve(loss_U: np.ndarray) -> Curve:
    sum_GU = 1 - GRID[:, None] * loss_U
    return Curve(np.full_like(sum_GU, np.nan), sum_GU, 1 - 0.05 * GRID[:, None] * np.ones((1, 100)), GRID / 2, IN_A)


def test_values_between_two_reaches_lie_on_a_line():
    assert at(GRID**2, 3.75) == pytest.approx((3.5**2 + 4**2) / 2)
    for place, alpha in enumerate(GRID):
        assert at(GRID**2, alpha) == GRID[place] ** 2


def test_a_reach_is_chosen_on_validation_and_judged_on_the_test():
    (alpha, kept, gain), *_ = outcomes([curve(LOSS_U)], "drawn", z=0.0, only_a=False, shared=False)
    assert alpha == pytest.approx(1.5)
    assert (kept, gain) == pytest.approx((1 - 0.05 * 1.5, 0.75))
    ((bounded, *_),) = outcomes([curve(LOSS_U)], "drawn", z=1.64, only_a=False, shared=False)
    ((few, *_),) = outcomes([curve(LOSS_U)], "drawn", z=1.64, only_a=True, shared=False)
    assert few < bounded < alpha


def test_seeds_that_share_a_reach_share_their_noise():
    other = curve(0.04 - LOSS_U)  # who lost gains: together nobody differs
    apart, both = (
        [one for one, *_ in outcomes([curve(LOSS_U), other], "drawn", 1.64, False, shared)] for shared in (False, True)
    )
    assert both == pytest.approx([1.5, 1.5])
    assert max(apart) < 1.5
