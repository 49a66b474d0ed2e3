"""Rewards are chosen on validation, and the test is opened for the chosen one and the log's own alone."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from reward_choice import ROWS, START, candidate, chosen

GAINS = {("own", "validation"): 0.1, ("other", "validation"): 0.2, ("own", "test"): 0.3, ("other", "test"): 0.25}


def events() -> pl.DataFrame:
    """Two seeds of four users; `other` gains more on validation and less on the test, by its own `high` everywhere."""
    frames = []
    for seed, reward, part, row in itertools.product((0, 1), ("own", "other"), ("validation", "test"), (START, *ROWS)):
        gain = 0.0 if row == START else GAINS[reward, part]
        frame = pl.DataFrame({"user": [0, 1, 2, 3], "event": [5, 6, 7, 8], "high": [True, None, False, True]})
        if reward == "other":
            frame = frame.with_columns(high=pl.lit(True))
        value = pl.when("high").then(0.2 + gain).otherwise(0.2) if reward == "own" else pl.lit(0.2 + gain)
        cell = {"row": row, "part": part, "reward": reward, "seed": seed}
        frames.append(
            frame.with_columns(all=value, judge=value, unit=pl.lit(2.0)).with_columns(
                **{name: pl.lit(one) for name, one in cell.items()}
            )
        )
    return pl.concat(frames)


def test_the_chosen_reward_and_the_logs_own_are_shown_on_the_test_and_no_other():
    found = chosen(events(), "small", ["own", "other"], [0, 1])
    mean = {(one["row"], one["metric"]): one["mean"] for one in found.iter_rows(named=True)}
    best, own = "asft, other (chosen)", "asft, own"
    assert mean[own, "validation/high/ndcg@10"] == pytest.approx(0.1)
    assert mean[best, "validation/high/ndcg@10"] == pytest.approx(0.2)
    assert mean[own, "test/high/ndcg@10"] == pytest.approx(0.3)
    assert mean[best, "test/high/ndcg@10"] == pytest.approx(0.25)
    assert mean[best, "test/high/ndcg@10/minus_own"] == pytest.approx(-0.05)
    assert mean[own, "test/all/ndcg@10"] == pytest.approx(0.15)  # half of the events are high by the log's own reward
    assert mean[best, "test/all/ndcg@10"] == pytest.approx(0.25)
    assert mean[best, "test/judge@10"] == pytest.approx(0.125)


def test_of_a_reward_that_was_not_chosen_the_test_stays_closed():
    third = events().filter(pl.col("reward") == "own").with_columns(reward=pl.lit("third"))
    found = chosen(pl.concat([events(), third]), "small", ["own", "other", "third"], [0, 1])
    assert set(found.filter(pl.col("row").str.contains("third"))["metric"]) == {"validation/high/ndcg@10"}


def test_candidates_are_settings_of_the_data():
    assert candidate("kuairand-pure-excerpt", "long_view") == {"reward": "long_view", "relative_to": None}
    relative = candidate("kuairand-pure-excerpt", "relative")
    assert relative["relative_to"] == {"column": "duration_ms", "bins": 10}
