"""Rewards are chosen on validation, and the test is opened for the chosen one and the log's own alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from benchmarks.rewards.run import ROWS, START, candidate, chosen, settings

GAINS = {("own", "validation"): 0.1, ("other", "validation"): 0.2, ("own", "test"): 0.3, ("other", "test"): 0.25}


def events() -> pl.DataFrame:
    """Two seeds of four users. `other` gains more on validation and less on the test, where the log's own `high` is.

    What its own chain says otherwise (high, unit, the cloned policy) must not matter.
    """
    frames = []
    for seed, reward, part, row in itertools.product((0, 1), ("own", "other"), ("validation", "test"), (START, *ROWS)):
        gain = 0.0 if row == START else GAINS[reward, part] + 0.01 * seed
        start = 0.2 if reward == "own" or row != START else 0.7
        cell = {"row": row, "part": part, "reward": reward, "seed": seed, "unit": 2.0 if reward == "own" else 5.0}
        high = [True, None, False, True] if reward == "own" else [False, True, True, False]
        value = [start + gain, start - gain, start, start + gain]
        frame = pl.DataFrame({"user": [0, 1, 2, 3], "event": [5, 6, 7, 8], "high": high, "all": value, "judge": value})
        frames.append(frame.with_columns(**{name: pl.lit(one) for name, one in cell.items()}))
    return pl.concat(frames)


def test_the_chosen_reward_and_the_logs_own_are_shown_on_the_test_and_no_other():
    found = chosen(events(), "small", ["own", "other"], [0, 1])
    mean = {(one["row"], one["metric"]): one["mean"] for one in found.iter_rows(named=True)}
    best, own = "asft, other (chosen)", "asft, own"
    assert mean[own, "validation/high/ndcg@10"] == pytest.approx(0.105)
    assert mean[best, "validation/high/ndcg@10"] == pytest.approx(0.205)
    assert mean[own, "test/high/ndcg@10"] == pytest.approx(0.305)
    assert mean[best, "test/high/ndcg@10"] == pytest.approx(0.255)
    assert mean[best, "test/high/ndcg@10/minus_own"] == pytest.approx(-0.05)
    assert mean[own, "test/all/ndcg@10"] == pytest.approx(0.305 / 4)  # of four events two gain, one loses
    assert mean[best, "test/judge@10"] == pytest.approx(0.255 / 4 / 2)
    low, high = found.filter(row=best, metric="test/high/ndcg@10").select("ci_low", "ci_high").row(0)
    assert low == pytest.approx(0.255 - 0.005 * 2**0.5)  # users gain alike: seeds alone differ
    assert high == pytest.approx(0.255 + 0.005 * 2**0.5)


def test_of_a_reward_that_was_not_chosen_the_test_stays_closed():
    third = events().filter(pl.col("reward") == "own").with_columns(reward=pl.lit("third"))
    found = chosen(pl.concat([events(), third]), "small", ["own", "other", "third"], [0, 1])
    assert set(found.filter(pl.col("row").str.contains("third"))["metric"]) == {"validation/high/ndcg@10"}


def test_candidates_are_settings_of_the_data():
    assert candidate("kuairand-pure-excerpt", "long_view") == {"reward": "long_view", "relative_to": None}
    relative = candidate("kuairand-pure-excerpt", "relative")
    assert relative["relative_to"] == {"column": "duration_ms", "bins": 10}


def test_a_candidate_is_the_reward_of_all_but_the_stages_that_are_shared():
    given = SimpleNamespace(log="kuairand-pure-excerpt", rewards=["ratio", "long_view"], data="logs")
    own, other = (settings(given, Path("runs"), reward, 3) for reward in given.rewards)
    assert own["data"] == {"root": "logs"}
    assert other["data"] == {"root": "logs", "reward": "long_view", "relative_to": None}
    ratio = candidate(given.log, "ratio")
    assert {stage: one.get("data") for stage, one in other["stages"].items()} == {
        "recommender": ratio,
        "judge_select": ratio,
        "judge_report": ratio,
        "reward": None,
    }
    assert not any("data" in one for one in own["stages"].values())
    assert (other["seeds"], other["name"], other["root"]) == ([3], "long_view", "runs")
