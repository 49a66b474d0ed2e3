"""Group windows into batches of similar length within a token budget, in an order given by (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from recalign.data.sequences.batch import Batch


def bucket_of(length: np.ndarray, max_length: int) -> np.ndarray:
    """Choose the padded length of each window among a few buckets, so that compiled code is reused.

    Buckets are max_length, 3/4, 1/2, 3/8, 1/4, ... of it down to about 16 events (rounded up to a multiple of 8).
    """
    sizes, size = {max_length}, max_length
    while size > 16:
        if size * 3 // 4 > 16:
            sizes.add(-(-size * 3 // 32) * 8)
        size = -(-size // 16) * 8
        sizes.add(size)
    edges = np.array(sorted(s for s in sizes if s <= max_length))
    return edges[np.searchsorted(edges, length)]


class LengthBatches(DistributedSampler[tuple[int, list[int]]]):
    """Draw batches of windows from one bucket, as many windows as fit the token budget: (L, window indices).

    The order of an epoch depends only on (seed, epoch), so that a run that resumes in the middle of an epoch gets the
    batches that it would have had (`state_dict`, `load_state_dict`).

    Several processes divide each batch between them; its windows do not depend on their number. If a batch has fewer
    windows than there are processes, some get none.

    Args:
        length: (W,) events of each window.
        max_length: the longest bucket.
        tokens: most events of a batch, with padding, over all processes; a batch has at least one window.
        shuffle: whether to shuffle windows and batches, by ``seed``.
        processes, rank: how many processes divide each batch, and the index of this one.
    """

    def __init__(
        self,
        length: np.ndarray,
        max_length: int,
        tokens: int,
        *,
        shuffle: bool,
        seed: int = 0,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        # Lightning replaces every sampler that is no DistributedSampler.
        super().__init__(length, num_replicas=processes, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.bucket, self.tokens = bucket_of(length, max_length), tokens
        self.done, self.resume_at = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (Lightning calls this when an epoch starts)."""
        if epoch != self.epoch:
            self.epoch, self.resume_at = epoch, 0

    def batches(self) -> list[tuple[int, list[int]]]:
        """All batches of the current epoch, in order, not divided between processes."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.bucket)) if self.shuffle else np.arange(len(self.bucket))
        order = order[np.argsort(self.bucket[order], kind="stable")]
        batches = []
        for size in np.unique(self.bucket):
            members = order[self.bucket[order] == size]
            rows = max(self.tokens // int(size), 1)
            batches += [(int(size), members[i : i + rows].tolist()) for i in range(0, len(members), rows)]
        return [batches[i] for i in random.permutation(len(batches))] if self.shuffle else batches

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        batches = self.batches()
        first, self.resume_at = self.resume_at, 0  # the next iteration starts from the beginning
        for number in range(first, len(batches)):
            self.done = number + 1
            size, members = batches[number]
            first, last = (len(members) * rank // self.num_replicas for rank in (self.rank, self.rank + 1))
            yield size, members[first:last]

    def __len__(self) -> int:
        size, count = np.unique(self.bucket, return_counts=True)
        return int((-(-count // np.maximum(self.tokens // size, 1))).sum())

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and the number of its batches drawn so far."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a saved epoch."""
        self.epoch, self.resume_at = state["epoch"], state["done"]


class WindowDataset(Dataset[Batch]):
    """Batches by (L, window indices), as drawn by `LengthBatches`.

    A process without windows gets the shortest history without targets, since the network has to run in every process.
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
