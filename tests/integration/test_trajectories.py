"""Loss curves: one fit in several set-ups takes one course, and this course is the committed one.

`pytest -n 0 tests/integration/test_trajectories.py --record` writes tests/trajectories/losses.json anew.
`test_ddp.py` holds two processes to the same curves.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import small
import torch
import torch.nn.functional as F
from shared_fits import COMMITTED, CURVES, committed, curve

from recalign.data.sequences import Batch

CASES = ("full softmax", "reward", "asft", "dpo")
HALVES = {"full softmax": COMMITTED, "reward": COMMITTED, "asft": 0.03, "dpo": 0.003}
"""A-SFT and DPO divide by the weights and the pairs of a half, which are not quite those of the whole."""
BF16 = {"full softmax": 0.001, "reward": 0.006, "asft": 0.002, "dpo": 0.0005}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_fit_takes_the_committed_course(case: str, log_root: Path, tmp_path: Path, request: pytest.FixtureRequest):
    losses = curve(case, log_root, tmp_path)
    if request.config.getoption("--record"):
        curves = json.loads(CURVES.read_text()) if CURVES.exists() else {}
        CURVES.write_text(json.dumps(curves | {case: [round(loss, 7) for loss in losses]}, indent=1) + "\n")
    assert losses == pytest.approx(committed(case), rel=COMMITTED)


def halves(batch: Batch) -> list[Batch]:
    """Every other target, and the rest."""
    odd_T = batch.column_T % 2 == 1
    return [batch.keep(odd_T), batch.keep(~odd_T)]


@pytest.mark.slow
def test_two_halves_accumulated_are_one_batch(case: str, log_root: Path, tmp_path: Path):
    losses = curve(case, log_root, tmp_path, halves, accumulate_grad_batches=2)
    assert losses == pytest.approx(committed(case), rel=HALVES[case])


def resized(batch: Batch, length: int) -> Batch:
    """Histories padded, or cut, to another length."""
    more = length - batch.item_BL.shape[1]
    return dataclasses.replace(
        batch,
        item_BL=F.pad(batch.item_BL, (0, more)),
        reward_BL=F.pad(batch.reward_BL, (0, more), value=torch.nan),
        time_BL=F.pad(batch.time_BL, (0, max(more, 0)), mode="replicate")[:, :length],
        request_time_BL=F.pad(batch.request_time_BL, (0, max(more, 0)), mode="replicate")[:, :length],
    )


def test_padding_changes_nothing(case: str, log_root: Path, tmp_path: Path):
    """Batches are padded to a bucket of 16; here, in turns, to the longest bucket and as little as can be."""
    lengths = []

    def function(batch: Batch) -> list[Batch]:
        lengths.append(int(batch.length_B.max()) if len(lengths) % 2 else small.SETTINGS["max_length"])
        assert batch.item_BL.shape[1] not in lengths
        return [resized(batch, lengths[-1])]

    losses = curve(case, log_root, tmp_path, function)
    assert losses == pytest.approx(committed(case), rel=COMMITTED)


def test_bf16_stays_near_float32(case: str, log_root: Path, tmp_path: Path):
    losses = curve(case, log_root, tmp_path, precision="bf16-mixed")
    assert losses == pytest.approx(committed(case), rel=BF16[case])
    assert losses != pytest.approx(committed(case), rel=1e-7)  # the precision arrived
