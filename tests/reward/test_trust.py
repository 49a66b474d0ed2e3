"""May a reward model be believed? The figures by hand, their rivals, and the verdicts at their thresholds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.bootstrap import CrossedBootstrap, Estimate
from recalign.data.sequences import High
from recalign.errors import InputError
from recalign.files import sha256, write_json
from recalign.reward import RewardData
from recalign.reward.trust.measures import (
    FIGURES,
    calibration,
    differences,
    following,
    measure,
    prediction_errors,
)
from recalign.reward.trust.report import TRUST, compare_predictions, fit_ridge_and_factors, read_trust, report
from recalign.reward.trust.verdict import (
    AVERAGES,
    IMPLICATION,
    noise,
    repeat_variance,
    repeated_share,
    verdict,
)


def test_prediction_errors_values():
    expected = pl.DataFrame(
        {
            "reward": [1.0, 2.0, 3.0, 6.0],
            "global": [3.0] * 4,
            "user": [1.0, 2.0, 3.0, 4.0],
            "item": [2.0, 3.0, 4.0, 7.0],
            "user_item": [1.0, 2.0, 3.0, 6.0],
        }
    )
    measured = prediction_errors(expected, pl.Series([2.0, 2.0, 3.0, 4.0], dtype=pl.Float32))
    own = {"rmse": (5 / 4) ** 0.5, "mae": 3 / 4, "r2": 1 - (5 / 4) / (14 / 4)}
    means = {"rmse_global": 3.5**0.5, "rmse_user": 1.0, "rmse_item": 1.0, "rmse_user_item": 0.0}
    assert measured == pytest.approx(own | means)


def test_read_trust_refuses_an_altered_report(tmp_path):
    assert read_trust(tmp_path) == {}
    write_json(tmp_path / TRUST, {"verdict": "weak"})
    write_json(tmp_path / "manifest.json", {"digests": {TRUST: sha256(tmp_path / TRUST)}})
    assert read_trust(tmp_path) == {"verdict": "weak"}
    write_json(tmp_path / TRUST, {"verdict": "strong"})
    with pytest.raises(InputError, match=r"trust\.json: was changed after its run: SHA-256 differs"):
        read_trust(tmp_path)


# -- measures


def measured(user, reward, high, predicted, ahead=None, draws=200):
    """One predictor's figures; without moments of its own, its predictions hold at all times."""
    user, reward, high, predicted = (np.asarray(x) for x in (user, reward, high, predicted))
    if ahead is None:
        own = following(predicted.astype(float), 3) - predicted[:, None]
        ahead = np.where(following(user.astype(float), 3) == user[:, None], own, np.nan)
    bootstrap = CrossedBootstrap(int(user.max()) + 1, draws)
    return measure(user, reward.astype(float), high, {"model": predicted.astype(float)}, {"model": ahead}, bootstrap)[
        "model"
    ]


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_measure_equals_textbook_formulas(seed):
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, 6, 40))
    user = np.unique(user, return_inverse=True)[1]
    reward, predicted = rng.integers(1, 6, 40).astype(float), rng.integers(0, 8, 40) / 2
    high = reward >= 4
    found = measured(user, reward, high, predicted)
    error = predicted - reward
    assert found["rmse"].value == pytest.approx(np.mean(error**2) ** 0.5)
    assert found["mae"].value == pytest.approx(np.abs(error).mean())
    assert found["r2"].value == pytest.approx(1 - np.mean(error**2) / reward.var())
    ranks = [pl.Series(x).rank("average").to_numpy() for x in (reward, predicted)]
    assert found["spearman"].value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    gaps = predicted[high][:, None] - predicted[~high]
    assert found["auc"].value == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    right = total = 0.0
    for i in range(40):
        for j in range(i + 1, min(i + 4, 40)):
            if user[i] == user[j] and reward[i] != reward[j]:
                total += 1
                right += 0.5 + 0.5 * np.sign(reward[j] - reward[i]) * np.sign(predicted[j] - predicted[i])
    assert found["pairwise"].value == pytest.approx(right / total if total else float("nan"), nan_ok=True)


def test_measure_intervals_cover_and_differences_are_paired():
    """With 200 users the interval of the RMSE covers the noise that was put in, and a shift of both cancels."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 5)
    truth = rng.normal(size=1000)
    reward = truth + 0.5 * rng.normal(size=1000) + rng.normal(size=200)[user]
    bootstrap = CrossedBootstrap(200, 500)
    predicted = {"model": truth, "same": truth, "worse": truth + 0.3 * rng.normal(size=1000)}
    ahead = {name: following(x, 3) - x[:, None] for name, x in predicted.items()}
    table = measure(user, reward, reward > 1, predicted, ahead, bootstrap)
    low, high = table["model"]["rmse"].interval()
    assert low < 1.25**0.5 < high
    difference = differences(table)
    assert set(difference) == {"same", "worse"}
    for figure in FIGURES:
        assert difference["same"][figure].interval() == (0, 0)
    low, high = difference["worse"]["rmse"].interval()
    assert high < 0
    assert high - low < 0.5 * (table["worse"]["rmse"].interval()[1] - table["worse"]["rmse"].interval()[0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e5 / 3])
def test_measure_of_equal_rewards_is_nan(value):
    """Their variance, taken from rounded sums, is not 0, and R2 was -1e16."""
    rewards = [value] * 11
    found = measured(np.arange(11) % 3 * 0, rewards, [False] * 11, [value + 0.5] * 11)
    assert np.isnan(found["r2"].value)
    assert np.isnan(found["r2"].draws_D).all()
    expected = pl.DataFrame(dict.fromkeys(("reward", "global", "user", "item", "user_item"), rewards))
    assert np.isnan(prediction_errors(expected, pl.Series([value + 0.5] * 11))["r2"])


# -- baselines


def factored(users=80, items=60, noise=0.3, seed=0):
    """A log in which users and items have levels and a taste of rank 2; the last tenth of each user is validation."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    level, quality = 0.7 * rng.normal(size=users), 0.7 * rng.normal(size=items)
    rows = []
    for user in range(users):
        for n, item in enumerate(rng.permutation(items)[:40]):
            mean = 3 + level[user] + quality[item] + p[user] @ q[item]
            rows.append((user, int(item) + 1, int(n >= 36), mean + noise * rng.normal()))
    return pl.DataFrame(rows, schema=["user", "item_id", "split", "reward"], orient="row").with_row_index("event")


def rmse(frame, column):
    part = frame.filter(pl.col("split") == 1)
    return float(((part["reward"] - part[column]) ** 2).mean() ** 0.5)


def test_a_factorisation_finds_levels_and_taste():
    frame = factored()
    joined = frame.join(fit_ridge_and_factors(frame, 60), on="event").with_columns(
        pl.lit(frame["reward"].mean()).alias("global")
    )
    assert rmse(joined, "factors") < 0.55 < 1.2 < rmse(joined, "ridge") < rmse(joined, "global")


def test_simple_predictors_see_earlier_rewards_only():
    frame = factored(users=10)
    event = frame.filter(pl.col("split") == 1)["event"][1]
    changed = frame.with_columns(pl.col("reward") + 5 * (pl.col("event") == event))
    before, after = (fit_ridge_and_factors(f, 60) for f in (frame, changed))
    same = (before["ridge"] == after["ridge"]).to_numpy()
    user = frame["user"].to_numpy()
    assert same[: event + 1].all()  # neither the event itself nor what came before
    assert not same[event + 1 : event + 3].any()
    assert same[user != user[event]].all()


# -- calibration


def test_calibration_has_tenths_of_the_predictions():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=20_000)
    bins = pl.DataFrame(calibration(2 * mean, mean + rng.normal(size=20_000))["bins"])
    assert bins["events"].to_list() == [2_000] * 10
    assert bins["predicted"].is_sorted()
    assert ((bins["predicted"] - 2 * bins["observed"]).abs() < 0.2).all()


# -- verdicts


def estimate(value, spread=0.001):
    return Estimate(value, value + spread * np.linspace(-1, 1, 201))


def verdict_of(rmse, r2, pairwise=0.7, of_global=1.2, average=1.0, spread=0.001):
    table = {name: {"rmse": estimate(average + 0.05)} for name in AVERAGES}
    table |= {"user_item": {"rmse": estimate(average)}, "global": {"rmse": estimate(of_global)}}
    table["model"] = {
        "rmse": estimate(rmse, spread),
        "r2": estimate(r2, spread),
        "pairwise": estimate(pairwise, spread),
    }
    return verdict(table)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rmse": 0.5, "r2": 0.8, "pairwise": 0.5}, "no_signal"),  # nothing about a user's choice
        ({"rmse": 0.5, "r2": 0.8, "pairwise": 0.6, "spread": 0.2}, "no_signal"),  # perhaps by chance
        ({"rmse": 1.2, "r2": 0.1}, "no_signal"),
        ({"rmse": 1.19, "r2": 0.1}, "weak"),
        ({"rmse": 0.985, "r2": 0.6}, "weak"),  # averages do as well
        ({"rmse": 0.97, "r2": 0.19}, "weak"),
        ({"rmse": 0.97, "r2": 0.6, "spread": 0.05}, "weak"),  # perhaps no better than averages
        ({"rmse": 0.97, "r2": 0.49}, "moderate"),
        ({"rmse": 0.97, "r2": 0.53, "spread": 0.02}, "strong"),
        ({"rmse": 0.5, "r2": 0.8, "pairwise": np.nan}, "not_measured"),  # no user has two events
        ({"rmse": 0.5, "r2": np.nan}, "not_measured"),  # all rewards are the same
        ({"rmse": 0.5, "r2": -np.inf}, "not_measured"),
        ({"rmse": np.nan, "r2": 0.8}, "not_measured"),
        ({"rmse": 0.5, "r2": 0.8, "of_global": np.nan}, "not_measured"),
    ],
)
def test_verdict_thresholds(settings, said):
    assert verdict_of(**settings) == said
    assert IMPLICATION[said]


@pytest.mark.parametrize(
    ("error", "verdict", "unit", "zero"), [(0.5, "strong", 64.0, -320.0), (3.0, "no_signal", 0.125, 10.0)]
)
def test_report_does_not_depend_on_unit_and_zero_of_the_reward(log_root, error, verdict, unit, zero):
    one, other = (said_in_units(log_root, error, *units) for units in ((1.0, 0.0), (unit, zero)))
    assert one["verdict"] == other["verdict"] == verdict
    assert other["reliability"] == pytest.approx(one["reliability"], abs=1e-4)
    assert other["noise"]["sd"] == pytest.approx(one["noise"]["sd"] * unit, rel=1e-4)
    for of in ("table", "differences"):
        for name, row in one["validation"][of].items():
            for figure, values in row.items():
                scale = unit if figure in ("rmse", "mae") else 1.0
                found, expected = (np.array(x, float) for x in (other["validation"][of][name][figure], values))
                assert found == pytest.approx(expected * scale, rel=1e-3, abs=1e-3 * scale, nan_ok=True)


def said_in_units(root, error, unit, zero):
    """The report on predictions that err by so much, with rewards in another unit and from another zero."""
    expression = f"rating * CAST({unit} AS DOUBLE) + CAST({zero} AS DOUBLE)"
    data = small.data_of(RewardData, root, "tastes", reward=expression, high=High("rating >= 4"))
    frame, rng = data.sequences.frame, np.random.default_rng(0)
    level = frame["rating"].to_numpy() + error * rng.normal(size=len(frame))

    def predicted(windows):
        level_N = level[windows.event]
        user_N = windows.user.repeat(np.diff(windows.offset))
        same_N = following(user_N.astype(float), 1)[:, 0] == user_N
        ahead_N = np.where(same_N, following(level_N, 1)[:, 0] - level_N, np.nan)
        columns = {"model": level_N * unit + zero, "ahead": ahead_N[:, None] * unit}
        return pl.DataFrame({"event": pl.Series(windows.event).cast(pl.UInt32)} | columns)

    return report(data, compare_predictions(data, predicted, ["validation"]))


# -- noise


def test_noise_from_repeated_events():
    rng = np.random.default_rng(0)
    pair = np.repeat(np.arange(400), 2)
    rated = pl.DataFrame(
        {"user": pair, "item": pair, "reward": 3 * rng.normal(size=400)[pair] + 0.5 * rng.normal(size=800)}
    ).with_columns(timestamp=pl.int_range(pl.len()))
    table = {"model": {"rmse": estimate(0.8)}, "item": {"rmse": estimate(0.9)}}
    found = noise(rated, table, variance=9.25, repeated=0)
    assert found["source"] == "repeats"
    assert found["sd"] == pytest.approx(0.5, abs=0.05)
    assert found["ceiling"] == pytest.approx(1 - 0.25 / 9.25, abs=0.01)
    assert noise(pl.concat([rated, rated]), table, variance=9.25, repeated=1) == found  # every event logged twice
    once = noise(rated.unique("user"), table, variance=1.0, repeated=0)
    assert (once["source"], once["sd"]) == ("floor", 0.8)
    assert once["ceiling"] == pytest.approx(1 - 0.64)


def test_repeat_variance_of_a_part_of_the_log():
    """The count of the whole log was held against the agreeing events of a part, where real rewards fell away."""
    rng = np.random.default_rng(0)
    coins = pl.DataFrame({"user": np.arange(8000) // 2, "item": 1, "timestamp": 0})
    coins = coins.with_columns(reward=pl.Series(rng.integers(0, 2, len(coins)).astype(float)))
    whole = pl.concat([coins, coins.head(800)])  # logged twice
    repeated = repeated_share(whole, 800)
    assert repeated_share(whole.unique(["user", "item"]), 800) == 0  # collapsed
    for part in (whole, whole.filter(pl.col("user").is_in(list(range(200, 1000))))):
        assert repeat_variance(part, repeated) == pytest.approx(0.25, abs=0.03)
