"""How many events are read, chosen on validation."""

from __future__ import annotations

import numpy as np
import pytest
import small

from recalign.errors import InputError
from recalign.recommender import RecommenderData
from recalign.serve.export.cap import capped, caps, chosen, paired, tried
from recalign.serve.server import load_bundle


def test_the_caps_end_with_what_the_policy_reads():
    assert tried(200) == [20, 50, 100, 200]
    assert tried(32) == [20, 32]
    assert tried(10) == [10]


def test_a_difference_and_its_error_by_hand():
    """Users 5 and 9 with gains {1, 3} and {8}: mean 4, residuals 4 - 2 * 4 = -4 and 8 - 4 = 4; over 3 events."""
    mean, error = paired(np.array([1.0, 8.0, 3.0]), np.array([5, 9, 5]))
    assert mean == 4
    assert error == pytest.approx(np.sqrt((16 + 16) * 2 / 1) / 3)


def test_the_smallest_within_one_standard_error_of_the_best_is_taken():
    user_T = np.arange(100) // 2
    best_T = np.tile([0.2, 0.4], 50)
    noisy_T = best_T + np.where(user_T % 2, 0.1, -0.11)  # behind by .005, with an error of .015
    steady_T = best_T - 0.005  # behind by as much, without an error
    found = chosen({20: steady_T, 50: noisy_T, 100: best_T, 200: best_T - 0.1}, user_T)
    assert [one.newest for one in found if one.chosen] == [50]
    assert [round(one.behind, 6) for one in found] == [0.005, 0.005, 0, 0.1]
    assert found[1].error == pytest.approx(0.105 * np.sqrt(50 / 49) / np.sqrt(50))
    assert [one.newest for one in chosen({20: best_T, 50: best_T}, user_T) if one.chosen] == [20]  # of equals


def test_a_bundle_is_asked_with_each_cap(bundled, log_root):
    bundle, data = load_bundle(bundled), small.data_of(RecommenderData, log_root, "tastes", users="all")
    found = caps(data, bundle)
    assert [one.newest for one in found] == [20, 32]
    assert found[0].ndcg == found[1].ndcg  # no user of this log has more than 20 events
    assert [one.chosen for one in found] == [True, False]
    one = capped(bundle, 3)
    long = {"items": [3, 5, 7, 9, 11], "times": list(range(5))}
    assert one.recommend(long).left_out.older == 2
    assert bundle.recommend(long).left_out.older == 0  # which is as it was
    worse = [each.ndcg for each in caps(data, capped(bundle, 1))]
    assert worse[0] != found[0].ndcg


def test_without_validation_there_is_nothing_to_choose_on(bundled, log_root, monkeypatch):
    data = small.data_of(RecommenderData, log_root, "tastes", users="all")
    monkeypatch.setattr("recalign.serve.export.verify.sample_users", lambda sequences, users, number, part: ~users)
    with pytest.raises(InputError, match="no validation event has a history"):
        caps(data, load_bundle(bundled))
