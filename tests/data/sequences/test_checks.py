from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small
from lightning.pytorch import Trainer

from recalign.data.sequences import EventDataModule, Windows
from recalign.errors import InputError
from recalign.recommender import Recommender


def changed(data: EventDataModule, **arrays) -> EventDataModule:
    """The same module with other training windows."""
    windows = dataclasses.replace(data.training().in_memory(), **arrays)
    data.training = lambda: windows  # type: ignore[method-assign]
    return data


def nothing(windows: Windows) -> Windows:
    return windows.keep(np.zeros(len(windows.target), bool))


def test_splits_without_windows_are_refused_before_training(log_root, tmp_path, monkeypatch):
    data = small.data_of(EventDataModule, log_root)
    empty = {part: nothing(data.windows(part)) for part in ("validation", "test")}
    monkeypatch.setattr(data, "windows", empty.get)
    with pytest.raises(InputError, match=r"(?s)data.split, data.users: no event of users A in the test split"):
        data.test_dataloader()
    module = Recommender(data.num_items, small.encoder())
    trainer: Trainer = small.trainer_of(tmp_path)
    with pytest.raises(InputError, match="in the validation split"):
        trainer.fit(module, data)
    assert trainer.global_step == 0
    small.fit(module, data, tmp_path, limit_val_batches=0)  # whoever does not validate needs nothing to validate on
    changed(data, **vars(nothing(data.training().in_memory())))
    with pytest.raises(InputError, match="in the train split"):
        data.train_dataloader()
