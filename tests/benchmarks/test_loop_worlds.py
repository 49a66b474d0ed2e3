"""Worlds that answer: what people take of a list, and the figures of a round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_1samp

import recalign as ra
from benchmarks.lib import over_worlds
from benchmarks.loop.worlds import (
    ARMS,
    ITEMS,
    METRICS,
    PLACES,
    ROUNDS,
    SHARES,
    SPLIT,
    USERS,
    Lists,
    People,
    figures,
    lists,
    results,
    warm,
)


@pytest.fixture(scope="module")
def people() -> People:
    return People(drift=0.03, seed=0)


def some(items: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The same list for everybody."""
    return np.arange(USERS), np.tile(items, (USERS, 1))


def test_people_take_what_they_read_by_habit_fashion_and_taste(people: People):
    chance_V = people.chances(np.random.default_rng(0), 40).mean(axis=0)
    best, worst = np.argsort(-chance_V)[:PLACES].tolist(), np.argsort(chance_V)[:PLACES].tolist()
    liked, disliked = people.answers(0, *some(best)), people.answers(0, *some(worst))
    assert len(liked) > USERS > len(disliked)
    places = liked["timestamp"] - liked["timestamp"].min()
    assert 2 * (places >= PLACES // 2).sum() < (places < PLACES // 2).sum()  # the lower half is read less often
    residual = liked["reward"] - people.truth_UV[liked["user"] - 1, liked["item"] - 1]
    assert abs(residual.mean()) < 5 * residual.std() / np.sqrt(len(liked))


def test_who_gets_another_list_has_the_same_luck(people: People):
    items = list(range(PLACES))
    full = people.answers(1, *some(items))
    half = people.answers(1, *some([item if item % 2 else -1 for item in items]))
    assert half.sort("user", "item").equals(full.filter(pl.col("item") % 2 == 0).sort("user", "item"))
    assert not people.answers(2, *some(items)).drop("timestamp").equals(full.drop("timestamp"))


def test_every_item_of_the_first_log_is_in_training(people: People):
    early = people.log.sort("user", "timestamp").group_by("user").agg(pl.col("item").head(pl.len() - 2)).explode("item")
    assert set(early["item"].drop_nulls()) == set(people.log["item"])
    assert warm(people.log).equals(people.log)


@pytest.mark.slow
def test_lists_are_what_the_policy_recommends_and_explored_ones_are_unseen_too(people: People, tmp_path: Path):
    names = {name: name for name in people.log.columns}
    log = ra.Log.from_frame(people.log, **names, time_unit="s", folder=tmp_path, split=SPLIT)
    policy = ra.fit_recommender(log, settings={"trainer.max_epochs": 1})
    own = lists(policy.network, policy.data, people.log, 0.0, [0])
    best = policy.recommend(k=PLACES).sort("user", "rank")
    asked = dict(zip(own.user_N + 1, own.shown_NK + 1, strict=True))
    assert np.concatenate([asked[user] for user in sorted(asked)]).tolist() == best["item"].to_list()
    drawn = lists(policy.network, policy.data, people.log, 1.0, [0])
    np.testing.assert_array_equal(drawn.ranked_NK, own.ranked_NK)
    assert (drawn.shown_NK != own.shown_NK).mean() > 0.5
    seen = set(people.log.select("user", "item").iter_rows())
    assert not any(
        (user + 1, item + 1) in seen for user, K in zip(drawn.user_N, drawn.shown_NK, strict=True) for item in K
    )


def test_the_best_items_have_no_regret_and_the_number_of_items_is_an_effective_one(people: People):
    nothing = people.log.head(0)
    best_UK = np.argsort(-people.truth_UV, axis=1)[:, :PLACES]
    user_N = np.arange(USERS)
    found = figures(people, Lists(user_N, best_UK, best_UK[:, ::-1]), nothing)
    assert found["regret"] == pytest.approx(0, abs=1e-6)
    assert found["ranked"] > 0  # its first ten are the worse half
    same_UK = some(list(range(PLACES)))[1]
    assert figures(people, Lists(user_N, same_UK, same_UK), nothing)["items"] == pytest.approx(10)
    other_UK = (np.arange(USERS)[:, None] + np.arange(PLACES)) % ITEMS
    assert figures(people, Lists(user_N, other_UK, other_UK), nothing)["items"] == pytest.approx(ITEMS)


def test_taken_items_have_no_regret(people: People):
    best_UK = np.argsort(-people.truth_UV, axis=1)[:, :PLACES]
    taken = pl.DataFrame({"user": np.repeat(np.arange(USERS), 10) + 1, "item": best_UK[:, :10].ravel() + 1})
    own = Lists(np.arange(USERS), best_UK[:, 10:], best_UK[:, 10:])
    assert figures(people, own, taken)["regret"] == pytest.approx(0, abs=1e-6)


def test_rows_are_compared_within_worlds():
    random = np.random.default_rng(0)
    parts = []
    for seed in range(4):
        for place, name in enumerate(ARMS):
            value = 10 * seed + place + random.normal(size=ROUNDS)
            columns = {"round": range(1, ROUNDS + 1), **dict.fromkeys(("regret", "ranked", "items", "taken"), value)}
            parts.append(pl.DataFrame(columns).with_columns(row=pl.lit(name), seed=seed))
    rounds = pl.concat(parts)
    table = results(rounds.sample(fraction=1, shuffle=True, seed=0), 0.5)
    assert set(table["metric"]) == set(METRICS)
    pair = table.filter(row=f"asft, share {SHARES[0]:g} - asft", metric="regret, last round").row(0, named=True)
    one, other = (
        rounds.filter(row=name, round=ROUNDS).sort("seed")["regret"].to_numpy()
        for name in (f"asft, share {SHARES[0]:g}", "asft")
    )
    assert pair["mean"] == pytest.approx((one - other).mean())
    assert pair["ci_high"] - pair["ci_low"] < 10  # worlds differ by tens


def test_interval_is_student_t():
    value = np.array([1.0, 2.0, 4.0])
    mean, sd, low, _ = over_worlds(value)
    assert (mean, sd) == (pytest.approx(7 / 3), pytest.approx(value.std(ddof=1)))
    assert low is not None
    assert ttest_1samp(value, low).pvalue == pytest.approx(0.05)
    assert over_worlds(value[:1]) == (1.0, None, None, None)
