"""The lazy decoder: token by token it computes what its formula says of the whole sequence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recalign.errors import InputError
from recalign.nn import LazyContext, LazyDecoder, Window

EVENTS, TOKENS, DIM = 5, 3, 8


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * weight


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor) -> Tensor:
    """Of a sequence (P, D) to keys and values (L, G * C)."""
    width = q.shape[1] // heads
    groups = heads * width // k.shape[1]
    parts = []
    for head in range(heads):
        own, shared = (
            slice(head * width, (head + 1) * width),
            slice(head // groups * width, (head // groups + 1) * width),
        )
        parts.append((q[:, own] @ k[:, shared].T / width**0.5 + bias).softmax(dim=-1) @ v[:, shared])
    return torch.cat(parts, dim=1)


def by_formula(decoder: LazyDecoder, x_LD: Tensor, token_PD: Tensor, bias_L: list[Tensor]) -> Tensor:
    """One target that sees all events."""
    heads = decoder.blocks[0].heads
    chunks = decoder.to_kv(x_LD).unflatten(1, (-1, DIM // heads))
    context = norm(chunks, decoder.kv_norm.weight).flatten(1)
    causal = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)
    h = token_PD
    for layer, block in enumerate(decoder.blocks):
        q = block.query(norm(h, block.cross_norm.weight))
        h = h + block.cross_output(attention(q, context, context, heads, bias_L[layer]))
        sizes = [DIM, decoder.kv_heads * DIM // heads, decoder.kv_heads * DIM // heads]
        q, k, v = block.qkv(norm(h, block.self_norm.weight)).split(sizes, dim=1)
        h = h + block.self_output(attention(q, k, v, heads, causal))
        gate, up = block.gate_up(norm(h, block.hidden_norm.weight)).chunk(2, dim=1)
        h = h + block.down(F.silu(gate) * up)
    return norm(h, decoder.norm.weight)


def made(**settings: object) -> LazyDecoder:
    torch.manual_seed(0)
    decoder = LazyDecoder(DIM, max_length=EVENTS, **settings).eval()  # type: ignore[arg-type]
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return decoder


def window_of(decoder: LazyDecoder, x_LD: Tensor) -> Window:
    zero = torch.zeros(1, EVENTS, dtype=torch.long)
    return Window(decoder.keys(x_LD[None]), zero, zero, torch.tensor([0]), torch.tensor([EVENTS - 1]))


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [{"layers": 2, "heads": 1}, {"layers": 2, "heads": 4, "kv_heads": 2}, {"layers": 3, "heads": 4, "kv_heads": 4}],
)
def test_decoder_with_cache_equals_the_formula(settings):
    decoder = made(**settings)
    x_LD, token_PD = torch.randn(EVENTS, DIM), torch.randn(TOKENS, DIM)
    bias = [block.recency.position.flip(0) + block.recency.time[0] for block in decoder.blocks]
    expected_PD = by_formula(decoder, x_LD, token_PD, bias)
    window, past = window_of(decoder, x_LD), None
    for position in range(TOKENS):
        h_TND, past = decoder(token_PD[None, position : position + 1], window, past)
        torch.testing.assert_close(h_TND[0, 0], expected_PD[position], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_decoder_prefixes_of_a_target_are_independent():
    decoder = made(heads=2)
    window, token_TND = window_of(decoder, torch.randn(EVENTS, DIM)), torch.randn(1, 2, DIM)
    first, past = decoder(token_TND, window, None)
    for n in range(2):
        alone, its_past = decoder(token_TND[:, n : n + 1], window, None)
        torch.testing.assert_close(first[:, n : n + 1], alone)
        again = [each.of(torch.tensor([[n]])) for each in past]
        after, expected = (decoder(token_TND[:, :1], window, p)[0] for p in (again, its_past))
        torch.testing.assert_close(after, expected)


@torch.no_grad()
def test_lazy_context_events_are_independent():
    context = LazyContext(DIM, EVENTS).eval()
    x_BLD, time_BL = torch.randn(1, EVENTS, DIM), torch.zeros(1, EVENTS, dtype=torch.long)
    length_B = torch.tensor([EVENTS - 1])
    before = context(x_BLD, length_B, time_BL, time_BL)
    x_BLD[:, 1] += 1
    same_L = (context(x_BLD, length_B, time_BL, time_BL) == before).all(dim=2)[0]
    assert same_L.tolist() == [True, False, True, True, True]
    assert (before[0, -1] == 0).all()


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"heads": 2, "kv_heads": 3}, {"heads": 0}])
def test_decoder_refuses_heads_that_do_not_divide(wrong):
    with pytest.raises(InputError, match=r"^model\.decoder"):
        LazyDecoder(DIM, **wrong)
