"""Counts of trials: added up by test, replaced where a test runs again, kept where it does not."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl
import pytest
import trials


def report(test: str, count: int, failed: bool = False) -> SimpleNamespace:
    """What pytest reports of a test that has made so many trials."""
    made = [("trials", ["Kept", "kills", 1])] * count
    return SimpleNamespace(when="call", nodeid=test, failed=failed, user_properties=[*made, ("other", 1)])


def test_trials_of_tests_that_ran_replace_theirs_alone(tmp_path, monkeypatch: pytest.MonkeyPatch):
    pages = []
    monkeypatch.setattr(trials.TrialCounts, "write_page", lambda counts: pages.append(counts))
    file = tmp_path / "promises.csv"
    for reports in ([report("a", 3), report("b", 2)], [report("b", 5, failed=True)], []):
        counts = trials.TrialCounts(file)
        for one in reports:
            counts.pytest_runtest_logreport(one)
            counts.pytest_runtest_logreport(SimpleNamespace(**{**vars(one), "when": "teardown"}))
        counts.pytest_sessionfinish()
    saved = pl.read_csv(file)
    assert saved.select("promise", "faults", "test", "trials", "failed").rows() == [
        ("Kept", "kills", "a", 3, 0),
        ("Kept", "kills", "b", 5, 1),
    ]
    assert len(pages) == 2
