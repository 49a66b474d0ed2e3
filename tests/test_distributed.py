"""What two processes put together is what one would have."""

from __future__ import annotations

import pytest
import several
import torch
import torch.distributed as dist
from torch import Tensor

from recalign import distributed

ROWS = torch.tensor([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0]])


def loss_of(rows: Tensor) -> Tensor:
    """A loss that is no sum over rows."""
    return rows.softmax(dim=0).square().sum()


def shared(cut: int) -> dict[str, Tensor]:
    """Gather rows of which the first process has the first ``cut``."""
    dist.init_process_group("gloo")
    first = dist.get_rank() == 0
    own = (ROWS[:cut] if first else ROWS[cut:]).clone().requires_grad_()
    whole = distributed.all_gather_rows(own)
    loss_of(whole).backward()
    there, known = torch.device("cpu"), distributed.all_gather_rows(own[:, 0] > 0)
    torch.manual_seed(dist.get_rank())
    drawn = distributed.random_rows(lambda rows: torch.rand(rows, 2), len(own), there)
    place = distributed.own_rows(len(own), there)
    return {
        "whole": whole.detach(),
        "known": known,
        "gradient": own.grad,
        "drawn": drawn,
        "place": torch.arange(len(ROWS))[place],
        "first": distributed.broadcast(torch.tensor(float(dist.get_rank()))),
        "agreed": torch.tensor(distributed.broadcast_floats([0.1, 1.0 + dist.get_rank()], there), dtype=torch.float64),
    }


@pytest.mark.slow
def test_two_processes_have_rows_gradients_and_draws_of_one():
    rows = ROWS.clone().requires_grad_()
    loss_of(rows).backward()
    torch.manual_seed(0)
    drawn = torch.rand(len(ROWS), 2)
    for cut in (1, 3):  # uneven, and nothing for the second
        two = several.together(shared, cut)
        for one in two:
            assert one["whole"].equal(ROWS)
            assert one["known"].equal(ROWS[:, 0] > 0)
            assert one["first"] == 0
            assert one["agreed"].tolist() == [0.1, 1.0]
        assert torch.cat([one["place"] for one in two]).tolist() == [0, 1, 2]
        assert torch.cat([one["drawn"] for one in two]).equal(drawn)
        mean = torch.cat([one["gradient"] for one in two]) / 2  # as DDP takes it
        torch.testing.assert_close(mean, rows.grad)


def test_single_process_calls_are_the_identity():
    assert distributed.all_gather_rows(ROWS) is ROWS
    assert distributed.broadcast(ROWS) is ROWS
    assert distributed.broadcast_floats((0.1, 2.0), ROWS.device) == [0.1, 2.0]
    assert distributed.own_rows(3, ROWS.device) == slice(0, 3)
    assert distributed.row_counts(3, ROWS.device) == [3]
