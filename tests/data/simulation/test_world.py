import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.data.simulation.behaviour import time_slice
from recalign.data.simulation.world import MEAN, SD, START, Simulated, World, simulate
from recalign.errors import InputError

# MovieLens 100K (Harper and Konstan, 2015), all 100,000 rows of u.data, and how far the default world may be off.
# Popularity is flatter: a user has one item in eight of the catalogue, not one in sixteen, and the best-known run out.
ML_100K = {
    "activity/gini": (0.472, 0.04),
    "popularity/gini": (0.629, 0.07),
    "reward/mean": (3.530, 0.12),
    "reward/variance": (1.267, 0.10),
    "reward/user": (0.153, 0.025),
    "reward/item": (0.193, 0.04),
}


def gini(group_N: np.ndarray) -> float:
    """Gini coefficient of the number of events of each group: 0 if all are equal, near 1 if one has everything."""
    ordered = np.sort(np.unique(group_N, return_counts=True)[1])
    return float((2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def covariance_within(group_N: np.ndarray, deviation_N: np.ndarray) -> float:
    """Mean product of two different events of a group: the variance due to the group, without the events' noise."""
    count_G = np.bincount(group_N)
    products_G = np.bincount(group_N, deviation_N) ** 2 - np.bincount(group_N, deviation_N**2)
    several_G = count_G > 1
    return float((products_G[several_G] / (count_G[several_G] - 1)).sum() / count_G[several_G].sum())


def moments(events: pl.DataFrame) -> dict[str, float]:
    reward_N = (rated := events.drop_nulls("reward"))["reward"].to_numpy()
    share = {of: covariance_within(rated[of].to_numpy(), reward_N - reward_N.mean()) for of in ("user", "item")}
    return {
        "activity/gini": gini(events["user"].to_numpy()),
        "popularity/gini": gini(events["item"].to_numpy()),
        "reward/mean": reward_N.mean(),
        "reward/variance": reward_N.var(),
        **{f"reward/{of}": variance / reward_N.var() for of, variance in share.items()},
    }


@pytest.fixture(scope="module")
def default() -> Simulated:
    return simulate(World())


def hidden(simulated: Simulated) -> pl.DataFrame:
    """Events with their row, column and slice of the hidden state, and what was added to the truth, in sizes."""
    return simulated.events.with_columns(
        row=pl.col("user") - 1,
        column=pl.col("item") - 1,
        slice=time_slice(simulated.events["timestamp"].to_numpy() - START),
        added=(pl.col("reward") - pl.col("true_reward")) / SD,
    )


def test_default_world_has_the_moments_of_ml_100k() -> None:
    worlds = [moments(simulate(World(seed=seed)).events) for seed in range(5)]
    mean = {name: np.mean([world[name] for world in worlds]) for name in ML_100K}
    assert not {name: mean[name] for name, (value, band) in ML_100K.items() if abs(mean[name] - value) > band}


def test_simulated_log_has_its_columns_and_true_rewards(default: Simulated) -> None:
    events = default.events
    assert events.schema == {
        "user": pl.Int64,
        "item": pl.Int64,
        "timestamp": pl.Int64,
        "reward": pl.Float64,
        "high": pl.Boolean,
        "circumstance": pl.Boolean,
        "true_reward": pl.Float64,
    }
    assert len(events) == 30_000
    assert events["user"].n_unique() == 400
    assert events["timestamp"].is_sorted()
    assert events["reward"].null_count() / 30_000 == pytest.approx(0.1, abs=0.01)
    assert not events["reward"].is_nan().any()
    assert default.truth_UI.shape == (400, 600)
    assert default.truth_UI.dtype == np.float32
    assert default.truth_UI.mean() == pytest.approx(MEAN, abs=1e-4)
    assert default.truth_UI.std() == pytest.approx(SD, rel=1e-4)

    row, column = events["user"].to_numpy() - 1, events["item"].to_numpy() - 1
    assert (default.users[row] == events["user"].to_numpy()).all()
    assert (default.truth_UI[row, column] == events["true_reward"].to_numpy()).all()
    better_N = (default.truth_UI[row] > default.truth_UI[row, column][:, None]).sum(axis=1)
    assert (events["high"].to_numpy() == (better_N < 150)).all()  # of 600 items


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_simulated_logs_of_any_settings_are_consistent(data: st.DataObject) -> None:
    users, items = data.draw(st.integers(10, 40)), data.draw(st.integers(20, 60))
    events = data.draw(st.integers(100, users * (items // 2)))
    size = st.floats(0, 20)
    world = World(
        users=users,
        items=items,
        events=events,
        habit=data.draw(size),
        fashion=data.draw(size),
        confounding=data.draw(size),
        noise=data.draw(size),
        noise_kind=data.draw(st.sampled_from(["gaussian", "heavy", "fashion"])),
        missing=data.draw(st.floats(0, 0.9)),
        seed=data.draw(st.integers(0, 2**40)),
    )
    log = simulate(world).events
    assert len(log) == events
    assert log.select("user", "item").n_unique() == events  # nothing twice
    assert log.select("user", "timestamp").n_unique() == events  # no ties within a user
    assert set(log["user"]) == set(range(1, users + 1))
    assert set(log["item"]) <= set(range(1, items + 1))
    assert log["reward"].drop_nulls().is_finite().all()


def test_equal_seeds_make_equal_worlds(default: Simulated) -> None:
    again, other = simulate(World()), simulate(World(seed=1))
    assert again.events.equals(default.events)
    assert (again.truth_UI == default.truth_UI).all()
    assert not other.events["item"].equals(default.events["item"])
    assert not np.allclose(other.truth_UI, default.truth_UI)


def test_choices_do_not_depend_on_reward_settings(default: Simulated) -> None:
    loud = simulate(World(noise=9, noise_kind="heavy", generosity=3, circumstance=2, signal=0, missing=0.5))
    shown = ["user", "item", "timestamp", "circumstance", "true_reward", "high"]
    assert loud.events.select(shown).equals(default.events.select(shown))


def test_reward_without_disturbances_is_the_true_reward() -> None:
    events = simulate(World(noise=0, generosity=0, circumstance=0, missing=0)).events
    assert events["reward"].null_count() == 0
    assert events["reward"].to_numpy() == pytest.approx(events["true_reward"].to_numpy(), abs=1e-12)


def test_rewards_without_generosity_average_to_the_truth(default: Simulated) -> None:
    world, people = default.world, default.people
    events = hidden(default).drop_nulls("reward")
    rest = events["added"].to_numpy() - world.generosity * people.generosity_U[events["row"].to_numpy()]
    spread = np.sqrt(world.noise**2 + world.circumstance**2)
    assert rest.std() == pytest.approx(spread, rel=0.02)
    assert abs(rest.mean()) < 4 * spread / np.sqrt(len(rest) / 8)  # a session shares its circumstance
    best = events["high"].to_numpy()
    assert abs(rest[best].mean() - rest[~best].mean()) < 0.06  # nor does it lean to better or worse items


@pytest.mark.parametrize("kind", ["gaussian", "heavy", "fashion"])
def test_noise_of_each_kind_has_its_size_and_its_shape(kind: str) -> None:
    simulated = simulate(World(noise=2, noise_kind=kind, generosity=0, circumstance=0, missing=0))  # type: ignore[arg-type]
    events = hidden(simulated)
    noise = events["added"].to_numpy()
    assert noise.std() == pytest.approx(2, rel=0.05)
    assert abs(noise.mean()) < 0.05
    outliers = (np.abs(noise) > 4 * 2).mean()
    fashion = simulated.people.fashion_TI[events["slice"].to_numpy(), events["column"].to_numpy()]
    dull, hot = (noise[fashion < np.quantile(fashion, 0.1)].std(), noise[fashion > np.quantile(fashion, 0.9)].std())
    assert (outliers > 2e-3) == (kind == "heavy")
    assert (hot > 2 * dull) == (kind == "fashion")


def test_signal_scales_the_true_reward() -> None:
    def shown(signal: float) -> tuple[float, float]:
        events = simulate(World(signal=signal, circumstance=0)).events.drop_nulls("reward")
        truth, reward = events["true_reward"].to_numpy(), events["reward"].to_numpy()
        return np.polyfit(truth, reward, 1)[0], truth.std()

    for signal in (0, 1, 2):
        slope, spread = shown(signal)
        assert slope == pytest.approx(signal, abs=0.05)
        assert spread > 0.5  # the truth itself stays


def test_habit_narrows_the_items_of_a_user() -> None:
    def likeness(habit: float) -> float:
        simulated = simulate(World(habit=habit))
        ordered = hidden(simulated).sort("user", "timestamp")
        place = simulated.people.position_ID[ordered["column"].to_numpy()]
        place /= np.linalg.norm(place, axis=1, keepdims=True)
        user = ordered["user"].to_numpy()
        return float((place[1:] * place[:-1]).sum(axis=1)[user[1:] == user[:-1]].mean())

    assert likeness(0) < 0.05
    assert 0.2 < likeness(5) < likeness(10)


def test_fashion_concentrates_choices_on_items_in_fashion() -> None:
    def followed(fashion: float) -> tuple[float, float]:
        simulated = simulate(World(fashion=fashion))
        events = hidden(simulated)
        vogue_TI = simulated.people.fashion_TI - simulated.people.fashion_TI.mean(axis=0)
        now = vogue_TI[events["slice"].to_numpy(), events["column"].to_numpy()].mean()
        return gini(events["column"].to_numpy()), float(now)

    (flat, none), (steep, some) = followed(0), followed(5.5)
    assert flat < 0.45 < 0.55 < steep
    assert abs(none) < 0.01
    assert some > 0.05


def test_confounding_ties_items_to_the_circumstance() -> None:
    """The mean reward of an item is then off by the circumstance that it is seen in."""

    def bias(confounding: float) -> tuple[float, float]:
        simulated = simulate(World(circumstance=1.5, confounding=confounding, noise=0.5, generosity=0))
        events = hidden(simulated).drop_nulls("reward")
        column, added = events["column"].to_numpy(), events["added"].to_numpy()
        added = added - added.mean()
        known = np.bincount(column, minlength=600) > 10
        mean_I = np.bincount(column, added, minlength=600)[known] / np.bincount(column, minlength=600)[known]
        towards = np.corrcoef(mean_I, simulated.people.affinity_I[known])[0, 1]
        return covariance_within(column, added), float(towards)

    (none, neither), (much, towards) = bias(0), bias(2)
    assert none < 0.05
    assert abs(neither) < 0.15
    assert much > 0.5
    assert towards > 0.7


def test_random_exposure_is_uniform_over_new_items() -> None:
    simulated = simulate(World(random=0.3, missing=0))
    events = hidden(simulated).sort("user", "timestamp")
    events = events.with_columns(had=pl.int_range(pl.len()).over("user"))
    drawn, chosen = events.filter("is_random"), events.filter(~pl.col("is_random"))
    assert len(drawn) / len(events) == pytest.approx(0.3, abs=0.01)
    assert (drawn["propensity"] * (600 - drawn["had"])).to_list() == pytest.approx([1] * len(drawn))
    assert chosen["propensity"].null_count() == len(chosen)
    counts = np.bincount(drawn["column"].to_numpy(), minlength=600)
    assert counts.max() < 4 * counts.mean()  # no fashion
    # by chance nobody finds what is good: the mean satisfaction of a random pair is 0, of what users choose it is not
    assert abs((drawn["true_reward"].mean() - MEAN) / SD) < 0.15 < (chosen["true_reward"].mean() - MEAN) / SD
    assert events.select("user", "item").n_unique() == len(events)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"users": 9}, "users"),
        ({"items": 19}, "items"),
        ({"events": 399}, "events"),
        ({"events": 400 * 300 + 1}, "events"),
        ({"habit": float("nan")}, "habit"),
        ({"fashion": float("inf")}, "fashion"),
        ({"missing": 0.95}, "missing"),
        ({"random": 1.1}, "random"),
        ({"seed": -1}, "seed"),
    ],
)
def test_world_settings_out_of_range_are_refused(setting: dict[str, float], key: str) -> None:
    with pytest.raises(InputError, match=f"^{key}: ") as caught:
        World(**setting)  # type: ignore[arg-type]
    assert caught.value.remedy
