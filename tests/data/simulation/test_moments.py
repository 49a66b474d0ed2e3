import numpy as np
import polars as pl
import pytest
from log_moments import additive, carry_over, covariance_within, moments, next_item, predictable


def log(rows: list[tuple[int, int, int, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user", "item", "timestamp", "reward"], orient="row")


def test_covariance_within_groups_finds_a_variance_under_noise() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(500, size=20_000)
    values = 0.5 * rng.normal(size=500)[group] + rng.normal(size=20_000)
    assert covariance_within(group, values) == pytest.approx(0.25, abs=0.03)


def test_moments_by_hand() -> None:
    rows = [(1, 1, 0, 1.0), (1, 2, 1, 3.0), (1, 1, 2, None), (2, 1, 0, 2.0)]
    found = moments(log(rows * 5).with_row_index("time").with_columns(timestamp="time"))
    assert found["activity/mean"] == 10
    assert found["activity/median"] == 1
    assert found["activity/sd"] == pytest.approx(0.5)
    assert found["activity/gini"] == pytest.approx(0.25)
    assert found["activity/repeats"] == pytest.approx(17 / 20)  # 3 pairs
    assert found["popularity/best"] == 7.5
    assert found["popularity/bottom_50%"] == 0.25
    assert found["reward/mean"] == 2
    assert found["reward/variance"] == pytest.approx(2 / 3)


def test_carry_over_is_the_correlation_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(200), 100), rng.integers(50, size=20_000)
    noise = np.zeros((200, 100))
    for step in range(1, 100):
        noise[:, step] = 0.4 * noise[:, step - 1] + rng.normal(size=200)
    reward = rng.normal(size=200)[user] + rng.normal(size=50)[item] + noise.ravel()
    frame = pl.DataFrame({"user": user, "item": item, "timestamp": np.tile(np.arange(100), 200), "reward": reward})
    assert carry_over(frame.sample(fraction=1, shuffle=True, seed=0)) == pytest.approx(0.4, abs=0.03)


def test_the_additive_fit_recovers_user_and_item_and_leaves_out_events_of_weight_0() -> None:
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(40_000), 200)
    reward = 3 + rng.normal(size=200)[user] + rng.normal(size=200)[item]
    spoiled, weight = reward.copy(), np.ones(40_000)
    spoiled[::7], weight[::7] = 1e6, 0
    assert np.abs(additive(user, item, spoiled, weight) - reward).max() < 0.25  # shrinkage: 5 of some 170 events


def test_next_item_by_hand() -> None:
    """Two tribes that share no item, and a few who went over from one to the other."""
    rng = np.random.default_rng(0)
    rows: list[tuple[int, int, int, float | None]] = []
    for user in range(100):
        own = 10 * (user % 2) + rng.permutation(10)
        rows += [(user, item, time, 1.0) for time, item in enumerate(own)]
    for user in range(100, 120):
        before, after = rng.permutation(10)[:7], 10 + rng.permutation(10)[:6]
        rows += [(user, item, time, 1.0) for time, item in enumerate([*before, *after])]
    hit = next_item(log(rows), last=1, recent=5, k=5)
    assert hit["next/recent"] == 1  # no more than five of the tribe are left
    assert 100 / 120 < hit["next/history"] < 1  # most of what the last twenty had is of their first tribe
    assert hit["next/popularity"] < 0.75


def test_a_match_that_is_there_is_found_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(200, size=20_000), rng.integers(100, size=20_000)
    level = rng.normal(size=200)[user] + rng.normal(size=100)[item]
    match = (rng.normal(size=(200, 2))[user] * rng.normal(size=(100, 2))[item]).sum(axis=1)

    def explained(reward: np.ndarray) -> tuple[float, float]:
        frame = pl.DataFrame({"user": user, "item": item, "timestamp": np.arange(20_000), "reward": reward})
        found = predictable(frame)
        return found["explained/user_item"], found["explained/with_match"]

    plain, with_match = explained(level + match + rng.normal(size=20_000))
    assert plain == pytest.approx(2 / 5, abs=0.06)
    assert with_match == pytest.approx(4 / 5, abs=0.06)
    plain, with_match = explained(level + rng.normal(size=20_000))
    assert with_match == pytest.approx(plain, abs=0.03)
