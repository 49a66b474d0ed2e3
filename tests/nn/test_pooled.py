import math

import pytest
import torch

from recalign.nn import Pooled


def test_pooled_means_weigh_events_by_their_half_lives():
    weight_RLL = Pooled(dim=4, max_length=9).double().decay(9)
    torch.testing.assert_close(weight_RLL.sum(dim=-1), torch.ones(4, 9, dtype=torch.float64))
    assert (weight_RLL.triu(diagonal=1) == 0).all()
    for half_life, weight_LL in zip((1, 4, 16, 64), weight_RLL, strict=True):
        assert (weight_LL[8, 7] / weight_LL[8, 8]).item() == pytest.approx(0.5 ** (1 / half_life), rel=1e-6)
        assert (weight_LL[8, 0] / weight_LL[8, 8]).item() == pytest.approx(math.pow(0.5, 8 / half_life), rel=1e-5)


def test_pooled_rates_get_gradients():
    torch.manual_seed(0)
    model = Pooled(dim=4, max_length=9)
    x_BLD, time_BL = torch.randn(2, 9, 4), torch.zeros(2, 9, dtype=torch.int64)
    model(x_BLD, torch.tensor([9, 4]), time_BL, time_BL)[..., 0].sum().backward()
    assert (model.log_rate.grad != 0).all()
