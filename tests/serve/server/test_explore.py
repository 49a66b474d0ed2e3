"""Lists that are drawn: their chances are those of Plackett-Luce, by enumeration and by frequencies."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from recalign.errors import InputError
from recalign.serve.server import Explore, Request, load_bundle
from recalign.serve.server.explore import drawn, log_chances
from recalign.serve.server.request import MAX_BOOSTS, MAX_WEIGHT, Boost

NONE = -np.inf
SCORES = np.array([NONE, 0.3, -1.2, 2.0, NONE, 0.9, -0.4])  # item 4 is left out by a filter
LEFT = [1, 2, 3, 5, 6]


def ranked(k: int) -> np.ndarray:
    return np.argsort(-SCORES, kind="stable")[:k]


def by_hand(items: tuple[int, ...], temperature: float, fixed: int = 0) -> float:
    """The chance of a list: at each place, the item's share of what is left."""
    left, chance = {one: math.exp(SCORES[one] / temperature) for one in LEFT}, 1.0
    for place, one in enumerate(items):
        chance *= 1.0 if place < fixed else left[one] / sum(left.values())
        del left[one]
    return chance


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_chances_are_those_of_enumeration_and_sum_to_one(k, temperature):
    lists = list(itertools.permutations(LEFT, k))
    found = [math.exp(log_chances(SCORES / temperature, np.array(one)).sum()) for one in lists]
    assert found == pytest.approx([by_hand(one, temperature) for one in lists], rel=1e-12)
    assert sum(found) == pytest.approx(1, abs=1e-12)


def test_fixed_places_have_no_chance_in_them():
    lists = [(3, *rest) for rest in itertools.permutations([1, 2, 5, 6], 2)]
    found = [log_chances(SCORES, np.array(one), fixed=1) for one in lists]
    assert [one[0] for one in found] == [0.0] * len(lists)
    assert np.exp([one.sum() for one in found]) == pytest.approx([by_hand(one, 1.0, fixed=1) for one in lists])
    assert sum(math.exp(one.sum()) for one in found) == pytest.approx(1, abs=1e-12)


def test_chances_are_exact_where_one_item_has_nearly_all():
    """Subtracting from the normaliser would leave nothing of the others."""
    score_N = np.array([NONE, 800.0, 1.0, 0.0])
    assert log_chances(score_N, np.array([1, 2, 3])) == pytest.approx([0, -math.log1p(math.exp(-1)), 0], abs=1e-12)
    assert log_chances(score_N, np.array([2, 1]))[0] == pytest.approx(-799)


@pytest.mark.slow
@pytest.mark.parametrize(("fixed", "k"), [(0, 2), (1, 3)])
def test_lists_are_as_frequent_as_is_said(fixed, k):
    best, number = ranked(k), 20_000
    lists: Counter[tuple[int, ...]] = Counter()
    for seed in range(number):
        item_K, said = drawn(SCORES, best, Explore(temperature=2.0, fixed=fixed, seed=seed))
        lists[tuple(item_K.tolist())] += 1
        assert said.log_probs == log_chances(SCORES / 2.0, item_K, fixed).tolist()
    wanted = {
        one: number * by_hand(one, 2.0, fixed)
        for one in itertools.permutations(LEFT, k)
        if list(one[:fixed]) == best[:fixed].tolist()
    }
    assert set(lists) <= set(wanted)
    assert min(wanted.values()) > 5
    statistic = sum((lists[one] - count) ** 2 / count for one, count in wanted.items())
    assert chi2.sf(statistic, len(wanted) - 1) > 0.001


def test_cold_or_all_fixed_it_is_the_ranked_list():
    best = ranked(4)
    for seed in range(50):
        item_K, said = drawn(SCORES, best, Explore(temperature=0.001, seed=seed))
        assert item_K.tolist() == best.tolist()
        assert said.log_probs == pytest.approx([0] * 4, abs=1e-9)
        item_K, said = drawn(SCORES, best, Explore(temperature=5.0, fixed=4 + seed, seed=seed))
        assert item_K.tolist() == best.tolist()
        assert (said.log_probs, said.ranked, said.arm) == ([0.0] * 4, 4, "explored")


def test_the_share_of_the_requests_and_their_mixture():
    best = ranked(2)
    arms = [drawn(SCORES, best, Explore(temperature=3.0, share=0.3, seed=seed)) for seed in range(2000)]
    explored = [said for _, said in arms if said.arm == "explored"]
    assert abs(len(explored) / 2000 - 0.3) < 4 * math.sqrt(0.21 / 2000)
    assert {said.chance for said in explored} == {0.3}
    assert {said.chance for _, said in arms if said.arm == "ranked"} == {0.7}
    assert all(item_K.tolist() == best.tolist() for item_K, said in arms if said.arm == "ranked")
    assert {said.arm for _, said in (drawn(SCORES, best, Explore(share=0.0, seed=n)) for n in range(20))} == {"ranked"}
    mixed = {
        tuple(item_K.tolist()): 0.3 * math.exp(sum(said.log_probs)) + 0.7 * (said.ranked >= 2) for item_K, said in arms
    }
    assert len(mixed) == 20  # all lists there are
    assert sum(mixed.values()) == pytest.approx(1)


@pytest.mark.parametrize("extreme", [MAX_WEIGHT, -MAX_WEIGHT])
def test_items_that_a_boost_lifts_far_are_still_drawn_with_their_chances(extreme):
    """A boost of 1e18 left no noise of the draw: always the same list, and chances as if it were any."""
    score_N = SCORES + np.where(np.isfinite(SCORES), MAX_BOOSTS * extreme, 0)
    found = Counter(int(drawn(score_N, ranked(1), Explore(seed=seed))[0][0]) for seed in range(2000))
    for item in LEFT:
        chance = by_hand((item,), 1.0)
        assert abs(found[item] / 2000 - chance) < 4.5 * math.sqrt(chance * (1 - chance) / 2000)
    with pytest.raises(InputError, match="cannot be used here"):
        Boost("item", 9, 2 * extreme)
    with pytest.raises(InputError, match="cannot be used here"):
        Request(strength=2 * MAX_WEIGHT)


# In a bundle

ASKED: dict[str, Any] = {"items": [3, 5], "times": [1000, 1060], "k": 4}


def test_a_bundle_draws_and_says_how(bundled):
    bundle = load_bundle(bundled)
    plain = bundle.recommend(ASKED)
    assert plain.explored is None
    same = [bundle.recommend({**ASKED, "explore": {"temperature": 3.0, "seed": 7}}) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0].explored.seed == 7
    assert [one.item for one in same[0].items] != [one.item for one in plain.items]
    fixed = bundle.recommend({**ASKED, "explore": {"temperature": 50.0, "fixed": 2, "seed": 1}})
    assert [one.item for one in fixed.items][:2] == [one.item for one in plain.items][:2]
    assert fixed.explored.log_probs[:2] == [0.0, 0.0]
    new = [bundle.recommend({**ASKED, "explore": {}}).explored.seed for _ in range(2)]
    assert new[0] != new[1]


def test_the_first_items_chance_is_the_log_probability_at_temperature_one(bundled):
    bundle = load_bundle(bundled)
    filters = {"block": [7], "boost": [{"column": "item", "value": 9, "weight": 1.5}], "log_probs": True}
    for seed in range(5):
        answer = bundle.recommend({**ASKED, **filters, "explore": {"seed": seed}})
        assert answer.explored.log_probs[0] == pytest.approx(answer.items[0].log_prob, abs=1e-9)
        assert not {one.item for one in answer.items} & {3, 5, 7}


def test_filters_that_leave_few_leave_a_short_list(bundled):
    answer = load_bundle(bundled).recommend(
        {**ASKED, "allow": [3, 8, 9, 10], "explore": {"temperature": 9.0, "seed": 0}}
    )
    assert {one.item for one in answer.items} == {8, 9, 10}  # 3 was seen
    assert answer.explored.log_probs[2] == 0.0
    nothing = load_bundle(bundled).recommend({**ASKED, "allow": [3], "explore": {}})
    assert (nothing.items, nothing.explored.log_probs) == ([], [])


@pytest.mark.parametrize(
    ("explore", "where"),
    [
        (3, "explore"),
        ({"temprature": 1}, "explore.'temprature'"),
        ({"temperature": 0}, "explore.temperature"),
        ({"temperature": float("nan")}, "explore.temperature"),
        ({"temperature": 1e9}, "explore.temperature"),
        ({"share": 1.1}, "explore.share"),
        ({"fixed": 1001}, "explore.fixed"),
        ({"seed": 2**53}, "explore.seed"),
        ({"seed": "7"}, "explore.seed"),
    ],
)
def test_explore_refuses_invalid_settings(explore, where):
    with pytest.raises(InputError) as refused:
        Request.from_any({"explore": explore})
    assert refused.value.where == where
    assert refused.value.remedy
