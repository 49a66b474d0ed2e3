"""Rows that the benchmark scripts save."""

import polars as pl
import pytest

from benchmarks import lib
from recalign.evaluation.comparison import SCHEMA


def test_a_row_is_saved_in_place_of_its_earlier_figures_and_beside_other_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(lib, "FOLDER", tmp_path)

    def save(row, cells):
        rows = lib.lines("log", row, lib.by_metric(cells), range(len(cells)))
        return pl.read_csv(lib.save(rows, "some", "log", "row"))

    save("other", [{"ndcg": 0.5}])
    save("own", [{"ndcg": 0.9, "gone": 1.0}])
    saved = save("own", [{"ndcg": 0.1}, {"ndcg": 0.3, "not with every seed": 1.0}])
    assert saved.columns == [*lib.SCHEMA, "versions"]
    assert saved.select("row", "metric", "seeds").rows() == [("other", "ndcg", "0"), ("own", "ndcg", "0 1")]
    assert saved["mean"].to_list() == pytest.approx([0.5, 0.2])
    assert saved["sd"].to_list() == [None, pytest.approx(0.1 * 2**0.5, abs=1e-6)]


def test_what_an_earlier_version_saved_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(lib, "FOLDER", tmp_path)
    old, new = (lib.lines(log, "row", {"ndcg": [0.5]}, [0], made="abc") for log in ("b", "a"))
    old.write_csv(tmp_path / "some.csv")
    for path in (lib.save(new, "some", "log"), lib.save(lib.beside_other_logs(new, "some"), "some")):
        saved = pl.read_csv(path).sort("log")
        assert saved["log"].to_list() == ["a", "b"]
        assert saved["versions"].is_null().to_list() == [False, True]


def test_differences_in_value_are_saved_in_standard_deviations_of_the_reward():
    cells = {
        "diff_start/value/judge@10": (0.2, 0.6, 0.4),
        "value/judge@10": (3.0, 4.0, 3.5),
        "reward/sd": (2.0, 2.0, 2.0),
    }
    found = [
        ("asft", seed, "test", metric, value, value, value)
        for metric, values in cells.items()
        for seed, value in zip(("0", "1", "all"), values, strict=True)
    ]
    saved = lib.summary(pl.DataFrame(found, schema=SCHEMA, orient="row"), "log", list(cells)[:2])
    difference, value = saved.select("metric", "mean", "ci_low", "sd").rows()
    assert difference == ("diff_start/value/judge@10", *(pytest.approx(x) for x in (0.2, 0.2, 0.1 * 2**0.5)))
    assert value == ("value/judge@10", *(pytest.approx(x) for x in (3.5, 3.5, 0.5**0.5)))
