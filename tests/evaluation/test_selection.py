"""What is chosen follows from validation figures, by hand; they are measured once."""

from __future__ import annotations

import polars as pl
import pytest
import small
import torch
from compared import run_of

from recalign.evaluation.comparison import NDCG_ALL, NDCG_HIGH
from recalign.evaluation.selection import SELECT, choose, measured, validate
from recalign.reward import RewardData

HOW = {"device": torch.device("cpu"), "code": "code"}


def trial(share: float, value: float, high: float = 0.0, error: float = 0.0) -> dict[str, float]:
    return {"policy/ndcg_retained": share, "policy/ndcg_retained_se": error, SELECT: value, NDCG_HIGH: high}


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([trial(1.0, 3.0), trial(1.0, 4.0), trial(1.0, 3.5)], 1),
        ([trial(1.0, 3.0), trial(0.964, 4.0), trial(0.966, 3.5)], 2),  # 97 %, to within half a percent
        ([trial(1.0, 3.0), trial(0.98, 4.0, error=0.03), trial(0.98, 3.5, error=0.01)], 2),  # one is not sure enough
        ([trial(0.5, 3.0), trial(0.8, 2.0), trial(0.7, 9.0)], 1),  # nobody keep the NDCG budget: the closest
        ([trial(1.0, 4.0), trial(1.0, 4.0)], 0),
    ],
)
def test_the_best_value_at_the_price_is_chosen(trials, chosen):
    assert choose(dict(enumerate(trials)), keep=0.97) == chosen


def test_figures_are_means_over_their_own_events():
    events = pl.DataFrame(
        {"rank": [1, 3, 0], "high": [False, True, True], "select_judge@10": [3.0, 4.0, 5.0], "kl": [0.0, 0.1, 0.2]}
    )
    assert measured(events) == pytest.approx(
        {NDCG_ALL: 0.5, NDCG_HIGH: 0.25, SELECT: 4.0, "policy/kl": 0.1}  # NDCG of rank 3 is 1 / log2(4)
    )


def test_settings_are_measured_once(log_root, base, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    places = {tmp_path / str(strength): run_of("rerank", strength=strength) for strength in (0.5, 2.0)}
    weak, strong = validate(places, base, data, **HOW)
    assert strong[SELECT] > weak[SELECT] + 0.02
    assert strong["policy/kl"] > weak["policy/kl"] > 0
    assert strong["policy/ndcg_retained"] != weak["policy/ndcg_retained"] > 0 < weak["policy/ndcg_retained_se"]
    stamps = [(place / "validation/figures.json").stat().st_mtime_ns for place in places]
    assert validate(places, base, data, **HOW) == [weak, strong]
    assert [(place / "validation/figures.json").stat().st_mtime_ns for place in places] == stamps
    places[tmp_path / "0.5"] = run_of("rerank", strength=2.0)
    assert validate(places, base, data, **HOW) == [strong, strong]
