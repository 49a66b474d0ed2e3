"""The LightningDataModule of all stages: it turns a log's YAML into batches."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from lightning import LightningDataModule

from recalign.data.events import EventTable, LogMapping, Report, data_root, fingerprint, load_events
from recalign.data.sequences.batch import Batch, collate
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.sampler import LengthBatches, Loader, WindowDataset
from recalign.data.sequences.splits import High, LeaveLast, Split, UserGroups
from recalign.data.sequences.store import Group, Sequences, SplitName, UserCohort, build_sequences, fingerprint_of
from recalign.data.sequences.windows import (
    AnyWindows,
    Windows,
    evaluation_windows,
    require_any,
    shown_training_windows,
    training_windows,
)
from recalign.errors import ClosedUnit, InputError, Positive, check_ranges, require_seed

ML_100K = LogMapping("ml-100k", ["ml-100k/ratings.parquet"])
"""The default log."""


class Preparation:
    """How the log of a DataModule becomes `Sequences`.

    `recalign.data.sequences.preparation` replaces it by a subclass with more options: the cache, item features, a log
    that continues an earlier one, a sample of users, and recommendations after the end of the log.
    """

    def __init__(self, data: EventDataModule) -> None:
        self.data = data

    def fingerprint(self) -> str:
        """`Sequences.fingerprint` of the log's files as they are now, without reading their events."""
        data = self.data
        log = fingerprint(data.log_, data_root(data.root), data.reward, data.ties == "together")
        return fingerprint_of(log, *data.split_settings)

    def sequences(self) -> Sequences:
        """Read the log, split it and index its items."""
        return build_sequences(self.data.table, *self.data.split_settings)

    def users(self, group: Group, split: SplitName) -> np.ndarray:
        """The users of a group to train on (``train``) or to evaluate on (other splits). Shape: bool (U,)."""
        return self.data.sequences.users_in(group)


class EventDataModule(LightningDataModule):
    """A log as histories and targets; each stage's subclass chooses the training targets.

    Args:
        log: the raw log's files and what their columns mean.
        reward: Polars SQL over the log's columns, how good an event was; null: the log has no reward.
        high: which rewards the metrics ``high/*`` count as high.
        split: which events are training, validation and test.
        root: the data root that ``log.files`` are relative to; null: ``RECALIGN_DATA``, else ``data``.
        users: the users to train and validate on: all, A, B1 or B2.
        share_a: share of the users in group A.
        min_events: training events that an item needs to be in the catalogue. Training events of rarer items are
            dropped, and counted in the report; as targets of validation and test these items are misses.
        max_length: a model sees at most this many events of a history, the newest.
        batch_tokens: events in a batch, padding included, over all processes.
        request_time: whether a model knows the time of the request for the next event (``known``), or only the time of
            the event before (``last_event``).
        seed: random seed of the batch order and of draws from the data (placebos, resampling); null: 0 in Python,
            ``seed_everything`` in a run of the command.
        cache: whether to keep the prepared log between runs (`recalign.data.sequences.cache`), in ``RECALIGN_CACHE``,
            else in the user's cache folder; or the folder to keep it in.
        relative_to: the column, such as a video's duration, in whose bins rewards are replaced by their ranks; null:
            they stay as they are. ``high`` reads the ranks.
        grows_from: the folder ``ids`` of an earlier chain, if this log continues that chain's log: users and items keep
            their ids, and training events stay in training (`recalign.data.sequences.earlier`).
        untouched: with ``grows_from``, the share of users without new training events to train on.
        ties: how to read a user's events with equal timestamps (before ``log.time_resolution``): ``order``: they
            happened in file order; ``together``: they are a tie group, none in another's history; null: as ``order``,
            but a chain decides nothing if many are tied.

    Attributes:
        sample: `windows` is limited to a fixed sample of this many users with test events per group; None: no limit.
        skipped_targets: splits in which items shown but not chosen are targets too; set by methods that learn from
            them.
    """

    sample: int | None = None
    skipped_targets: Collection[str] = ()
    preparation_class: ClassVar[type[Preparation]] = Preparation

    def __init__(
        self,
        log: LogMapping = ML_100K,
        reward: str | None = "rating",
        high: High | None = High("reward >= 5"),  # noqa: B008 (frozen, so safe to share)
        split: Split = LeaveLast(test=10, validation=5),  # noqa: B008
        root: str | None = None,
        users: Group = "all",
        share_a: ClosedUnit = 0.7,
        min_events: Positive[int] = 1,
        max_length: Positive[int] = 200,
        batch_tokens: Positive[int] = 3200,
        request_time: Literal["known", "last_event"] = "last_event",
        seed: int | None = None,
        cache: bool | str = True,
        relative_to: RelativeTo | None = None,
        grows_from: str | None = None,
        untouched: ClosedUnit = 1.0,
        ties: Literal["order", "together"] | None = None,
    ) -> None:
        super().__init__()
        self.check_settings(
            {"max_length": max_length, "batch_tokens": batch_tokens, "min_events": min_events}
            | {"untouched": untouched, "share_a": share_a, "seed": seed, "split": split}
        )
        self.log_, self.reward, self.high, self.split, self.root = log, reward, high, split, root
        self.groups, self.min_events, self.relative_to = UserGroups(share_a), min_events, relative_to
        self.users, self.max_length, self.batch_tokens, self.seed = users, max_length, batch_tokens, seed or 0
        self.know_request = request_time == "known"
        self.cache, self.grows_from, self.untouched, self.ties = cache, grows_from, untouched, ties

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        """Raise an InputError for invalid settings, given by name; the command calls it before anything runs."""
        check_ranges(cls, given, "data")
        if given.get("seed") is not None:
            require_seed(given["seed"], "data.seed")

    @functools.cached_property
    def preparation(self) -> Any:
        """The `preparation_class` instance that makes `sequences`."""
        return self.preparation_class(self)

    def __copy__(self) -> Self:
        """A shallow copy. It shares what has been computed, except the preparation, which refers to its module."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        vars(copied).pop("preparation", None)
        return copied

    @property
    def split_settings(self) -> tuple[Split, High | None, UserGroups, int, RelativeTo | None]:
        """The settings that split the log and index its items, in the argument order of `build_sequences`."""
        return self.split, self.high, self.groups, self.min_events, self.relative_to

    @functools.cached_property
    def table(self) -> EventTable:
        """The checked log, read on first access."""
        return load_events(self.log_, data_root(self.root), self.reward, self.ties == "together")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the log and of the settings that split it; computed without reading events."""
        return str(self.preparation.fingerprint())

    @functools.cached_property
    def sequences(self) -> Sequences:
        """The split log and its catalogue, made on first access."""
        made: Sequences = self.preparation.sequences()
        self.fingerprint = made.fingerprint  # of the files as they were read
        return made

    @property
    def report(self) -> Report:
        """Counts of the rows read, used and left out."""
        return self.sequences.report

    @property
    def num_items(self) -> int:
        """V, which the command links to the model's ``num_items``."""
        return self.sequences.num_items

    @property
    def reward_settings(self) -> dict[str, Any]:
        """The settings that define rewards."""
        return {"reward": self.reward, "relative_to": self.relative_to and asdict(self.relative_to)}

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that define the user groups and the order of tied events."""
        return {"share_a": self.groups.share, "ties": self.ties or "order"}

    @property
    def device(self) -> torch.device:
        """The trainer's device; the CPU without a trainer."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @functools.cached_property
    def cohort(self) -> UserCohort:
        """The users to train and validate on."""
        return UserCohort.of(self.sequences, self.users, self.groups.share)

    def training(self) -> AnyWindows:
        """The windows to train on; subclasses filter or extend them after ``in_memory``."""
        users = self.preparation.users(self.users, "train")
        make = shown_training_windows if self._has_skipped_targets("train") else training_windows
        return make(self.sequences, users, self.max_length)

    def windows(self, split: SplitName, users: Group | None = None) -> Windows:
        """The windows of a split for evaluation, of this module's users or of the named group."""
        chosen = self.preparation.users(users or self.users, split)
        skipped = self._has_skipped_targets(split)
        return evaluation_windows(self.sequences, chosen, split, self.max_length, self.know_request, skipped)

    def _has_skipped_targets(self, split: SplitName) -> bool:
        return split in self.skipped_targets and self.sequences.skipped is not None

    def loader(self, windows: AnyWindows, *, shuffle: bool = False, seen: bool = True, shared: bool = False) -> Loader:
        """Batches of windows, shuffled or in order, with or without the lists of items that users had seen.

        With several processes, each gets its share of every batch if ``shared``, else all of it.
        """
        make = functools.partial(collate, self.sequences, windows, know_request=self.know_request, seen=seen)
        own: dict[str, Any] = (
            {"processes": self.trainer.world_size, "rank": self.trainer.global_rank} if shared and self.trainer else {}
        )
        sizes = windows.length, self.max_length, self.batch_tokens
        sampler = LengthBatches(*sizes, shuffle=shuffle, seed=self.seed, **own)
        data = WindowDataset(make, windows.length)
        return Loader(data, sampler=sampler, batch_size=None, pin_memory=self.device.type == "cuda")

    def facts(self) -> dict[str, Any]:
        """Plain values about the training data, stored in the checkpoint; subclasses may add some."""
        return {}

    def first_batch(self) -> Batch:
        """The first training batch, not split between processes."""
        return next(iter(self.loader(self.training(), shuffle=True, seen=False)))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy asynchronously, while the device works on the previous batch."""
        return batch.to(device, non_blocking=True)

    def setup(self, stage: str) -> None:
        """Bind the LightningModule to this data. Fail before training if there is nothing to validate on."""
        if bind := getattr(self.trainer and self.trainer.lightning_module, "bind", None):
            bind(self)
        processes, least = self.trainer.world_size if self.trainer else 1, self.batch_tokens // self.max_length
        if least < processes > 1:
            text = f"a batch of {least} histories of {self.max_length} events is too small for {processes} processes"
            remedy = f"give {processes * self.max_length} or more: it is the batch of all processes together"
            raise InputError(text, where="data.batch_tokens", remedy=remedy)
        if stage == "fit" and self.trainer and self.trainer.limit_val_batches:
            require_any(self.windows("validation"), "validation", self.users)

    def train_dataloader(self) -> Loader:
        return self.loader(require_any(self.training(), "train", self.users), shuffle=True, seen=False, shared=True)

    def val_dataloader(self) -> Loader:
        return self.loader(require_any(self.windows("validation"), "validation", self.users), shared=True)

    def test_dataloader(self) -> Loader:
        return self.loader(require_any(self.windows("test"), "test", self.users), shared=True)

    def predict_dataloader(self) -> Loader:
        """Every user's newest events, for recommendations after the end of the log."""
        return self.preparation.serving_loader(self.sequences.users_in("all"), shared=True)
