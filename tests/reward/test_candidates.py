"""Candidate rewards: do the estimators find what a made-up log was made of, and is the test split left alone?"""

from __future__ import annotations

import featured
import numpy as np
import polars as pl
import pytest
import small

from recalign.data.sequences import EventDataModule, High, TimeSplit
from recalign.data.sequences.splits import TEST, TRAIN, VALIDATION
from recalign.errors import InputError
from recalign.reward.candidates import compare_log_rewards, compare_rewards
from recalign.reward.candidates.statistics import split_half_reliability
from recalign.reward.candidates.text import render
from recalign.reward.candidates.values import Candidate, RelativeTo, candidate_values, with_own_reward
from recalign.reward.trust.report import MIN_USERS
from recalign.run.commands import rewards as command

USERS, ITEMS = 300, 60


def effects(rng, users=USERS, items=ITEMS, events=20_000, of_user=0.7, of_item=0.5, rest=1.0):
    """Users, items, and rewards of known standard deviations; items differ in popularity, users in activity."""
    popularity, activity = (1 / np.arange(2, n + 2) ** 0.5 for n in (items, users))
    item_N = rng.choice(items, events, p=popularity / popularity.sum())
    user_N = rng.choice(users, events, p=activity / activity.sum())
    user_U, item_I = of_user * rng.normal(size=users), of_item * rng.normal(size=items)
    return user_N, item_N, 3 + user_U[user_N] + item_I[item_N] + rest * rng.normal(size=events)


# -- estimators


@pytest.mark.parametrize("events_an_item", [8, 40])
def test_split_half_reliability_equals_the_formula(events_an_item):
    """Every event by another user: sigma_b^2 / (sigma_b^2 + (sigma_a^2 + sigma_e^2) / n)."""
    rng, items = np.random.default_rng(2), 2000
    item_N = np.repeat(np.arange(items), events_an_item)
    user_N = np.arange(len(item_N))
    value_N = 0.5 * rng.normal(size=items)[item_N] + rng.normal(size=len(item_N)) * (0.49 + 1) ** 0.5
    expected = 0.25 / (0.25 + 1.49 / events_an_item)
    assert split_half_reliability(user_N, item_N, value_N) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("of_user", [0.0, 2.0])
def test_split_half_reliability_of_noise_is_zero(of_user):
    """Even where users differ much and come back to the same items: halves are of users."""
    found = []
    for seed in range(10):
        user_N, item_N, value_N = effects(np.random.default_rng(seed), items=200, of_user=of_user, of_item=0.0)
        again = np.concatenate([user_N, user_N]), np.concatenate([item_N, item_N])
        found.append(split_half_reliability(*again, np.concatenate([value_N, value_N])))
    assert np.mean(found) < 0.1


# -- comparison


def events(seed=0, users=USERS, each=30) -> pl.DataFrame:
    """Events as in `Sequences.frame`: ``good`` and ``proxy`` share items' effects, ``noise`` has none."""
    rng = np.random.default_rng(seed)
    user_N = np.repeat(np.arange(users), each)
    item_N = rng.integers(0, ITEMS, len(user_N))
    effect_I, at_N = rng.normal(size=ITEMS), np.tile(np.arange(each), users)
    draw = [rng.normal(size=len(user_N)) for _ in range(4)]
    split = np.where(at_N < each - 8, TRAIN, np.where(at_N < each - 4, VALIDATION, TEST))
    length_N = 10.0 + item_N % 7
    return pl.DataFrame(
        {
            "event": pl.Series(np.arange(len(user_N)), dtype=pl.UInt32),
            "user": pl.Series(user_N, dtype=pl.UInt32),
            "item": pl.Series(item_N, dtype=pl.UInt32),
            "item_id": pl.Series(item_N + 1, dtype=pl.Int32),
            "timestamp": 1000 + at_N,
            "row": pl.Series(np.arange(len(user_N)) + 1, dtype=pl.UInt32),
            "split": pl.Series(split, dtype=pl.UInt8),
            "good": effect_I[item_N] + draw[0],
            "proxy": (effect_I[item_N] + 2 * draw[1] > 0).astype(int),
            "bad": -effect_I[item_N] + draw[2],
            "noise": draw[3],
            "watched": length_N * (1 + 0.2 * draw[0]),
            "length": length_N,
            "word": "x",
        }
    )


def named(**expressions: str) -> dict[str, Candidate]:
    return {name: Candidate(one) for name, one in expressions.items()}


ALL = named(good="good", proxy="proxy", bad="bad", noise="noise")


@pytest.fixture(scope="module")
def compared():
    return compare_rewards(events(), ALL, "length")


def figure(found, reward, name, other=None):
    row = found.filter(reward=reward, figure=name).filter(pl.col("other").eq_missing(other))
    return row.select("value", "ci_low", "ci_high").row(0)


def test_training_figures_use_training_rows():
    frame = events()
    known = pl.when(pl.col("row") % 3 == 0).then(pl.col("good"))
    found = compare_rewards(frame.with_columns(rare=known), named(rare="rare"))
    train = frame.filter(split=TRAIN, good=pl.col("good")).filter(pl.col("row") % 3 == 0)["good"]
    expected = {"mean": train.mean(), "sd": train.std(), "min": train.min(), "max": train.max()}
    expected |= {"coverage/events": len(train) / (USERS * 22), "coverage/users": 1.0, "distinct": len(train)}
    assert {name: figure(found, "rare", name)[0] for name in expected} == pytest.approx(expected)
    assert figure(found, "rare", "most frequent")[0] == pytest.approx(1 / len(train))
    assert (
        figure(found, "rare", "measured events")[0]
        == frame.filter(split=VALIDATION)["row"].is_in(range(0, 10**6, 3)).sum()
    )


def test_agreement_rows_name_ranking_and_judge(compared):
    for ranked in ("good", "proxy"):
        for judge in ("good", "proxy"):
            assert figure(compared, ranked, "pairwise", judge)[1] > 0.5
        assert figure(compared, ranked, "pairwise", "bad")[2] < 0.5
    assert figure(compared, "bad", "pairwise", "good")[2] < 0.5
    low, high = figure(compared, "noise", "pairwise", "noise")[1:]
    assert low < 0.55
    assert high > 0.45
    assert figure(compared, "proxy", "pairwise_minus_own", "good")[2] >= 0  # it is as good a guide
    assert figure(compared, "bad", "pairwise_minus_own", "good")[2] < 0


def test_compare_rewards_exposes_a_useless_reward(compared):
    assert figure(compared, "noise", "reliability")[0] < 0.4
    assert figure(compared, "noise", "r2/item")[0] < 0.01
    assert figure(compared, "good", "reliability")[0] > 0.95
    assert figure(compared, "good", "r2/item")[1] > 0.3
    assert figure(compared, "good", "correlation/item", "proxy")[0] > 0.9
    assert figure(compared, "good", "correlation/item", "bad")[0] < -0.9
    assert abs(figure(compared, "good", "correlation/event", "noise")[0]) < 0.05


def test_agreement_pairwise_values():
    """Item 0 has the better mean. Each user's two validation events are on both; three of four say so."""
    rows = [(u, i, TRAIN, 1.0 - i) for u in range(MIN_USERS) for i in (0, 1, 0)]
    rows += [(u, i, VALIDATION, float((i == 0) == (u % 4 > 0))) for u in range(MIN_USERS) for i in (0, 1)]
    frame = pl.DataFrame(rows, {"user": pl.UInt32, "item": pl.UInt32, "split": pl.UInt8, "r": pl.Float64}, orient="row")
    frame = frame.sort("user", "split", maintain_order=True).with_row_index("row")
    frame = frame.with_columns(timestamp=pl.col("row").cast(pl.Int64), item_id=pl.col("item").cast(pl.Int32) + 1)
    found = compare_rewards(frame, named(r="r"))
    right = sum(u % 4 > 0 for u in range(MIN_USERS)) / MIN_USERS
    assert figure(found, "r", "pairwise", "r")[0] == pytest.approx(right)
    assert "±" in render(found)
    few = compare_rewards(frame.filter(pl.col("user") < MIN_USERS - 1), named(r="r"))
    assert np.isnan(figure(few, "r", "pairwise", "r")[0])
    assert "two validation events that the judge values differently" in render(few)


def test_scaling_a_reward_changes_only_its_moments():
    found = compare_rewards(events(), named(x="good", y="3 * good + 7"), "length")
    moments = ("mean", "sd", "min", "q10", "median", "q90", "max")
    x, y = (
        found.filter(~pl.col("figure").is_in(moments), reward=name).with_columns(
            pl.col("other").replace({"x": "self", "y": "self"})
        )
        for name in ("x", "y")
    )
    columns = ["figure", "other", "value", "ci_low", "ci_high"]
    x, y = (one.select(columns).sort(columns[:2], maintain_order=True) for one in (x, y))
    for column in columns[2:]:
        assert y[column].to_numpy() == pytest.approx(x[column].to_numpy(), rel=1e-6, abs=1e-6, nan_ok=True)
    assert figure(found, "y", "mean")[0] == pytest.approx(3 * figure(found, "x", "mean")[0] + 7)
    assert figure(found, "x", "correlation/event", "y")[0] == pytest.approx(1)


def test_compare_rewards_ignores_test_events():
    """Values that no reward may have, in rows of the test: they would be an error, or change a figure."""
    frame, spoiled = (
        events(),
        events().with_columns(
            *(
                pl.when(pl.col("split") == TEST).then(value).otherwise(pl.col(name)).alias(name)
                for name, value in {"good": float("nan"), "length": 1e9, "item": 0, "user": 0}.items()
            )
        ),
    )
    candidates = {**ALL, "relative": Candidate("watched", RelativeTo("length", 3))}
    one, other = (compare_rewards(of, candidates, "length") for of in (frame, spoiled))
    assert other.equals(one, null_equal=True)
    assert "The test split was not read" in render(one)


def test_training_figures_noise_from_repeats():
    frame = events()
    twice = pl.concat([frame, frame.with_columns(pl.col("timestamp") + 1)]).sort("user", "split", maintain_order=True)
    rng = np.random.default_rng(0)
    twice = twice.with_columns(r=pl.col("item") + pl.Series(rng.normal(size=len(twice))), row=pl.int_range(pl.len()))
    found = compare_rewards(twice, named(r="r", noise="noise"))
    noise, deviation = (figure(found, "r", name)[0] for name in ("noise", "sd"))
    assert noise * deviation**2 == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("case when split = 0 then good end", "reads split, which recalign reserves for its own columns"),
        ("word", "not a number"),
        ("avg(good)", "reads other rows"),
        ("item + good", "reads item, which recalign reserves for its own columns"),
    ],
)
def test_candidate_values_name_an_unusable_candidate(expression, said):
    with pytest.raises(InputError) as error:
        candidate_values(events().filter(pl.col("split") != TEST), named(mine=expression))
    assert error.value.where == "rewards.mine"
    assert said in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize("against", ["word", "nothing", "item", "split"])
def test_compare_rewards_against_needs_a_numeric_column(against):
    with pytest.raises(InputError, match="is not a numeric column"):
        compare_rewards(events(), ALL, against)


def test_with_own_reward_adds_the_logs_reward():
    own = Candidate("stars")
    assert with_own_reward({"a": "x"}, own) == {"reward": Candidate("reward"), "a": Candidate("x")}
    assert with_own_reward({"a": "stars"}, own) == {"a": own}  # the same
    assert list(with_own_reward({"a": "stars"}, Candidate("stars", RelativeTo("length")))) == ["reward", "a"]
    assert with_own_reward({"reward": "x"}, own) == {"reward": Candidate("x")}
    assert with_own_reward({"a": {"reward": 5}}, None) == {"a": Candidate("5")}
    assert with_own_reward({"a": {"reward": "x", "relative_to": {"column": "y", "bins": 4}}}, None) == {
        "a": Candidate("x", RelativeTo("y", 4))
    }
    with pytest.raises(InputError, match="no reward is named"):
        with_own_reward({}, None)


@pytest.mark.parametrize("wrong", [{"rewrad": "x"}, {"reward": "x", "typo": 1}, {"reward": "x", "relative_to": "y"}])
def test_with_own_reward_refuses_wrong_settings(wrong):
    with pytest.raises(InputError, match="does not describe a reward") as error:
        with_own_reward({"a": wrong}, None)
    assert error.value.where == "rewards.a"


# -- command


def test_rewards_command_prints_and_saves(log_root, tmp_path, capsys):
    data = small.data_of(EventDataModule, log_root, "tastes", users="all", high=High("reward >= 4"))
    out = tmp_path / "rewards.csv"
    command(data=data, rewards={"liked": "rating >= 4"}, against="rating", out=out)
    said, saved = capsys.readouterr().out, pl.read_csv(out)
    assert saved.columns == ["reward", "figure", "other", "value", "ci_low", "ci_high"]
    assert set(saved["reward"].drop_nulls()) == {"reward", "liked"}
    assert f"{saved.filter(reward='liked', figure='mean')['value'][0]:.3f}" in said
    assert "Rank correlation with rating" in said
    assert "The test split was not read" in said


def test_compare_log_rewards_leaves_out_cold_items(tmp_path, capsys):
    """Cold items have no mean of their own; they are chosen at the end of this log."""
    data = featured.data_of(featured.write(tmp_path), split=TimeSplit(cuts=[0.9, 0.97]))
    measured = data.sequences.frame.filter(pl.col("split") == VALIDATION)["item_id"]
    cold = int((measured > data.sequences.num_warm).sum())
    assert 0 < cold < len(measured)
    command(data=data, rewards={"best": "rating >= 5"}, out=tmp_path / "found.csv")
    sizes = pl.read_csv(tmp_path / "found.csv").filter(figure="validation events")["value"]
    assert sizes.to_list() == [len(measured) - cold]


def test_compare_log_rewards_correlates_with_the_column_of_high(log_root, capsys):
    high = High(quantile=0.75, within="timestamp_s")
    frame = pl.read_csv(log_root / "tastes.csv").with_columns(timestamp_s=pl.col("timestamp") % 7)
    frame.write_csv(log_root / "lengths.csv")
    command(data=small.data_of(EventDataModule, log_root, "lengths", users="all", high=high))
    assert "Rank correlation with timestamp_s" in capsys.readouterr().out


@pytest.mark.parametrize("apart", [0, 3600])
def test_compare_log_rewards_ignores_duplicate_rows_in_noise(log_root, apart):
    frame = pl.read_csv(log_root / "tastes.csv")
    again = frame.with_columns(pl.col("timestamp") + apart)
    pl.concat([frame, again]).write_csv(log_root / "twice.csv")
    found = compare_log_rewards(small.data_of(EventDataModule, log_root, "twice", users="all"), {})
    noise = figure(found, "reward", "noise")[0]
    assert np.isnan(noise) if apart == 0 else noise == 0  # one reward a pair, or two that agree
