"""Off-policy estimates of items and of lists: by hand, against truths that are known, and where they must refuse."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from recalign.errors import InputError
from recalign.evaluation.offpolicy import estimate, of_items, of_lists
from recalign.serve.server import Explore
from recalign.serve.server.explore import drawn, log_chances

HAND = {
    "user_N": np.array([7, 7, 3, 3]),
    "reward_N": np.array([1.0, 0.0, 4.0, 2.0]),
    "propensity_N": np.array([0.5, 0.25, 0.5, 0.1]),
    "target_N": np.array([0.5, 0.5, 0.25, 0.3]),  # weights 1, 2, 1/2, 3
    "predicted_N": np.array([1.0, 1.0, 2.0, 2.0]),
    "direct_N": np.array([1.5, 0.5, 2.0, 3.0]),
}


def values(found):
    return {name: one.value for name, one in found.estimates.items()}


def bandit(seed: int, sharpness: float = 1.0, users: int = 300, actions: int = 8, each: int = 4):
    """A contextual bandit: user tastes, a logging softmax with known propensities, another softmax as the target.

    Returns the arguments of `of_items`, the target's chances and the mean rewards.
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
    shown = {
        "user_N": user_N,
        "reward_N": mean_UA[user_N, action_N] + random.normal(size=len(user_N)),
        "propensity_N": logging_UA[user_N, action_N],
        "target_N": target_UA[user_N, action_N],
        "predicted_N": model_UA[user_N, action_N],
        "direct_N": (target_UA * model_UA).sum(1)[user_N],
    }
    # users are drawn too: what the intervals are about is the mean over such users, 200,000 of which are close to it
    return shown, target_UA, mean_UA


def test_item_estimators_match_hand_values():
    found = estimate(of_items(**HAND), min_ess=0)
    assert values(found) == pytest.approx({"ips": 9 / 4, "snips": 9 / 6.5, "dm": 7 / 4, "dr": (7 + 0 - 2 + 1 + 0) / 4})
    assert (found.lists, found.users, found.observed) == (4, 2, 7 / 4)
    assert (found.mean_weight, found.max_weight, found.clipped) == (pytest.approx(6.5 / 4), pytest.approx(3), 0)
    assert found.ess["list"] == pytest.approx(6.5**2 / (3**2 + 3.5**2))
    cut = estimate(of_items(**HAND), clip=1.5, min_ess=0)
    assert (cut.clipped, cut.max_weight) == (0.5, pytest.approx(3))
    assert values(cut)["ips"] == pytest.approx((1 + 0 + 2 + 3) / 4)
    assert values(cut)["snips"] == pytest.approx(6 / 4.5)
    plain = of_items(**HAND | {"predicted_N": None, "direct_N": None})
    assert set(estimate(plain, min_ess=0).estimates) == {"ips", "snips"}


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [0.5, 1.5])
def test_intervals_cover_the_truth_in_about_95_of_100_worlds(sharpness):
    """200 worlds: 95 % of them +- three standard deviations of such a count (1.5 %)."""
    _, target_UA, mean_UA = bandit(10**6, sharpness, users=200_000, each=1)
    true, covered = float((target_UA * mean_UA).sum(1).mean()), dict.fromkeys(("ips", "snips", "dr", "dm"), 0)
    for seed in range(200):
        found = estimate(of_items(**bandit(seed, sharpness)[0]), draws=400)
        assert not found.refused
        for name in covered:
            low, high = found.estimates[name].interval()
            covered[name] += low <= true <= high
    assert covered.pop("dm") < 20  # a poor reward model alone says something else
    assert all(180 <= count <= 199 for count in covered.values()), covered


def test_doubly_robust_is_right_if_either_half_is():
    shown, target_UA, mean_UA = bandit(1, users=4000)
    true = float((target_UA * mean_UA).sum(1).mean())
    wrong = shown | {"propensity_N": np.full(len(shown["user_N"]), 0.3)}
    knowing = {"predicted_N": shown["reward_N"], "direct_N": (target_UA * mean_UA).sum(1)[shown["user_N"]]}
    assert abs(values(estimate(of_items(**wrong)))["dr"] - true) > 0.1
    assert values(estimate(of_items(**wrong | knowing)))["dr"] == pytest.approx(true)
    assert values(estimate(of_items(**shown)))["dr"] == pytest.approx(true, abs=0.1)


def test_too_few_users_in_effect_are_refused_with_a_reason():
    shown, *_ = bandit(4, users=300)
    one_N = np.zeros(len(shown["user_N"]))
    one_N[:4] = 1
    found = estimate(of_items(**shown | {"target_N": one_N}))
    assert found.ess["list"] == pytest.approx(1)
    assert found.estimates == {}
    assert "effective sample size is 1.0 of 300 users, below 50" in found.refused["list"]
    assert found.figures()["refused"] == found.refused
    assert "ess" in estimate(of_items(**shown | {"target_N": 0 * one_N})).figures()
    nothing = estimate(of_items(*[np.zeros(0) for _ in range(6)]))
    assert "nothing was shown at random" in nothing.refused["list"]
    for one in (found, nothing):  # without a clip, which is infinite
        assert json.loads(json.dumps(one.figures(), allow_nan=False))["clip"] is None


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.01, float("nan")])
def test_a_propensity_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match=r"1 of 4 propensities are not in \(0, 1\], such as"):
        of_items(**HAND | {"propensity_N": np.array([0.5, bad, 0.5, 0.5])})


ITEMS, K = 5, 3
LOGGING = np.array([-np.inf, 1.0, 0.4, 0.0, -0.5, -1.0])
TARGET = np.array([-np.inf, 0.0, 1.2, -0.3, 0.8, 0.1])
BEST = np.argsort(-LOGGING, kind="stable")[:K]
ALL = np.array(list(itertools.permutations(range(1, ITEMS + 1), K)))


def reward(items: np.ndarray) -> np.ndarray:
    """Of each place: of its item, less where the item above is a neighbour. Nothing depends on what stands below."""
    above = np.concatenate([[0], items[:-1]])
    return items / 3 - 0.5 * (np.abs(items - above) == 1)


TRUTH = sum(np.exp(log_chances(TARGET, items).sum()) * reward(items).sum() for items in ALL)


def lists(items_NK, explored_N=None, fixed=0, target_fixed=0):
    """Lists of users of one each."""
    number = len(items_NK)
    return of_lists(
        user_N=np.arange(number),
        reward_NK=np.stack([reward(items) for items in items_NK]),
        logged_NK=np.stack([log_chances(LOGGING, items, fixed) for items in items_NK]),
        target_NK=np.stack([log_chances(TARGET, items, target_fixed) for items in items_NK]),
        explored_N=np.ones(number, bool) if explored_N is None else explored_N,
        fixed_N=np.full(number, fixed),
    )


def of_two(**changed):
    """Two lists of two places: weights (2, 4) and (1, 1/2); rewards (1, 0) and (1, 2)."""
    given = {
        "user_N": np.array([3, 8]),
        "reward_NK": np.array([[1.0, 0.0], [1.0, 2.0]]),
        "logged_NK": np.log([[0.25, 0.25], [0.5, 0.5]]),
        "target_NK": np.log([[0.5, 0.5], [0.5, 0.25]]),
        "explored_N": np.ones(2, bool),
        "fixed_N": np.zeros(2, int),
    }
    return of_lists(**given | changed)


def test_over_all_lists_weighted_rewards_are_the_truth():
    """The expectation itself: each list counted by its probability under the logging policy."""
    shown = lists(ALL)
    chance_N = np.exp([log_chances(LOGGING, items).sum() for items in ALL])
    assert chance_N @ shown.weight_NK == pytest.approx(np.ones(K))
    assert chance_N @ (shown.weight_NK[:, -1] * shown.reward_NK.sum(axis=1)) == pytest.approx(TRUTH)
    assert chance_N @ (shown.weight_NK * shown.reward_NK).sum(axis=1) == pytest.approx(TRUTH)


def sample(number: int, share: float):
    made = [drawn(LOGGING, BEST, Explore(share=share, seed=n)) for n in range(number)]
    explored_N = np.array([said.arm == "explored" for _, said in made])
    return lists(np.stack([items for items, _ in made]), explored_N)


def test_what_was_drawn_gives_the_truth_within_its_interval():
    found = estimate(sample(3000, 0.5), draws=400)
    assert found.refused == {}
    assert set(found.estimates) == {"list_snips", "cascade_snips", "cascade_gain"}
    for name in ("list_snips", "cascade_snips"):
        low, high = found.estimates[name].interval(0.999)
        assert low < TRUTH < high
    assert found.mean_weight == pytest.approx(1, abs=0.15)
    assert found.lists == pytest.approx(1500, abs=120)
    width = {name: np.ptp(one.interval()) for name, one in found.estimates.items()}
    assert width["cascade_gain"] < width["cascade_snips"] < width["list_snips"]


def test_list_estimators_match_hand_values():
    found = estimate(of_two(), min_ess=0, draws=10)
    expected = {"list_snips": (4 * 1 + 0.5 * 3) / 4.5, "cascade_snips": (2 * 1 + 1 * 1) / 3 + (0.5 * 2) / 4.5}
    expected["cascade_gain"] = expected["cascade_snips"] - found.observed
    assert values(found) == pytest.approx(expected)
    assert found.ess == pytest.approx({"list": 4.5**2 / 16.25, "cascade": 3.75**2 / (9 + 0.75**2)})
    assert (found.max_weight, found.mean_weight, found.clipped) == pytest.approx((4, 2.25, 0))
    rule = estimate(of_two(), clip="cube_root", min_ess=0, draws=10)
    assert rule.clip == pytest.approx(2 ** (1 / 3))
    assert values(rule)["list_snips"] == pytest.approx((rule.clip * 1 + 0.5 * 3) / (rule.clip + 0.5))
    assert (rule.max_weight, rule.clipped) == (4, 0.5)


@pytest.mark.parametrize(("first", "refused"), [([0.125, 0.5], False), ([0.1875, 0.375], True)])
def test_a_mean_first_weight_counts_as_low_by_two_standard_errors(first, refused):
    """Of weights 1/2 and 1 the mean of 3/4 may be chance; twice 3/4 is none."""
    found = estimate(of_two(target_NK=np.log([[first[0], 0.25], [first[1], 0.5]])), min_ess=0, draws=10)
    assert found.first_weight == pytest.approx(0.75)
    assert ("items that these lists could not have" in str(found.refused)) == refused


def test_the_first_weight_is_that_of_the_first_place_that_was_drawn():
    kept = {"logged_NK": np.log([[1, 0.25], [1, 0.5]]), "target_NK": np.log([[1, 0.1875], [1, 0.375]])}
    found = estimate(of_two(**kept, fixed_N=np.ones(2, int)), min_ess=0, draws=10)
    assert (found.support, found.first_weight) == pytest.approx((1, 0.75))
    assert "items that these lists could not have" in found.refused["cascade"]


def test_a_candidate_that_changes_what_was_fixed_is_refused():
    made = np.stack([drawn(LOGGING, BEST, Explore(fixed=1, seed=n))[0] for n in range(400)])
    found = estimate(lists(made, fixed=1), draws=10)
    assert found.support < 0.5
    assert found.estimates == {}
    assert "the same items at the fixed places" in found.refused["list"]
    kept = estimate(lists(made, fixed=1, target_fixed=1), draws=10)
    assert (kept.support, kept.refused) == (1, {})
    assert kept.mean_weight == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("mass", "refused"), [(0.1, True), (0.95, False), (1.0, False)])
def test_a_candidate_of_items_that_the_server_lacked_is_refused(mass: float, refused: bool):
    """Ten items were drawn alike; the candidate gives them a share of its mass alone, and the rest to new ones."""
    alike_N1, one_N = np.full((3000, 1), np.log(0.1)), np.ones(3000)
    given = (np.arange(3000), one_N[:, None], alike_N1, alike_N1 + np.log(mass), one_N > 0)
    found = estimate(of_lists(*given, np.zeros(3000, int)), draws=10)
    assert found.first_weight == pytest.approx(mass)
    assert ("lists could not have" in str(found.refused)) == refused
    assert bool(found.estimates) != refused


def test_kinds_of_estimates_are_refused_apart():
    shown = sample(120, 1.0)
    found = estimate(shown, min_ess=100, draws=10)
    assert set(found.refused) == {"list", "cascade"}
    one = estimate(shown, min_ess=sum(found.ess.values()) / 2, draws=10)
    assert (set(one.refused), set(one.estimates)) == ({"list"}, {"cascade_snips", "cascade_gain"})


def test_unusable_lists_are_refused():
    with pytest.raises(InputError, match="no list was drawn at random"):
        lists(ALL, np.zeros(len(ALL), bool))
    for wrong in (0.1, -np.inf, np.nan):
        with pytest.raises(InputError, match="a chance of 0"):
            of_two(logged_NK=np.full((2, 2), wrong))
