"""Values of policies of lists: exact by enumeration of all lists, by hand, and refused where nothing is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from recalign.errors import InputError
from recalign.evaluation.list_model import with_model
from recalign.evaluation.lists import Lists, estimate, weights
from recalign.serve.server import Explore
from recalign.serve.server.explore import drawn, log_chances

ITEMS, K = 5, 3
LOGGING = np.array([-np.inf, 1.0, 0.4, 0.0, -0.5, -1.0])
TARGET = np.array([-np.inf, 0.0, 1.2, -0.3, 0.8, 0.1])
BEST = np.argsort(-LOGGING, kind="stable")[:K]
ALL = np.array(list(itertools.permutations(range(1, ITEMS + 1), K)))


def reward(items: np.ndarray) -> np.ndarray:
    """Of each place: of its item, less where the item above is a neighbour. Nothing depends on what stands below."""
    above = np.concatenate([[0], items[:-1]])
    return items / 3 - 0.5 * (np.abs(items - above) == 1)


def lists(
    items_NK: np.ndarray, explored_N: np.ndarray, share: float = 1.0, fixed: int = 0, target_fixed: int = 0
) -> Lists:
    """Lists of users of one each."""
    number = len(items_NK)
    expected = TARGET[1:] / 4 + 1  # a poor model: by item alone
    direct_NK = np.zeros((number, K))
    for n, items in enumerate(items_NK):
        for k in range(K):
            left = TARGET.copy()
            left[items[:k]] = -np.inf
            chance = np.exp(left[1:] - left.max())
            direct_NK[n, k] = (chance / chance.sum() * expected).sum()
    return Lists(
        user_N=np.arange(number),
        reward_NK=np.stack([reward(items) for items in items_NK]),
        logged_NK=np.stack([log_chances(LOGGING, items, fixed) for items in items_NK]),
        target_NK=np.stack([log_chances(TARGET, items, target_fixed) for items in items_NK]),
        explored_N=explored_N,
        share_N=np.full(number, share),
        ranked_N=np.cumprod(items_NK == BEST, axis=1).sum(axis=1),
        fixed_N=np.full(number, fixed),
        predicted_NK=expected[items_NK - 1],
        direct_NK=direct_NK,
    )


TRUTH = sum(np.exp(log_chances(TARGET, items).sum()) * reward(items).sum() for items in ALL)


@pytest.mark.parametrize(("arms", "share"), [("explored", 1.0), ("mixture", 1.0), ("mixture", 0.3)])
def test_over_all_lists_every_estimate_is_the_truth(arms, share):
    """The expectation itself: each list counted by its probability under the logging policy."""
    shown = lists(ALL, np.ones(len(ALL), bool), share)
    chance_N = share * np.exp(shown.logged_NK.sum(axis=1)) + (1 - share) * (shown.ranked_N == K)
    assert chance_N.sum() == pytest.approx(1)
    w_NK = weights(shown, arms)
    assert chance_N @ w_NK == pytest.approx(np.ones(K))
    assert chance_N @ (w_NK[:, -1] * shown.reward_NK.sum(axis=1)) == pytest.approx(TRUTH)
    assert chance_N @ (w_NK * shown.reward_NK).sum(axis=1) == pytest.approx(TRUTH)
    above_NK = np.concatenate([np.ones((len(ALL), 1)), w_NK[:, :-1]], axis=1)
    robust_NK = above_NK * shown.direct_NK + w_NK * (shown.reward_NK - shown.predicted_NK)
    assert chance_N @ robust_NK.sum(axis=1) == pytest.approx(TRUTH)


def sample(number: int, share: float, seed: int = 0) -> Lists:
    made = [drawn(LOGGING, BEST, Explore(share=share, seed=seed * number + n)) for n in range(number)]
    return lists(np.stack([items for items, _ in made]), np.array([said.arm == "explored" for _, said in made]), share)


@pytest.mark.parametrize("arms", ["explored", "mixture"])
def test_what_was_drawn_gives_the_truth_within_its_interval(arms):
    found = estimate(sample(3000, 0.5), arms, draws=400)
    assert found.refused == {}
    assert set(found.estimates) == {
        "list_ips",
        "list_snips",
        "cascade_ips",
        "cascade_snips",
        "cascade_dr",
        "cascade_sndr",
    }
    for one in found.estimates.values():
        low, high = one.interval(0.999)
        assert low < TRUTH < high
    assert found.mean_weight == pytest.approx(1, abs=0.15)
    assert found.lists == (3000 if arms == "mixture" else pytest.approx(1500, abs=120))
    width = {name: np.ptp(one.interval()) for name, one in found.estimates.items()}
    assert width["cascade_snips"] < width["list_snips"] < width["list_ips"]
    assert width["cascade_dr"] < width["cascade_ips"]
    assert width["cascade_sndr"] < width["cascade_ips"]


def test_by_hand():
    """Two lists of two places: prefix weights (2, 4) and (1, 1/2); rewards (1, 0) and (1, 2)."""
    log = np.log
    shown = Lists(
        user_N=np.array([3, 8]),
        reward_NK=np.array([[1.0, 0.0], [1.0, 2.0]]),
        logged_NK=log([[0.25, 0.25], [0.5, 0.5]]),
        target_NK=log([[0.5, 0.5], [0.5, 0.25]]),
        explored_N=np.ones(2, bool),
        share_N=np.ones(2),
        ranked_N=np.zeros(2, int),
        fixed_N=np.zeros(2, int),
    )
    found = estimate(shown, least_ess=0, draws=10)
    values = {name: one.value for name, one in found.estimates.items()}
    assert values == pytest.approx(
        {
            "list_ips": (4 * 1 + 0.5 * 3) / 2,
            "list_snips": (4 * 1 + 0.5 * 3) / 4.5,
            "cascade_ips": (2 * 1 + 1 * 1 + 0.5 * 2) / 2,
            "cascade_snips": (2 * 1 + 1 * 1) / 3 + (0.5 * 2) / 4.5,
        }
    )
    assert found.ess == pytest.approx({"list": 4.5**2 / 16.25, "cascade": 3.75**2 / (9 + 0.75**2)})
    assert (found.max_weight, found.mean_weight, found.clipped) == pytest.approx((4, 2.25, 0))
    cut = estimate(shown, clip=1.5, least_ess=0, draws=10)
    assert cut.clipped == 0.5
    assert cut.estimates["list_ips"].value == pytest.approx((1.5 * 1 + 0.5 * 3) / 2)
    rule = estimate(shown, clip="cube_root", least_ess=0, draws=10)
    assert rule.clip == pytest.approx(2 ** (1 / 3))
    assert rule.estimates["list_ips"].value == pytest.approx((rule.clip * 1 + 0.5 * 3) / 2)
    assert (rule.max_weight, rule.clipped) == (4, 0.5)
    modelled = replace(
        shown, predicted_NK=np.array([[0.5, 0.5], [0.0, 1.0]]), direct_NK=np.array([[0.5, 0.0], [1.0, 1.0]])
    )
    robust = estimate(modelled, least_ess=0, draws=10).estimates
    assert robust["cascade_dr"].value == pytest.approx((-0.5 + 3.5) / 2)
    assert robust["cascade_sndr"].value == pytest.approx(1.5 / 2 + 2 / 3 + 1 / 3 - 1.5 / 4.5)
    halves = replace(shown, share_N=np.full(2, 0.5), ranked_N=np.array([1, 0]))
    assert weights(halves, "mixture") == pytest.approx(np.array([[0.5 / 0.625, 0.25 / 0.03125], [2.0, 1.0]]))


def test_a_model_of_rewards_knows_nothing_of_a_users_own_lists():
    random = np.random.default_rng(0)
    many = np.tile(ALL, (4, 1))
    told_NKF, expected_NKF = random.normal(size=(2, len(many), K, 2))
    shown = lists(many, np.ones(len(many), bool))
    real_NK = np.ones((len(many), K), bool)
    real_NK[:5, 2] = False
    shown = replace(shown, reward_NK=(1 + 0.5 * told_NKF[:, :, 0] - 0.3 * told_NKF[:, :, 1]) * real_NK)
    found = with_model(shown, told_NKF, expected_NKF, real_NK)
    wanted_NK = (1 + 0.5 * expected_NKF[:, :, 0] - 0.3 * expected_NKF[:, :, 1]) * real_NK
    assert found.predicted_NK == pytest.approx(shown.reward_NK, abs=0.1)  # but for the ridge
    assert found.direct_NK == pytest.approx(wanted_NK, abs=0.1)
    assert (found.predicted_NK[:5, 2] == 0).all()
    noisy = shown.reward_NK.copy()
    noisy[7] += 100
    again = with_model(replace(shown, reward_NK=noisy), told_NKF, expected_NKF, real_NK)
    assert again.predicted_NK[7, 0] == pytest.approx(found.predicted_NK[7, 0])
    assert abs(again.predicted_NK[8, 0] - found.predicted_NK[8, 0]) > 0.1


def test_a_candidate_that_changes_what_was_fixed_is_refused():
    made = np.stack([drawn(LOGGING, BEST, Explore(fixed=1, seed=n))[0] for n in range(400)])
    found = estimate(lists(made, np.ones(400, bool), fixed=1), draws=10)
    assert found.support < 0.5
    assert found.estimates == {}
    assert "not drawn" in found.refused["list"]
    kept = estimate(lists(made, np.ones(400, bool), fixed=1, target_fixed=1), draws=10)
    assert kept.support == 1
    assert kept.refused == {}
    assert kept.mean_weight == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("mass", "refused"), [(0.1, True), (0.95, False), (1.0, False)])
def test_a_candidate_of_items_that_the_server_lacked_is_refused(mass: float, refused: bool):
    """Ten items were drawn alike; the candidate gives them a share of its mass alone, and the rest to new ones."""
    made, one_N = np.random.default_rng(0), np.ones(3000)
    shown = Lists(
        user_N=np.arange(3000), reward_NK=made.random((3000, 1)).round(), logged_NK=np.full((3000, 1), np.log(0.1)),
        target_NK=np.full((3000, 1), np.log(mass / 10)), explored_N=one_N > 0, share_N=one_N,
        ranked_N=np.zeros(3000, int), fixed_N=np.zeros(3000, int),
    )  # fmt: skip
    found = estimate(shown, draws=10)
    assert found.reach == pytest.approx(mass)
    assert ("lists could not have" in str(found.refused)) == refused
    assert bool(found.estimates) != refused


def test_ranked_lists_of_requests_that_could_not_explore_have_no_support_for_others():
    same = np.tile(BEST, (400, 1))
    found = estimate(lists(same, np.zeros(400, bool), share=0.0), "mixture", draws=10)
    assert found.support < 0.5
    assert found.estimates == {}
    mixed = estimate(sample(400, 0.5), "mixture", least_ess=0, draws=10)
    assert mixed.support == 1
    assert mixed.refused == {}


def test_a_short_list_that_is_the_ranked_one_has_the_chance_of_both_arms():
    """Of one place, filled up to two: b = .5 * .4 + .5."""
    shown = Lists(
        user_N=np.array([1]), reward_NK=np.array([[1.0, 0.0]]), logged_NK=np.log([[0.4, 1.0]]),
        target_NK=np.log([[0.7, 1.0]]), explored_N=np.zeros(1, bool), share_N=np.full(1, 0.5),
        ranked_N=np.array([2]), fixed_N=np.zeros(1, int),
    )  # fmt: skip
    assert weights(shown, "mixture") == pytest.approx(np.array([[1.0, 1.0]]))


def test_too_few_users_in_effect_are_no_estimate():
    shown = sample(120, 1.0)
    found = estimate(shown, least_ess=100, draws=10)
    assert set(found.refused) == {"list", "cascade"}
    assert "below 100" in found.refused["list"]
    assert found.figures()["ess"] == found.ess
    assert estimate(shown, least_ess=0, draws=10).figures()["list_snips"] > 0
    middle = sum(found.ess.values()) / 2
    one = estimate(shown, least_ess=middle, draws=10)
    assert set(one.refused) == {"list"}
    assert set(one.estimates) == {"cascade_ips", "cascade_snips", "cascade_dr", "cascade_sndr"}


def test_what_cannot_be_estimated_from():
    with pytest.raises(InputError, match="no list was drawn"):
        estimate(lists(ALL, np.zeros(len(ALL), bool)))
    shown = lists(ALL, np.ones(len(ALL), bool))
    for wrong in (0.1, -np.inf, np.nan):
        with pytest.raises(InputError, match="a chance of 0"):
            replace(shown, logged_NK=np.full_like(shown.logged_NK, wrong))
