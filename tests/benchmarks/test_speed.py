"""What the benchmark of speed says beside an earlier commit."""

import polars as pl
import pytest

from benchmarks.lib import lines
from benchmarks.speed import run as speed


def rows(a_product: float, made: str) -> pl.DataFrame:
    return lines("simulated", "training", {"a second": [900.0], "a product": [a_product]}, [1], made=made)


@pytest.mark.parametrize(("now", "said"), [(7.6, "(76% of 10.0 at new)"), (7.4, "(74% of 10.0 at new)  FELL")])
def test_a_ratio_that_fell_by_a_quarter_is_named(now: float, said: str):
    earlier = pl.concat([rows(2.0, "old"), rows(10.0, "new")])
    second, product = speed.beside(rows(now, "this"), earlier).splitlines()
    assert second.endswith("a second ")
    assert product.endswith(said)


def test_the_first_commit_has_nothing_beside_it():
    assert "%" not in speed.beside(rows(1.0, "this"), rows(1.0, "this").clear())
