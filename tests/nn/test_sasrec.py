"""SASRec against its formula, written out plainly."""

import math

import torch
import torch.nn.functional as F

from recalign.nn import SASRec


def plain_sasrec(model, x_LD):
    """The formula at the top of sasrec.py for one full sequence, dropout off."""
    length, dim = x_LD.shape
    x = x_LD * math.sqrt(dim) + model.position[:length]
    future_LL = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
    for layer in model.layers:
        heads = []
        qkv = (part.chunk(layer.heads, dim=-1) for part in layer.qkv(layer.attention_norm(x)).chunk(3, dim=-1))
        for q, k, v in zip(*qkv, strict=True):
            score = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(future_LL, -torch.inf)
            heads.append(score.softmax(dim=-1) @ v)
        x = x + layer.output(torch.cat(heads, dim=-1))
        first, _, _, second = layer.feed_forward
        x = x + second(F.relu(first(layer.feed_forward_norm(x))))
    return model.norm(x)


def test_sasrec_values_equal_the_formula():
    torch.manual_seed(0)
    model = SASRec(dim=6, layers=2, heads=3, max_length=9).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x_BLD, time_BL = torch.randn(2, 7, 6, dtype=torch.float64), torch.zeros(2, 7, dtype=torch.int64)
    h_BLD = model(x_BLD, torch.tensor([7, 7]), time_BL, time_BL)
    for b in range(2):
        torch.testing.assert_close(h_BLD[b], plain_sasrec(model, x_BLD[b]), rtol=0, atol=1e-12)
