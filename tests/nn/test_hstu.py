"""HSTU against its formula, written out plainly."""

import math
from decimal import Decimal

import pytest
import torch
import torch.nn.functional as F

from recalign.nn import HSTU, attention
from recalign.nn.hstu import MASKED, Attention, HSTULayer, time_buckets


def plain_hstu(model, x_BLD, length_B, time_BL, request_time_BL):
    """The formula at the top of hstu.py: one sequence, one head, one query at a time, dropout off."""
    out = torch.zeros_like(x_BLD)
    for b, length in enumerate(length_B.tolist()):
        x = x_BLD[b, :length] * math.sqrt(model.dim) + model.position[:length]
        for layer in model.layers:
            u, v, q, k = F.silu(F.layer_norm(x, (model.dim,), eps=1e-6) @ layer.uvqk.weight.T).chunk(4, dim=-1)
            width = v.shape[1] // layer.heads
            mixed = torch.zeros_like(v)
            for h in range(layer.heads):
                head = slice(h * width, (h + 1) * width)
                for i in range(length):
                    score = q[i, head] @ k[: i + 1, head].T
                    if layer.position_bias is not None:
                        score = score + torch.stack(
                            [layer.position_bias[j - i + model.max_length - 1] for j in range(i + 1)]
                        )
                    if layer.time_bias is not None:
                        gaps = [abs(int(request_time_BL[b, i] - time_BL[b, j])) for j in range(i + 1)]
                        score = score + layer.time_bias[[min(int(math.log(max(gap, 1)) / 0.301), 128) for gap in gaps]]
                    mixed[i, head] = (F.silu(score) / model.max_length) @ v[: i + 1, head]
            gated = u * F.layer_norm(mixed, mixed.shape[1:], eps=1e-6)
            x = x + gated @ layer.output.weight.T + layer.output.bias
        out[b, :length] = x
    return out


# several tiles of a single sequence and three queries, the last one smaller; of two sequences; a single tile; none
@pytest.mark.parametrize(("queries", "scores"), [(3, 1), (8, 128), (100, 2**18), (0, 0)])
@pytest.mark.parametrize(
    "options", [{}, {"heads": 2, "head_dim": 3}, {"time_bias": False}, {"position_bias": False, "heads": 2}]
)
def test_hstu_values_and_gradients_equal_the_formula(monkeypatch, queries, scores, options):
    monkeypatch.setattr(attention, "QUERIES", queries)
    monkeypatch.setattr(attention, "CPU_SCORES", scores)
    if not queries:
        monkeypatch.setattr(HSTULayer, "attention", Attention())
    torch.manual_seed(0)
    model = HSTU(dim=6, layers=2, max_length=11, dropout=0.0, **options).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x_BLD = torch.randn(3, 8, 6, dtype=torch.float64, requires_grad=True)
    length_B = torch.tensor([8, 1, 5])
    time_BL = torch.randint(0, 10**7, (3, 8)).sort(dim=1).values
    request_time_BL = time_BL + torch.randint(0, 10**5, (3, 8))

    ours = model(x_BLD, length_B, time_BL, request_time_BL)
    plain = plain_hstu(model, x_BLD, length_B, time_BL, request_time_BL)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-11)

    goal = torch.randn_like(ours)
    wanted = [x_BLD, *model.parameters()]
    for mine, reference in zip(
        torch.autograd.grad((ours * goal).sum(), wanted), torch.autograd.grad((plain * goal).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-11)


def test_time_buckets_are_exact_on_both_sides_of_every_threshold():
    """Against arithmetic of 28 digits, for gaps up to 2^39 seconds, where floats are most likely to err."""
    width = Decimal("0.301")
    before = [int((width * bucket).exp()) for bucket in range(1, 90)]  # the last whole gap below each threshold
    gaps = sorted({gap + side for gap in before for side in (0, 1)})
    zero = torch.zeros(1, 1, dtype=torch.int64)
    assert gaps[-1] > 2**38
    assert time_buckets(torch.tensor([gaps]), zero)[0, :, 0].tolist() == [
        int(Decimal(gap).ln() / width) for gap in gaps
    ]


@pytest.mark.parametrize("place", ["input", "gate"])
def test_dropout_acts_on_the_input_and_on_the_gate(place):
    torch.manual_seed(0)
    model = HSTU(dim=4, layers=1, max_length=6, dropout=0.5)
    (model.layers[0] if place == "input" else model).dropout.p = 0.0
    x_BLD, length_B, time_BL = torch.randn(1, 6, 4), torch.tensor([6]), torch.zeros(1, 6, dtype=torch.int64)
    torch.nn.init.normal_(model.layers[0].uvqk.weight)
    assert not torch.allclose(model(x_BLD, length_B, time_BL, time_BL), model(x_BLD, length_B, time_BL, time_BL))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_hstu_masked_pairs_add_nothing_in_any_precision(dtype):
    masked = torch.tensor(MASKED).to(dtype).requires_grad_()
    value = F.silu(masked)
    value.backward()
    assert value.item() == masked.grad.item() == 0
