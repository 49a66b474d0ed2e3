"""The DataLoader of all stages: batches of windows, whose order can be saved in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from recalign.data.sequences.batch import Batch
from recalign.data.sequences.sampler import LengthBatches


class WindowDataset(Dataset[Batch]):
    """Batches by (L, window indices), as `LengthBatches` draws them.

    A process without a share of the batch gets the shortest history, without targets: the network has to run in every
    process.
    """

    def __init__(self, make: Callable[[np.ndarray, int], Batch], length: np.ndarray) -> None:
        self.make, self.length = make, length

    def __getitem__(self, drawn: tuple[int, list[int]]) -> Batch:
        bucket, chosen = drawn
        batch = self.make(np.array(chosen or [int(self.length.argmin())]), bucket)
        return batch if chosen else batch.keep(torch.zeros_like(batch.high_T))


class Loader(DataLoader[Batch]):
    """A DataLoader whose state can be saved in the middle of an epoch (Lightning asks for it)."""

    sampler: LengthBatches

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)
