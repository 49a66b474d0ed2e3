"""What a table says of the price, by hand."""

import sys
from pathlib import Path

import polars as pl

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from methods import prices


def test_a_row_without_a_ray_and_one_above_the_price_are_named():
    kept = {"start": 1.0, "rerank": 0.971, "bc": 0.99, "asft": 0.9751}
    rows = [(row, "policy/kept", share) for row, share in kept.items()]
    rows += [(row, "all/ndcg@10", 0.1) for row in ("popularity", *kept)]
    table = pl.DataFrame(rows, schema=["row", "metric", "mean"], orient="row")
    assert prices(table) == ["- Price not reached: `bc` (0.990), `asft` (0.975)", "- Unpriced: `popularity`"]
    assert prices(table.filter(pl.col("row").is_in(["start", "rerank"]))) == []
