"""What two processes find with a table that they share is what one finds with the whole table."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

import pytest
import several
import torch
import torch.distributed as dist
from torch import Tensor

from recalign import nn
from recalign.nn import row_sharding, softmax

ROWS, DIM, STATES = 13, 4, 5  # parts are of 6 and 7 rows
SCALE = 20.0
CUTS = (3, 5)  # states of the first process; of 5 nothing is left to the second
CASES = [(cut, bound) for cut in CUTS for bound in (1.0, 50.0)]  # without and with a maximum


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    table_VD, query_TD = nn.unit(torch.randn(ROWS, DIM)), nn.unit(torch.randn(STATES, DIM))
    table_VD[9] = table_VD[2]  # equal scores in two parts
    return table_VD, query_TD, torch.tensor([0, 12, 6, 5, 9]), torch.rand(STATES), torch.tensor([3, 3, 11, 0, 7, 3])


def seen(rows: slice) -> tuple[Tensor, Tensor] | None:
    """None where there is nothing, as in batches."""
    row_N, item_N = torch.tensor([0, 0, 1, 3, 4]), torch.tensor([2, 12, 6, 0, 3])
    own = (row_N >= rows.start) & (row_N < rows.stop)
    return (row_N[own] - rows.start, item_N[own]) if own.any() else None


def shared(cases: list[tuple[int, float]]) -> list[dict[str, Tensor]]:
    dist.init_process_group("gloo")
    return [found_by(cut, bound) for cut, bound in cases]


def found_by(cut: int, bound: float) -> dict[str, Tensor]:
    table_VD, query_TD, target_T, weight_T, looked_up = inputs()
    own, part = slice(0, cut) if dist.get_rank() == 0 else slice(cut, STATES), row_sharding.part_of(ROWS)
    part_VD, query_TD = table_VD[part].clone().requires_grad_(), query_TD[own].clone().requires_grad_()
    target_T, first = target_T[own], part.start
    rows_ND = row_sharding.lookup(part_VD, looked_up[own.start :], ROWS)
    logp_T = row_sharding.log_prob(query_TD, part_VD, target_T, first, SCALE, bound)
    loss = -(weight_T[own] * logp_T).sum() + rows_ND.square().sum()
    loss.backward()
    lists = row_sharding.sharded_top_k(query_TD, part_VD, 4, first, seen(own))
    return {
        "rows": rows_ND.detach(),
        "log_prob": logp_T.detach(),
        "query gradient": query_TD.grad,
        "table gradient": part_VD.grad,
        "scores": row_sharding.scores(query_TD, part_VD),
        "list scores": lists[0],
        "lists": lists[1],
        "ranks": row_sharding.sharded_ranks(query_TD, part_VD, target_T, first, seen(own)),
        "short list": row_sharding.sharded_top_k(query_TD, part_VD, 20, first)[1],
        "whole": torch.zeros(0)
        if (whole := row_sharding.gather_rows(part_VD.detach(), Path(gettempdir()))) is None
        else whole,
    }


@pytest.fixture(scope="module")
def pairs() -> list[list[dict[str, Tensor]]]:
    return several.together(shared, CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=str)
def test_sharded_table_in_two_processes_equals_the_whole(pairs, case: int):
    cut, bound = CASES[case]
    two = [found[case] for found in pairs]
    table_VD, query_TD, target_T, weight_T, looked_up = inputs()
    table_VD.requires_grad_(), query_TD.requires_grad_()
    logp_T = softmax.log_prob(query_TD, table_VD, target_T, SCALE, bound)
    rows_ND = [table_VD[looked_up], table_VD[looked_up[cut:]]]
    (-(weight_T * logp_T).sum() + sum(rows.square().sum() for rows in rows_ND)).backward()
    close = {"rtol": 1e-5, "atol": 1e-5}
    for one, rows in zip(two, rows_ND, strict=True):
        assert one["rows"].equal(rows)
    torch.testing.assert_close(torch.cat([one["log_prob"] for one in two]), logp_T, **close)
    torch.testing.assert_close(torch.cat([one["query gradient"] for one in two]), query_TD.grad, **close)
    gradient_VD = torch.cat([one["table gradient"] for one in two])
    torch.testing.assert_close(2 * gradient_VD, table_VD.grad, **close)  # a mean over processes
    score_TV = query_TD @ table_VD.T
    torch.testing.assert_close(torch.cat([one["scores"] for one in two]), score_TV, **close)
    best, items = nn.top_k(query_TD, table_VD, 4, seen(slice(0, STATES)))
    assert torch.cat([one["lists"] for one in two]).equal(items)
    torch.testing.assert_close(torch.cat([one["list scores"] for one in two]), best, **close)
    assert torch.cat([one["short list"] for one in two]).equal(nn.top_k(query_TD, table_VD, 20)[1])
    ranks_T = nn.target_ranks(query_TD, table_VD, target_T, seen(slice(0, STATES)))
    assert torch.cat([one["ranks"] for one in two]).equal(ranks_T)
    assert two[0]["whole"].equal(table_VD)
    assert not len(two[1]["whole"])
