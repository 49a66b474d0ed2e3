from __future__ import annotations

import dataclasses
from dataclasses import fields

import numpy as np
import pytest
import small
import torch

from recalign.data.sequences import Windows
from recalign.posttrain import PostTrainingData


class PairedData(PostTrainingData):
    """Batches with everything that a batch can have."""

    def training(self) -> Windows:
        windows = super().training()
        return dataclasses.replace(windows, rejected=np.stack([windows.target, windows.target[::-1]], axis=1))


@pytest.fixture(scope="module")
def data(log_root):
    return small.data_of(PairedData, log_root)


def test_batch_fields_have_the_documented_shapes_and_types(data):
    batch = small.batch_of(data, "train", rows=4)
    B, L, T = 4, data.max_length, len(batch.target_T)
    for name, shape in (("B", (B,)), ("BL", (B, L)), ("T", (T,)), ("TN", (T, 2))):
        for f in fields(batch):
            if f.name.rsplit("_", 1)[1] == name:
                assert getattr(batch, f.name).shape == shape, f.name
    floats = {"reward_BL", "reward_T", "advantage_T"}
    for f in fields(batch):
        dtype = torch.float32 if f.name in floats else torch.bool if f.name == "high_T" else torch.int64
        assert f.name == "tied_N" or getattr(batch, f.name).dtype == dtype, f.name
    assert batch.seen_N.shape[0] == 2
    assert batch.tied_N is None
    assert batch.unranked_N is batch.seen_N


def test_padding_has_item_0_and_no_reward(data):
    batch = small.batch_of(data, "train", rows=4)
    column = torch.arange(data.max_length)
    padding_BL = column >= batch.length_B[:, None]
    assert padding_BL.any()
    assert ((batch.item_BL == 0) == padding_BL).all()
    assert batch.reward_BL[padding_BL].isnan().all()
    assert (batch.time_BL.diff(dim=1) >= 0).all()


def test_batch_head_keeps_the_first_rows_and_their_targets(data):
    batch = small.batch_of(data, "train", rows=5)
    head = batch.head(2)
    mine = batch.row_T < 2
    assert head.item_BL.equal(batch.item_BL[:2])
    for name in ("row_T", "column_T", "target_T", "advantage_T", "rejected_TN", "event_T"):
        assert getattr(head, name).equal(getattr(batch, name)[mine])
    assert head.seen_N is None
    assert len(batch.head(99).user_B) == 5
    assert set(head.row_T.tolist()) == {0, 1}
