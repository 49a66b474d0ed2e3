"""What a table says of the NDCG budget, by hand."""

import polars as pl

from benchmarks.methods.run import prices


def test_a_row_without_a_ray_and_one_that_ended_before_the_price_are_named():
    """However much is kept: a row may keep more because few events tell, and is at the NDCG budget all the same."""
    reaches = {"rerank": (0.3, 4.0), "bc": (4.0, 4.0), "asft": (0.5, 0.6)}
    rows = [(row, str(seed), "policy/alpha", at) for row, both in reaches.items() for seed, at in enumerate(both)]
    rows += [(row, "all", "policy/alpha", sum(both) / 2) for row, both in reaches.items()]
    rows += [(row, "all", "policy/ndcg_retained", 0.99) for row in ("popularity", "start", *reaches)]
    table = pl.DataFrame(rows, schema=["method", "seed", "metric", "value"], orient="row")
    found = ["- Price not reached: `rerank` (1 of 2 seeds), `bc` (2 of 2 seeds)", "- Unpriced: `popularity`"]
    assert prices(table) == found
    assert prices(table.filter(pl.col("method").is_in(["start", "asft"]))) == []
