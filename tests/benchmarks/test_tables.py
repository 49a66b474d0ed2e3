"""Rows that the benchmark scripts save."""

import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import tables


def test_a_row_is_saved_in_place_of_its_earlier_figures_and_beside_other_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tables.save_row("some", "log", "other", [{"ndcg": 0.5}], [0])
    tables.save_row("some", "log", "own", [{"ndcg": 0.9, "gone": 1.0}], [0])
    saved = pl.read_csv(tables.save_row("some", "log", "own", [{"ndcg": 0.1}, {"ndcg": 0.3}], [0, 1]))
    assert tuple(saved.columns) == tables.SCHEMA
    assert saved.select("row", "metric", "seeds").rows() == [("other", "ndcg", "0"), ("own", "ndcg", "0 1")]
    assert saved["mean"].to_list() == pytest.approx([0.5, 0.2])
    assert saved["sd"].to_list() == [None, pytest.approx(0.1 * 2**0.5, abs=1e-6)]
