"""AUC and NDCG within a request, by hand and on a log."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recalign.data.events import LogMapping
from recalign.data.sequences import EventDataModule, LeaveLast
from recalign.recommender.shown_ranking import AUC, NDCG, rank_shown, within_requests


def requests_of(*requests: tuple[list[int], list[float]]) -> pl.DataFrame:
    parts = [pl.DataFrame({"event": n, "chosen": one, "score": score}) for n, (one, score) in enumerate(requests)]
    return pl.concat(parts, how="vertical_relaxed").cast({"chosen": pl.Boolean})


@pytest.mark.parametrize(
    ("chosen", "scores", "auc", "ndcg"),
    [
        ([1, 0, 0], [3, 2, 1], 1, 1),
        ([1, 0, 0], [1, 2, 3], 0, 1 / 2),
        ([1, 0, 0], [2, 3, 1], 1 / 2, 1 / math.log2(3)),
        ([1, 0, 0], [1, 1, 1], 1 / 2, 1 / math.log2(3)),  # ranks 1, 2, 3: 2 for each
        ([1, 1, 0], [3, 1, 2], 1 / 2, (1 + 1 / 2) / (1 + 1 / math.log2(3))),
        ([1, 0], [-math.inf, 0], 0, 1 / math.log2(3)),
    ],
)
def test_rank_shown_auc_and_ndcg_within_a_request(chosen, scores, auc, ndcg):
    found = within_requests(requests_of((chosen, scores)))
    assert found.row(0, named=True) == pytest.approx({"event": 0, AUC: auc, NDCG: ndcg})


def test_rank_shown_requests_are_independent():
    one, other = ([1, 0, 0], [3.0, 2, 1]), ([0, 1], [9.0, 8])
    assert within_requests(requests_of(one, other))[AUC].to_list() == [1, 0]


def log_of(folder: Path) -> EventDataModule:
    """Thirty users with six requests of four items; the first is chosen, of every second request the third too."""
    rng, rows = np.random.default_rng(0), []
    for user in range(30):
        for second in range(1, 7):
            items = rng.permutation(12)[:4]
            rows += [(user, int(item), second, int(n == 0 or (n == 2 and second % 2))) for n, item in enumerate(items)]
    pl.DataFrame(rows, schema=["user", "item", "timestamp", "click"], orient="row").write_parquet(
        folder / "log.parquet"
    )
    log = LogMapping("test", ["log.parquet"], chosen="click = 1")
    return EventDataModule(log, "click", None, LeaveLast(2, 1), str(folder), cache=False, max_length=4, batch_tokens=16)


def test_rank_shown_scores_at_the_history_before_the_request(tmp_path):
    data = log_of(tmp_path)
    asked: list[tuple[int, int, int]] = []

    def by_id(batch, item_TC):
        for row, column, event in zip(batch.row_T, batch.column_T, batch.event_T, strict=True):
            asked.append((int(batch.user_B[row]), int(batch.time_BL[row, column]), int(event)))
        return item_TC.double()

    found = rank_shown({"id": by_id, "same": lambda _, item_TC: torch.zeros(item_TC.shape)}, data, "test")
    frame = data.sequences.frame
    assert found["id"]["event"].to_list() == sorted(event for *_, event in asked)
    assert asked
    for user, second, event in asked:
        own = frame.filter(event=event)
        assert (own["user"].item(), own["timestamp"].item() - 1) == (user, second)
    assert set(found["same"][AUC]) == {0.5}
    log = pl.read_parquet(tmp_path / "log.parquet")
    for event, auc in found["id"].select("event", AUC).rows():
        own = frame[event]
        at = {"user": own["user"].item(), "timestamp": own["timestamp"].item()}
        good = frame.filter(**at, split=2)["item"].to_list()  # of two choices the first may be of validation
        bad = log.filter(**at, click=0)["item"].to_list()
        assert auc == pytest.approx(np.mean([one > other for one in good for other in bad]))


def test_rank_shown_is_empty_without_requests_to_rank(tmp_path):
    data = log_of(tmp_path)
    made = data.sequences
    data.sequences = dataclasses.replace(made, skipped=made.skipped.with_columns(request=pl.col("request") + 1_000))
    assert rank_shown({"id": lambda _, item_TC: item_TC}, data, "test")["id"].is_empty()
