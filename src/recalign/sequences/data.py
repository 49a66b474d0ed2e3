"""The LightningDataModule that all stages share: a log's YAML in, batches out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from recalign.errors import InputError, require_positive
from recalign.events import EventTable, Log, Report, audit, data_root, fingerprint, load_events
from recalign.events.audit import Section
from recalign.sequences.batch import Batch
from recalign.sequences.cache import Divided, Entry, folder
from recalign.sequences.checks import checked, say_cut
from recalign.sequences.cohort import UserCohort
from recalign.sequences.sampler import LengthBatches
from recalign.sequences.splits import High, LeaveLast, Split, UserGroups
from recalign.sequences.store import Group, Part, Sequences, build, division
from recalign.sequences.windows import Windows, collate, evaluation_windows, serving_windows, training_windows

ML_100K = Log(name="ml-100k", files=["ml-100k/u.data"], fetch="ml-100k")
"""The log of a stage's YAML that names none."""


class WindowDataset(Dataset[Batch]):
    """Batches by (L, window indices), as `LengthBatches` draws them."""

    def __init__(self, make: Callable[[np.ndarray, int], Batch]) -> None:
        self.make = make

    def __getitem__(self, drawn: tuple[int, list[int]]) -> Batch:
        bucket, chosen = drawn
        return self.make(np.array(chosen), bucket)


class Loader(DataLoader[Batch]):
    """A DataLoader that can be saved in the middle of an epoch (Lightning asks it for its state)."""

    sampler: LengthBatches

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)


class EventDataModule(LightningDataModule):
    """A log as histories and targets; each stage has a subclass that says what it trains on.

    Args:
        log: where the raw log lies and what its columns mean.
        reward: Polars SQL over the log's columns: how good an event was. Null: the log has no reward.
        high: what counts as a high reward in the metrics ``high/*``.
        split: which events are training, validation and test.
        root: the data root that ``log.files`` are relative to; null: ``RECALIGN_DATA``, else ``data``.
        users: whose events are trained on and validated: all, A, B1 or B2.
        share_a: share of the users in group A.
        max_length: newest events of a history that a model sees.
        stride: null: a user's newest ``max_length`` training events are targets; a number up to ``max_length``: all are
            (but the first), in windows that begin so many events apart (`recalign.sequences.windows.training_windows`).
        batch_tokens: padded events in a training batch.
        request_time: whether a model knows when an event is asked for (``known``) or only the time of the event before
            it (``last_event``).
        seed: of the order of the batches; null: the run's ``seed_everything``, in Python 0.
        cache: whether the divided log is kept between runs (`recalign.sequences.cache`), in ``RECALIGN_CACHE``, else
            the user's cache folder; or the folder to keep it in.
    """

    def __init__(
        self,
        log: Log = ML_100K,
        reward: str | None = "rating",
        high: High | None = High("reward >= 5"),  # noqa: B008 (frozen, so safe to share)
        split: Split = LeaveLast(test=10, validation=5),  # noqa: B008
        root: str | None = None,
        users: Group = "all",
        share_a: float = 0.7,
        max_length: int = 200,
        stride: int | None = None,
        batch_tokens: int = 3200,
        request_time: Literal["known", "last_event"] = "last_event",
        seed: int | None = None,
        cache: bool | str = True,
    ) -> None:
        super().__init__()
        self.check_settings({"max_length": max_length, "batch_tokens": batch_tokens, "stride": stride})
        self.log_, self.reward, self.high, self.split, self.root = log, reward, high, split, root
        self.users: Group = users
        self.groups = UserGroups(share_a)
        self.max_length, self.stride, self.batch_tokens, self.seed = max_length, stride, batch_tokens, seed or 0
        self.know_request = request_time == "known"
        self.cache = cache

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        """Refuse settings that nothing can be made of. Subclasses add their own.

        The command asks before anything runs, the constructors for those who write Python.

        Args:
            given: the constructor's arguments by name, or some of them.

        Raises:
            InputError: one of them is such a setting.
        """
        require_positive("data", given, "max_length", "batch_tokens")
        stride, max_length = given.get("stride"), given.get("max_length")
        if stride is not None and not 1 <= stride <= max_length:
            raise InputError(
                f"{stride} events between windows of {max_length} would leave events out",
                where="data.stride",
                remedy=f"give 1 to {max_length} (half of it is a fair choice), or null for the newest events alone",
            )

    @functools.cached_property
    def table(self) -> EventTable:
        """The checked log; read when first asked for."""
        return load_events(self.log_, data_root(self.root), self.reward)

    @property
    def sequences(self) -> Sequences:
        """The divided log."""
        return self._divided.sequences

    @property
    def report(self) -> Report:
        """What was read of the log."""
        return self._divided.report

    @functools.cached_property
    def _divided(self) -> Divided:
        if self._entry and (found := self._entry.load()):
            return found
        divided = Divided(build(self.table, self.split, self.high, self.groups), self.table.report)
        # the files may have changed since they named the entry
        if self._entry and divided.sequences.fingerprint == self._described:
            self._entry.save(divided)
            if kept := self._entry.load():  # mapped from now on: memory is for training
                del self.table
                return kept
        return divided

    @functools.cached_property
    def _entry(self) -> Entry | None:
        place = folder(self.cache)
        return Entry.of(place, self.log_.name, self._described, self.split) if place else None

    @functools.cached_property
    def _described(self) -> str:
        log = fingerprint(self.log_, data_root(self.root), self.reward)
        return division(log, self.split, self.high, self.groups)

    def figures(self) -> dict[str, Section]:
        """The figures of the log that need no split (`recalign.events.audit`)."""
        sections = self._entry and self._entry.figures()
        if not sections:
            sections = audit(self.table)
            self._divided  # noqa: B018 (the entry is there from now on, if it can be)
            if self._entry:
                self._entry.keep_figures(sections)
        return sections

    @property
    def num_items(self) -> int:
        """V, linked into the model's ``num_items`` by the command."""
        return self.sequences.num_items

    @property
    def fingerprint(self) -> str:
        """Digest of the log and its division; needs no events."""
        return self.sequences.fingerprint if "_divided" in vars(self) else self._described

    @property
    def device(self) -> torch.device:
        """Where its trainer works; without one, the CPU."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @functools.cached_property
    def cohort(self) -> UserCohort:
        """The users whose events are trained and validated on."""
        return UserCohort.of(self.sequences, self.users, self.groups.share)

    def training(self) -> Windows:
        """What is trained on; subclasses narrow or extend it."""
        users = self.sequences.users_in(self.users)
        return training_windows(self.sequences, users, self.max_length, self.stride)

    def windows(self, part: Part, users: Group | None = None) -> Windows:
        """The windows of a part for evaluation, of this module's users or of the group named."""
        return evaluation_windows(self.sequences, self.sequences.users_in(users or self.users), part, self.max_length)

    def loader(self, windows: Windows, *, shuffle: bool = False, seen: bool = True) -> Loader:
        """Batches of windows: in training order, or all of them once with what each user had seen."""
        make = functools.partial(collate, self.sequences, windows, know_request=self.know_request, seen=seen)
        sampler = LengthBatches(windows.length, self.max_length, self.batch_tokens, shuffle=shuffle, seed=self.seed)
        return Loader(WindowDataset(make), sampler=sampler, batch_size=None, pin_memory=torch.cuda.is_available())

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Without waiting for the copy: the device works on the batch before while this one comes."""
        return batch.to(device, non_blocking=True)

    def setup(self, stage: str) -> None:
        """Find before training, not after its first epoch, that there is nothing to validate on."""
        if stage == "fit" and self.trainer and self.trainer.limit_val_batches:
            self._checked("validation")

    def _checked(self, part: Part) -> Windows:
        return checked(self.windows(part), self.sequences, part, self.users)

    def train_dataloader(self) -> Loader:
        windows = checked(self.training(), self.sequences, "train", self.users)
        say_cut(windows, self.sequences, self.max_length)
        return self.loader(windows, shuffle=True, seen=False)

    def val_dataloader(self) -> Loader:
        return self.loader(self._checked("validation"))

    def test_dataloader(self) -> Loader:
        return self.loader(self._checked("test"))

    def predict_dataloader(self) -> Loader:
        """Every user's whole history, for recommendations after the log's end."""
        return self.loader(serving_windows(self.sequences, self.sequences.users_in("all"), self.max_length))
