"""Off-policy estimators: by hand, against truths that are known, and where they must refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.errors import InputError
from recalign.evaluation.offpolicy import Exposures, effective_size, estimate, exposed_ranks

HAND = Exposures(
    user_N=np.array([7, 7, 3, 3]),
    reward_N=np.array([1.0, 0.0, 4.0, 2.0]),
    propensity_N=np.array([0.5, 0.25, 0.5, 0.1]),
    target_N=np.array([0.5, 0.5, 0.25, 0.3]),  # weights 1, 2, 1/2, 3
    predicted_N=np.array([1.0, 1.0, 2.0, 2.0]),
    direct_N=np.array([1.5, 0.5, 2.0, 3.0]),
)


def bandit(seed: int, sharpness: float = 1.0, users: int = 300, actions: int = 8, each: int = 4):
    """A contextual bandit: user tastes, a logging softmax with known propensities, another softmax as the target.

    Returns exposures, and the target's true value on these users.
    """
    random = np.random.default_rng(seed)
    mean_UA = 3 + random.normal(size=(users, 1)) * 0.5 + random.normal(size=(users, actions))
    logging_UA, target_UA = (np.exp(size * random.normal(size=(users, actions)) + lean * mean_UA)
                             for size, lean in ((0.5, 0.3), (0.3, sharpness)))  # fmt: skip
    logging_UA /= logging_UA.sum(1, keepdims=True)
    target_UA /= target_UA.sum(1, keepdims=True)
    user_N = np.repeat(np.arange(users), each)
    action_N = (logging_UA[user_N].cumsum(1) > random.random((len(user_N), 1))).argmax(1)
    model_UA = 0.5 * mean_UA + 1 + 0.5 * random.normal(size=mean_UA.shape)  # a poor reward model
    shown = Exposures(
        user_N=user_N,
        reward_N=mean_UA[user_N, action_N] + random.normal(size=len(user_N)),
        propensity_N=logging_UA[user_N, action_N],
        target_N=target_UA[user_N, action_N],
        predicted_N=model_UA[user_N, action_N],
        direct_N=(target_UA * model_UA).sum(1)[user_N],
    )
    # users are drawn too: what the intervals are about is the mean over such users, 200,000 of which are close to it
    return shown, target_UA, mean_UA


def truth(sharpness: float) -> float:
    _, target_UA, mean_UA = bandit(10**6, sharpness, users=200_000, each=1)
    return float((target_UA * mean_UA).sum(1).mean())


def test_estimates_by_hand():
    found = estimate(HAND, least_ess=0)
    value = {name: one.value for name, one in found.estimates.items()}
    assert value["ips"] == pytest.approx((1 + 0 + 2 + 6) / 4)
    assert value["snips"] == pytest.approx(9 / 6.5)
    assert value["dm"] == pytest.approx(7 / 4)
    assert value["dr"] == pytest.approx((7 + 0 - 2 + 1 + 0) / 4)
    assert (found.exposures, found.users, found.observed) == (4, 2, 7 / 4)
    assert (found.mean_weight, found.max_weight, found.clipped) == (pytest.approx(6.5 / 4), pytest.approx(3), 0)
    assert found.ess == pytest.approx(6.5**2 / (3**2 + 3.5**2))


def test_clipped_weights_by_hand():
    found = estimate(HAND, clip=1.5, least_ess=0)
    assert found.clipped == 0.5
    assert found.max_weight == pytest.approx(3)
    assert found.estimates["ips"].value == pytest.approx((1 + 0 + 2 + 3) / 4)
    assert found.estimates["snips"].value == pytest.approx(6 / 4.5)


@pytest.mark.parametrize("sharpness", [0.5, 1.5])
def test_intervals_cover_the_truth_in_about_95_of_100_worlds(sharpness):
    """200 worlds: 95 % of them +- three standard deviations of such a count (1.5 %)."""
    true, covered, dm = truth(sharpness), {"ips": 0, "snips": 0, "dr": 0}, 0
    for seed in range(200):
        found = estimate(bandit(seed, sharpness)[0], draws=400)
        assert not found.refused
        for name in covered:
            low, high = found.estimates[name].interval()
            covered[name] += low <= true <= high
        low, high = found.estimates["dm"].interval()
        dm += low <= true <= high
    assert all(180 <= count <= 199 for count in covered.values()), covered
    assert dm < 20  # a poor reward model alone says something else


def test_doubly_robust_is_right_if_either_half_is():
    shown, target_UA, mean_UA = bandit(1, users=4000)
    true = float((target_UA * mean_UA).sum(1).mean())
    wrong = replace(shown, propensity_N=np.full(len(shown.user_N), 0.3))
    right = replace(
        wrong,
        predicted_N=np.where(True, shown.reward_N, 0),  # a reward model that knows even the noise
        direct_N=(target_UA * mean_UA).sum(1)[shown.user_N],
    )
    assert abs(estimate(wrong).estimates["dr"].value - true) > 0.1
    assert estimate(right).estimates["dr"].value == pytest.approx(true)
    assert estimate(shown).estimates["dr"].value == pytest.approx(true, abs=0.1)


def test_the_logging_policys_own_value_is_its_observed_mean():
    """The sanity row: with pi = beta every weight is 1."""
    shown, *_ = bandit(2)
    found = estimate(replace(shown, target_N=shown.propensity_N))
    assert found.ess == pytest.approx(found.users)
    assert found.mean_weight == pytest.approx(1)
    for name in ("ips", "snips"):
        assert found.estimates[name].value == pytest.approx(found.observed)


def test_propensities_that_are_wrong_show_in_the_mean_weight():
    shown, *_ = bandit(3, users=3000)
    assert estimate(shown).mean_weight == pytest.approx(1, abs=0.05)
    assert estimate(replace(shown, propensity_N=shown.propensity_N / 2)).mean_weight == pytest.approx(2, abs=0.1)


def test_too_few_users_in_effect_are_refused_with_a_reason():
    shown, *_ = bandit(4, users=300)
    one = np.zeros(len(shown.user_N))
    one[:4] = 1
    found = estimate(replace(shown, target_N=one))
    assert found.ess == pytest.approx(1)
    assert found.estimates == {}
    assert "effective sample size is 1.0 of 300 users, below 50" in str(found.refused)
    assert found.figures()["refused"] == found.refused
    assert "ips" not in found.figures()
    assert "ess" in estimate(replace(shown, target_N=0 * one)).figures()  # a policy that shows nothing of it
    nothing = Exposures(*[np.zeros(0) for _ in range(4)])
    assert "nothing was shown at random" in str(estimate(nothing).refused)


def test_without_a_reward_model_there_are_the_other_two():
    found = estimate(replace(HAND, predicted_N=None, direct_N=None), least_ess=0)
    assert set(found.estimates) == {"ips", "snips"}


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.01, float("nan")])
def test_a_propensity_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match="propensity: a propensity of") as caught:
        replace(HAND, propensity_N=np.array([0.5, bad, 0.5, 0.5]))
    assert "1 of 4" in str(caught.value)
    with pytest.raises(InputError):
        exposed_ranks(HAND.user_N, HAND.target_N, HAND.reward_N, np.full(4, bad))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_the_effective_size_lies_between_one_and_all(weights):
    found = effective_size(np.array(weights))
    assert found == 0 or 1 - 1e-9 <= found <= len(weights) + 1e-9


def test_shifting_rewards_moves_all_but_ips_by_as_much():
    shown, *_ = bandit(5)
    up = replace(shown, reward_N=shown.reward_N + 10, predicted_N=shown.predicted_N + 10, direct_N=shown.direct_N + 10)
    one, two = estimate(shown).estimates, estimate(up).estimates
    for name in ("snips", "dm", "dr"):
        assert two[name].value - one[name].value == pytest.approx(10)


def test_ranks_of_exposed_candidates_by_hand():
    user = np.array([1, 1, 1, 2, 2, 5])
    reward = np.array([3.0, 1.0, 2.0, 1.0, 4.0, 5.0])
    score = np.array([0.2, 0.9, 0.5, 0.3, 0.8, 0.0])
    found = {name: one.value for name, one in exposed_ranks(user, score, reward, np.ones(6), k=2).items()}
    # user 1: gains 2, 0, 1 at ranks 3, 1, 2; user 2: gains 0, 3 at ranks 2, 1; user 5 has one candidate
    best = 2 + 1 / np.log2(3)
    assert found["ndcg"] == pytest.approx(((1 / np.log2(3)) / best + 1) / 2)
    assert found["mrr"] == pytest.approx(((2 / 3 + 1 / 2) / 3 + 1) / 2)
    assert found["reward"] == pytest.approx((1 + 2 + 1 + 4) / 4)
    assert found["uniform"] == pytest.approx(11 / 5)


def test_ranks_are_weighted_by_one_over_the_propensity():
    """Gains 0, 4, 2 and weights 2, 4, 1 of the candidates ranked 1, 2, 3."""
    one, score, reward = np.ones(3, int), np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])
    found = exposed_ranks(one, score, reward, np.array([0.5, 0.25, 1.0]), k=2)
    second = 1 / np.log2(3)
    assert {name: each.value for name, each in found.items()} == pytest.approx(
        {"ndcg": 4 * second / (4 + 2 * second), "mrr": (4 / 2 + 2 / 3) / 6, "reward": 10 / 6, "uniform": 13 / 7}
    )


def test_a_perfect_order_scores_1_and_chance_scores_what_everybody_is_worth():
    random = np.random.default_rng(0)
    user, reward, alike = np.repeat(np.arange(300), 10), random.normal(size=3000), np.ones(3000)
    assert exposed_ranks(user, reward, reward, alike)["ndcg"].value == pytest.approx(1)
    blind = exposed_ranks(user, np.zeros(3000), reward, alike)
    low, high = blind["reward"].interval()
    assert low <= blind["uniform"].value <= high
    assert exposed_ranks(user, reward, reward, alike)["reward"].value > high
