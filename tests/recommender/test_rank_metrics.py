"""Rank metrics: hand-worked values, and the same bits however the events are spread over batches."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recalign.recommender.rank_metrics import RankMetrics, gain_ndcg, hit, reciprocal


@pytest.mark.parametrize(
    "column", [np.array, torch.tensor, lambda x: pl.Series(x, dtype=pl.UInt32)], ids=["numpy", "torch", "polars"]
)
def test_gain_ndcg_values(column):
    rank = column([0, 1, 3, 10, 11])
    assert list(hit(rank, 10)) == [False, True, True, True, False]
    assert list(gain_ndcg(rank, 10)) == pytest.approx([0, 1, 1 / 2, 1 / np.log2(11), 0])
    assert list(gain_ndcg(rank, 2)) == pytest.approx([0, 1, 0, 0, 0])
    assert list(reciprocal(rank)) == pytest.approx([0, 1, 1 / 3, 1 / 10, 1 / 11])


def test_rank_metrics_means():
    metric = RankMetrics(ks=(1, 10))
    metric.update(torch.tensor([0, 1, 3, 11]))
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(
        {"hr@1": 0.25, "ndcg@1": 0.25, "hr@10": 0.5, "ndcg@10": 0.375, "mrr": (1 + 1 / 3 + 1 / 11) / 4}
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40), st.randoms())
def test_rank_metrics_do_not_depend_on_batches_or_order(ranks, random):
    at_once, in_parts = RankMetrics(), RankMetrics()
    at_once.update(torch.tensor(ranks))
    random.shuffle(ranks)
    cut = random.randint(0, len(ranks))
    in_parts.update(torch.tensor(ranks[:cut], dtype=torch.long))
    in_parts.update(torch.tensor(ranks[cut:], dtype=torch.long))
    assert at_once.compute() == in_parts.compute()
    assert at_once.compute()["ndcg@10"].item() == pytest.approx(np.mean(gain_ndcg(np.array(ranks), 10)), abs=1e-6)
