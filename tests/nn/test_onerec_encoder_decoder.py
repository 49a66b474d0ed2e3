"""The encoder-decoder: what its formula says of one target, and no event that sees a later one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recalign.errors import InputError
from recalign.nn import EncoderDecoder, Window

EVENTS, TOKENS, DIM, HEADS = 5, 3, 8, 2


def made() -> EncoderDecoder:
    torch.manual_seed(0)
    decoder = EncoderDecoder(DIM, layers=2, encoder_layers=1, heads=HEADS, max_length=EVENTS).eval()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return decoder


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Of a sequence (P, D) to another (L, D)."""
    parts = zip(*(x.chunk(HEADS, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([(a @ b.T / (DIM // HEADS) ** 0.5 + bias).softmax(dim=1) @ c for a, b, c in parts], dim=1)


def swiglu(layer: torch.nn.Module, x: Tensor) -> Tensor:
    gate, up = layer.gate_up(x).chunk(2, dim=-1)
    return layer.down(F.silu(gate) * up)


def causal(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf).triu(1)


@torch.no_grad()
def test_tokens_read_one_by_one_give_the_formula():
    model, x_LD, token_PD = made(), torch.randn(EVENTS, DIM), torch.randn(TOKENS, DIM)
    zero = torch.zeros(1, EVENTS, dtype=torch.long)
    window = Window(*model.keys_and_values(x_LD[None]), zero, zero, torch.tensor([0]), torch.tensor([EVENTS - 1]))
    for block in model.encoder_blocks:
        x_LD = x_LD + block.output(attention(*block.qkv(block.self_norm(x_LD)).chunk(3, dim=1), causal(EVENTS)))
        x_LD = x_LD + swiglu(block.feed_forward, block.hidden_norm(x_LD))
    h_PD = token_PD
    for block, to_kv in zip(model.blocks, model.to_kv, strict=True):
        qkv = block.prefix.qkv(block.self_norm(h_PD)).chunk(3, dim=1)
        h_PD = h_PD + block.prefix.output(attention(*qkv, causal(TOKENS)))
        k_LD, v_LD = to_kv(model.encoder_norm(x_LD)).chunk(2, dim=1)
        bias_L = block.recency.position.flip(0) + block.recency.time[0]
        h_PD = h_PD + block.cross_output(attention(block.query(block.cross_norm(h_PD)), k_LD, v_LD, bias_L))
        h_PD = h_PD + swiglu(block.feed_forward, block.hidden_norm(h_PD))
    past = None
    for position in range(TOKENS):
        h_TND, past = model(token_PD[None, position : position + 1], window, past)
        torch.testing.assert_close(h_TND[0, 0], model.norm(h_PD)[position], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_events_see_earlier_ones_only():
    model, x_BLD = made(), torch.randn(1, EVENTS, DIM)
    before = model.keys_and_values(x_BLD)
    x_BLD[:, 2] += 1
    after = model.keys_and_values(x_BLD)
    for one, other in zip(before[0] + before[1], after[0] + after[1], strict=True):
        same_L = (one - other).abs().amax(dim=(0, 1, 3)) < 1e-6
        assert same_L.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"layers": 0}, {"experts": 2, "experts_per_token": 3}])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match=r"model\.decoder"):
        EncoderDecoder(DIM, **wrong)
