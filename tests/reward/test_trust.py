"""May a reward model be believed? The figures by hand, and the verdicts at their thresholds."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from recalign.reward.trust import IMPLICATION, Trust, report, trust_of, write_trust


def trust(rmse: float, r2: float, user_item: float = 1.0, of_global: float = 1.2) -> Trust:
    means = {"global": of_global, "user": 1.1, "item": 1.1, "user_item": user_item}
    return Trust(events=10, rmse=rmse, mae=rmse / 2, r2=r2, rmse_of=means)


def test_by_hand():
    expected = pl.DataFrame(
        {
            "reward": [1.0, 2.0, 3.0, 6.0],
            "global": [3.0] * 4,
            "user": [1.0, 2.0, 3.0, 4.0],
            "item": [2.0, 3.0, 4.0, 7.0],
            "user_item": [1.0, 2.0, 3.0, 6.0],
        }
    )
    measured = trust_of(expected, np.array([2.0, 2.0, 3.0, 4.0], np.float32))
    assert measured.events == 4
    assert measured.rmse == pytest.approx((5 / 4) ** 0.5)
    assert measured.mae == pytest.approx(3 / 4)
    assert measured.r2 == pytest.approx(1 - (5 / 4) / (14 / 4))
    assert measured.rmse_of == pytest.approx({"global": 3.5**0.5, "user": 1.0, "item": 1.0, "user_item": 0.0})
    assert measured.figures()["rmse_user"] == pytest.approx(1.0)


def test_the_global_mean_explains_nothing():
    rewards = [1.0, 2.0, 6.0]
    expected = pl.DataFrame({"reward": rewards} | {name: [3.0] * 3 for name in ("global", "user", "item", "user_item")})
    measured = trust_of(expected, np.full(3, 3.0))
    assert measured.r2 == pytest.approx(0)
    assert measured.reliability == 0
    assert measured.verdict == "no_signal"
    assert trust_of(expected, np.array(rewards)).verdict == "strong"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (trust(1.0, r2=0.0, user_item=1.1), "no_signal"),
        (trust(1.0, r2=-0.4, user_item=1.1), "no_signal"),
        (trust(1.2, r2=0.3, user_item=1.3), "no_signal"),
        (trust(1.19, r2=0.01), "weak"),
        (trust(0.98, r2=0.9), "weak"),
        (trust(0.979, r2=0.499), "moderate"),
        (trust(0.979, r2=0.5), "strong"),
    ],
)
def test_verdicts_at_their_thresholds(measured, verdict):
    assert measured.verdict == verdict


def test_reliability_is_a_share():
    assert trust(1.0, r2=-3).reliability == 0
    assert trust(1.0, r2=0.4).reliability == 0.4


def test_every_verdict_has_its_implication_in_the_report(tmp_path):
    weak, strong = trust(1.0, r2=0.1), trust(0.5, r2=0.8)
    write_trust(tmp_path / "run", {"validation": weak, "test": strong})
    written = json.loads((tmp_path / "run" / "trust.json").read_text())
    assert written == report({"validation": weak, "test": strong})
    assert written["verdict"] == "weak"
    assert written["implication"] == IMPLICATION["weak"]
    assert written["judged_on"] == "validation"
    assert written["test"]["r2"] == 0.8
    assert report({"test": strong})["verdict"] == "strong"
