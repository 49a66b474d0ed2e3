"""What is validated and handed over is an average; training goes on from the last weights."""

from __future__ import annotations

from typing import Any

import pytest
import small
import torch
from lightning.pytorch.callbacks import Callback

from recalign.recommender import PolynomialAveraging, Recommender, RecommenderData
from recalign.recommender.checkpoint import load_net

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
    module = Recommender(small.encoder(), data.num_items, lr=0.1)
    weights = Weights()
    trainer = small.trainer_of(folder, 1, *callbacks, weights, limit_train_batches=STEPS)
    trainer.fit(module, data)
    return weights, load_net(small.saved(module, folder / "last.ckpt"), "policy").net.item_embedding.weight


@pytest.mark.parametrize(("power", "share_S"), [(0, [1, 1, 1, 1, 1]), (1, [1, 2, 3, 4, 5])])
def test_a_step_counts_as_its_power(log_root, tmp_path, power, share_S):
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


def test_an_average_of_the_future_is_refused():
    with pytest.raises(ValueError, match="power"):
        PolynomialAveraging(-1)
