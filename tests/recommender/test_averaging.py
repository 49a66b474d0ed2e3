"""What is validated and handed over is an average; training goes on from the last weights."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import small
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback

from recalign.recommender import PolynomialAveraging, Recommender, RecommenderData, averaging
from recalign.recommender.checkpoint import load_net
from recalign.reward import RewardData, RewardModel

STEPS = 5


class Weights(Callback):
    """Keeps the item table after each step, and as it is validated."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.after.append(module.policy.item_embedding.weight.detach().clone())

    def on_validation_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.validated.append(module.policy.item_embedding.weight.detach().clone())


def trained(log_root, folder, *callbacks: Callback) -> tuple[Weights, Any]:
    data = small.data_of(RecommenderData, log_root, batch_tokens=64)
    torch.manual_seed(0)
    module = Recommender(data.num_items, small.encoder(), lr=0.1)
    weights = Weights()
    trainer = small.trainer_of(folder, 1, *callbacks, weights, limit_train_batches=STEPS)
    trainer.fit(module, data)
    return weights, load_net(small.saved(module, folder / "last.ckpt"), "policy").net.item_embedding.weight


@pytest.mark.parametrize(("power", "share_S"), [(0, [1, 1, 1, 1, 1]), (1, [1, 2, 3, 4, 5])])
def test_averaging_weighs_steps_by_their_power(log_root, tmp_path, power, share_S):
    weights, handed_over = trained(log_root, tmp_path, PolynomialAveraging(power))
    share_S = torch.tensor(share_S, dtype=torch.float32)
    expected = torch.einsum("s,svd->vd", share_S / share_S.sum(), torch.stack(weights.after))
    torch.testing.assert_close(handed_over, expected)
    torch.testing.assert_close(weights.validated[0], expected)
    assert not torch.allclose(handed_over, weights.after[-1])


def test_training_is_left_as_it_is(log_root, tmp_path):
    plain, last = trained(log_root, tmp_path)
    averaged, _ = trained(log_root, tmp_path, PolynomialAveraging(2.5))
    assert len(plain.after) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(plain.after, averaged.after, strict=True))
    assert torch.equal(last, plain.after[-1])


class Weight(LightningModule):
    """Four weights, which are the square of the step after it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))

    def after(self, step: int) -> Any:
        """The trainer, a moment after this step."""
        self.weight.data.fill_(step**2)
        return SimpleNamespace(global_step=step)


def test_averaging_of_large_models_skips_steps_with_their_weight(monkeypatch):
    monkeypatch.setattr(averaging, "EVERY_STEP", 1)
    callback, module, power = PolynomialAveraging(2), Weight(), 2
    callback.on_fit_start(None, module)
    average = callback._average_model.module.weight
    taken, moved = [], module.weight.detach().clone()
    for step in range(1, 201):
        callback.on_train_batch_end(module.after(step), module, None, None, 0)
        if not torch.equal(average, moved):
            taken.append(step)
            moved = average.detach().clone()
    gaps = [b - a for a, b in pairwise(taken)]
    assert taken[:31] == list(range(1, 32))  # a short run takes them all
    assert gaps[-10:] == [4] * 10  # as many as there are weights
    assert max(gaps) <= 6  # where one gap gives way to the next
    last = taken[-1]
    every, share_S = torch.arange(1, last + 1.0), torch.ones(last)
    for s in range(2, last + 1):  # of one step after the other, by the formula
        share = (power + 1) / (s + power)
        share_S[: s - 1] *= 1 - share
        share_S[s - 1] = share
    stands_for = torch.tensor([next(t for t in taken if t >= s) for s in range(1, last + 1)])
    torch.testing.assert_close(average, (share_S * stands_for**2).sum().expand(4), rtol=1e-4, atol=0)
    assert average[0].item() == pytest.approx((share_S * every**2).sum().item(), rel=0.05)


def test_averaging_stays_on_the_device_without_synchronising():
    callback, module = PolynomialAveraging(), Weight()
    callback.setup(SimpleNamespace(), module, "fit")
    module.to("meta")  # the Trainer moves it after setup; what is read of this device fails
    callback.on_fit_start(None, module)
    for step in (1, 2, 3):
        callback.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, 0)
    assert callback._average_model.module.weight.device.type == "meta"


def test_averaging_allows_buffers_sized_by_the_data(log_root, tmp_path):
    data = small.data_of(RewardData, log_root, "tastes")
    module = RewardModel(data.num_items, encoder=small.encoder(), members=1)
    small.trainer_of(tmp_path, 1, PolynomialAveraging(), limit_train_batches=2).fit(module, data)
    assert module.trainer.global_step == 2
