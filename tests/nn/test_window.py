"""Attention to a window: what is laid out in a grid equals one target after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recalign.nn.window import Recency, Window, attend

ROWS, EVENTS, WIDTH = 3, 6, 4


def window(kv_heads: int, row: list[int], column: list[int]) -> Window:
    torch.manual_seed(0)
    keys = torch.randn(ROWS, kv_heads, EVENTS, WIDTH)
    time_BL = torch.randint(0, 10**6, (ROWS, EVENTS)).sort(dim=1).values
    return Window(keys, time_BL, time_BL + 50, torch.tensor(row), torch.tensor(column))


def one_by_one(q_TNHC: Tensor, seen: Window, recency: Recency) -> Tensor:
    mixed_TNHC = torch.empty_like(q_TNHC)
    groups = q_TNHC.shape[2] // seen.keys.shape[1]
    for t, (row, column) in enumerate(zip(seen.row_T.tolist(), seen.column_T.tolist(), strict=True)):
        own = torch.arange(column + 1)
        gap = (seen.request_time_BL[row, column] - seen.time_BL[row, own]).abs().clamp(min=1)
        bias = recency.position[column - own] + recency.time[(gap.double().log() / 0.301).long()]
        for head in range(q_TNHC.shape[2]):
            k = seen.keys[row, head // groups, own]
            score = q_TNHC[t, :, head] @ k.T / WIDTH**0.5 + bias
            mixed_TNHC[t, :, head] = score.softmax(dim=-1) @ k
    return mixed_TNHC


def recency() -> Recency:
    made = Recency(8)
    for table in made.parameters():
        torch.nn.init.normal_(table)
    return made


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(
    ("row", "column"),
    [([0, 0, 1, 2], [5, 2, 0, 3]), ([2, 0, 2, 2], [1, 4, 1, 1]), ([1], [3])],
    ids=["sorted", "shared positions in any order", "one"],
)
def test_window_attention_sees_only_the_targets_events(kv_heads, row, column):
    seen, biases = window(kv_heads, row, column), recency()
    q_TNHC = torch.randn(len(row), 3, 4, WIDTH)
    torch.testing.assert_close(attend(q_TNHC, seen, biases(seen)), one_by_one(q_TNHC, seen, biases))
