"""What every encoder promises: a state depends on its own past and on nothing else."""

import pytest
import torch
import torch.nn.functional as F

from recalign.nn import HSTU, Encoder, Pooled, SASRec

DIM, MAX_LENGTH = 8, 12
EXACT = {"rtol": 0, "atol": 1e-12}  # float64; products of another shape may differ in the last bits


@pytest.fixture(params=[HSTU, SASRec, Pooled])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    sizes = {} if request.param is Pooled else {"layers": 2, "heads": 2}
    encoder = request.param(dim=DIM, max_length=MAX_LENGTH, **sizes).double().eval()
    for parameter in encoder.parameters():  # large enough for every part to matter
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def histories(lengths, garbage=True):
    """Embeddings, lengths, times and request times of random histories; wild values in the padding, or zeros."""
    generator = torch.Generator().manual_seed(1)
    length_B = torch.tensor(lengths)
    x_BLD = torch.randn(len(lengths), MAX_LENGTH, DIM, generator=generator, dtype=torch.float64)
    time_BL = torch.randint(0, 10**6, (len(lengths), MAX_LENGTH), generator=generator).sort(dim=1).values
    request_time_BL = torch.cat([time_BL[:, 1:], time_BL[:, -1:]], dim=1)
    padding_BL = torch.arange(MAX_LENGTH) >= length_B[:, None]
    return (
        x_BLD.masked_fill(padding_BL[..., None], torch.nan if garbage else 0),
        length_B,
        time_BL.masked_fill(padding_BL, -(2**62) if garbage else 0),
        request_time_BL.masked_fill(padding_BL, 2**62 if garbage else 0),
    )


def test_encoder_ignores_padding_and_returns_zeros_there(encoder):
    h_BLD = encoder(*histories([5, 12, 1]))
    assert torch.equal(h_BLD, encoder(*histories([5, 12, 1], garbage=False)))
    assert (h_BLD[0, 5:] == 0).all()
    assert (h_BLD[2, 1:] == 0).all()
    assert (h_BLD[0, :5].abs().sum(dim=-1) > 0).all()


def test_encoder_ignores_other_sequences_of_the_batch(encoder):
    batch = histories([5, 12, 1, 7])
    together = encoder(*batch)
    for b in range(4):
        torch.testing.assert_close(together[b : b + 1], encoder(*(part[b : b + 1] for part in batch)), **EXACT)


@pytest.mark.parametrize("rows", [5, 6, 9])
def test_encoder_ignores_the_bucket_size(encoder, rows):
    x_BLD, length_B, time_BL, request_time_BL = histories([5, 3])
    long = encoder(x_BLD, length_B, time_BL, request_time_BL)
    short = encoder(x_BLD[:, :rows], length_B, time_BL[:, :rows], request_time_BL[:, :rows])
    torch.testing.assert_close(short, long[:, :rows], **EXACT)


def test_encoder_is_causal(encoder):
    x_BLD, length_B, time_BL, request_time_BL = histories([12])
    before = encoder(x_BLD, length_B, time_BL, request_time_BL)
    for event in range(12):
        later_x, later_time, later_request = x_BLD.clone(), time_BL.clone(), request_time_BL.clone()
        later_x[:, event:] = 3.0
        later_time[:, event:] += 10**8
        later_request[:, event:] += 10**9
        after = encoder(later_x, length_B, later_time, later_request)
        assert torch.equal(after[:, :event], before[:, :event])
        assert not torch.allclose(after[:, event], before[:, event])


def test_encoder_depends_on_the_past(encoder):
    x_BLD, *others = histories([12])
    x_BLD.requires_grad_()
    grad_BLD = torch.autograd.grad(encoder(x_BLD, *others)[0, 11].norm(), x_BLD)[0]
    assert (grad_BLD[0].norm(dim=-1) > 0).all()


def test_encoder_is_finite_for_short_and_empty_histories(encoder):
    encoder.train()
    x_BLD, *others = histories([0, 1, 2])
    x_BLD.requires_grad_()
    h_BLD = encoder(x_BLD, *others)
    F.normalize(h_BLD, dim=-1).square().sum(dim=-1).sqrt().add(h_BLD.sum(dim=-1)).sum().backward()
    assert h_BLD.isfinite().all()
    assert (h_BLD[0] == 0).all()
    assert x_BLD.grad.isfinite().all()
    assert (x_BLD.grad[0] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_encoder_drops_out_only_in_training(encoder):
    batch = histories([12])
    assert torch.equal(encoder(*batch), encoder(*batch))
    encoder.train()
    assert not torch.allclose(encoder(*batch), encoder(*batch))


def directions(encoder, batch, dtype, autocast=False):
    """L2-normalised states, and the direction of the gradient of some loss on them."""
    encoder = encoder.to(dtype)
    x_BLD, *others = batch
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        h_BLD = F.normalize(encoder(x_BLD.to(dtype), *others), dim=-1)
    assert h_BLD.dtype == dtype
    goal = torch.linspace(-1, 1, h_BLD.numel(), dtype=torch.float64).view_as(h_BLD)
    grads = torch.autograd.grad((h_BLD * goal).sum(), list(encoder.parameters()))
    return h_BLD.double(), F.normalize(torch.cat([grad.flatten() for grad in grads]).double(), dim=0)


def test_encoder_error_in_float32_and_bfloat16_is_bounded(encoder):
    batch = histories([5, 12, 8])
    h64, g64 = directions(encoder, batch, torch.float64)
    h32, g32 = directions(encoder, batch, torch.float32)
    h16, g16 = directions(encoder, batch, torch.float32, autocast=True)
    torch.testing.assert_close(h32, h64, rtol=0, atol=1e-5)
    torch.testing.assert_close(g32, g64, rtol=0, atol=1e-4)
    torch.testing.assert_close(h16, h64, rtol=0, atol=0.02)
    assert g16 @ g64 > 0.9995
    assert (h16 - h64).abs().max() > 1e-5  # autocast did something


@pytest.mark.slow
def test_encoder_compiles_to_one_graph(encoder):
    """No Python branches on data and no reads of values: `torch.compile` may take the encoder whole."""
    batch = histories([5, 12])
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*batch), encoder(*batch), **EXACT)
