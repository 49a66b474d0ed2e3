"""Nothing in a training step reads a value back to Python, so that no step waits for the device."""

from __future__ import annotations

from typing import Any

import pytest
import small
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from recalign.recommender import Recommender, RecommenderData

aten = torch.ops.aten
# what copies a value to Python, and what must know values to know a shape
READING = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select}

INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # with a mask they count it


class NoReading(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        masked = function.overloadpacket in INDEXING and any(
            x is not None and x.dtype == torch.bool for x in arguments[1]
        )
        if masked or function.overloadpacket in READING:
            raise AssertionError(f"{function} reads a value")
        return function(*arguments, **(named or {}))


class Guard(Callback):
    """Forward and backward under `NoReading` (AdamW's own step counter lies on the CPU, and may be read)."""

    steps = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.mode = NoReading()
        self.mode.__enter__()

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.steps += 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("feedback", [False, True])
def test_a_training_step_reads_nothing_back(log_root, tmp_path, precision, feedback):
    data = small.data_of(RecommenderData, log_root)
    module = Recommender(data.num_items, small.encoder(dropout=0.2), feedback=feedback)
    guard = Guard()
    small.trainer_of(tmp_path, 1, guard, precision=precision).fit(module, data)
    assert guard.steps > 0


@pytest.mark.parametrize("read", [lambda x: x.item(), lambda x: x[x > 0], lambda x: bool(x), lambda x: x.nonzero()])
def test_reading_is_noticed(read):
    with pytest.raises(AssertionError, match="reads a value"), NoReading():
        read(torch.ones(1))
