"""The LightningDataModule of all stages: a log's YAML in, batches out."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import asdict
from pydoc import locate
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl
import torch
from lightning import LightningDataModule

from recalign.data.events import EventTable, LogMapping, Report, data_root, fingerprint, load_events, read_titles
from recalign.data.events.audit import Section
from recalign.data.events.items import titles_digest
from recalign.data.sequences.batch import Batch, collate
from recalign.data.sequences.cache import CacheEntry
from recalign.data.sequences.sampler import LengthBatches, Loader, WindowDataset
from recalign.data.sequences.splits import High, LeaveLast, Split, UserGroups
from recalign.data.sequences.store import Group, Part, Sequences, UserCohort, build, fingerprint_of
from recalign.data.sequences.windows import (
    Windows,
    checked,
    evaluation_windows,
    report_truncation,
    sample_users,
    serving_windows,
    training_windows,
    with_events,
)
from recalign.errors import InputError, Positive, ShareOrZero, check_ranges, require_seed

if TYPE_CHECKING:  # options, which settings name
    from recalign.data.sequences.earlier import EarlierLog
    from recalign.data.sequences.features import KnownItems
    from recalign.data.sequences.relative import RelativeTo

ML_100K = LogMapping("ml-100k", ["ml-100k/ratings.parquet"], fetch="recalign.data.events.movielens.ml_100k")
"""The log of stages whose YAML names none."""


class EventDataModule(LightningDataModule):
    """A log as histories and targets; each stage's subclass says what it trains on.

    Args:
        log: the raw log's files and what their columns mean.
        reward: Polars SQL over the log's columns: how good an event was; null: the log has no reward.
        high: which rewards the metrics ``high/*`` count as high.
        split: which events are training, validation and test.
        root: the data root that ``log.files`` are relative to; null: ``RECALIGN_DATA``, else ``data``.
        users: the users to train and validate on: all, A, B1 or B2.
        share_a: share of the users in group A.
        min_events: training events that an item needs to be in the catalogue; those of rarer items are left out, and
            counted in the report. As targets of validation and test such items are misses.
        max_length: newest events of a history that a model sees.
        stride: null: each user's newest ``max_length`` training events are targets. A number up to ``max_length``: all
            but the first are, in windows so many events apart (`recalign.data.sequences.windows.training_windows`).
        batch_tokens: padded events of a batch, of all processes together.
        request_time: whether a model knows the time at which an event is requested (``known``), or only that of the
            event before (``last_event``).
        seed: of the batches' order, and of what is drawn from the data (placebos, resampling); null: 0 in Python,
            ``seed_everything`` in a run of the command.
        cache: whether to keep the prepared log between runs (`recalign.data.sequences.cache`), in ``RECALIGN_CACHE``,
            else the user's cache folder; or the folder to keep it in.
        relative_to: the column within whose bins rewards are ranked, such as a video's duration; null: they stay as
            they are. ``high`` reads the ranks.
        grows_from: the log of an earlier chain, which this one continues (its folder ``ids``): users and items keep
            their ids, and what was trained on stays in training (`recalign.data.sequences.earlier`).
        untouched: with ``grows_from``, share of the users without new training events that are trained on.

    Attributes:
        sample: how many users with test events `windows` has, a fixed sample of each group; null: all of them.
    """

    sample: int | None = None

    def __init__(
        self,
        log: LogMapping = ML_100K,
        reward: str | None = "rating",
        high: High | None = High("reward >= 5"),  # noqa: B008 (frozen, so safe to share)
        split: Split = LeaveLast(test=10, validation=5),  # noqa: B008
        root: str | None = None,
        users: Group = "all",
        share_a: ShareOrZero = 0.7,
        min_events: Positive[int] = 1,
        max_length: Positive[int] = 200,
        stride: int | None = None,
        batch_tokens: Positive[int] = 3200,
        request_time: Literal["known", "last_event"] = "last_event",
        seed: int | None = None,
        cache: bool | str = True,
        relative_to: RelativeTo | None = None,
        grows_from: EarlierLog | None = None,
        untouched: ShareOrZero = 1.0,
    ) -> None:
        super().__init__()
        given = {"max_length": max_length, "batch_tokens": batch_tokens, "stride": stride, "min_events": min_events}
        self.check_settings(given | {"untouched": untouched, "share_a": share_a, "seed": seed})
        self.log_, self.reward, self.high, self.split, self.root = log, reward, high, split, root
        self.groups, self.min_events, self.cache = UserGroups(share_a), min_events, cache
        self.relative_to, self.grows_from = relative_to, grows_from
        self.users, self.max_length, self.stride, self.batch_tokens = users, max_length, stride, batch_tokens
        self.seed, self.untouched = seed or 0, untouched
        self.know_request = request_time == "known"

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> None:
        """Refuse settings, by name, that cannot work. Subclasses add their own.

        The command calls it before anything runs, and the constructors call it for Python.

        Raises:
            InputError: a setting cannot work.
        """
        check_ranges(cls, given, "data")
        if given.get("seed") is not None:
            require_seed(given["seed"], "data.seed")
        stride, max_length = given.get("stride"), given.get("max_length")
        if stride is not None and not 1 <= stride <= max_length:
            text = f"{stride} events between windows of {max_length} would leave events out"
            remedy = f"give 1 to {max_length} (half of it is a good choice), or null for the newest events only"
            raise InputError(text, where="data.stride", remedy=remedy)

    @functools.cached_property
    def table(self) -> EventTable:
        """The checked log, read when first asked for."""
        return load_events(self.log_, data_root(self.root), self.reward)

    @functools.cached_property
    def sequences(self) -> Sequences:
        """The split log and its catalogue, from the cache or made when first asked for."""
        if self.entry and (cached := self.entry.load()):
            return cached
        settings = self.split, self.high, self.groups, self.min_events
        made = build(self.table, *settings, self.known_items(self.table.items), self.relative_to, self.earlier)
        # Unless the files changed while they were read.
        if self.entry and made.fingerprint == self._fingerprint_at_start == self.current_fingerprint():
            self.entry.save(made)
            if cached := self.entry.load():  # mapped from now on, which frees memory for training
                del self.table
                return cached
        return made

    @property
    def report(self) -> Report:
        """What was read of the log."""
        return self.sequences.report

    @property
    def num_items(self) -> int:
        """V, which the command links to the model's ``num_items``."""
        return self.sequences.num_items

    @property
    def fingerprint(self) -> str:
        """Digest of the log and of the settings that split it; needs no events."""
        return self.sequences.fingerprint if "sequences" in vars(self) else self._fingerprint_at_start

    @functools.cached_property
    def _fingerprint_at_start(self) -> str:
        return self.current_fingerprint()

    def current_fingerprint(self) -> str:
        """`fingerprint` of the files as they are now."""
        log = fingerprint(self.log_, data_root(self.root), self.reward)
        settings = self.split, self.high, self.groups, self.min_events, self.relative_to
        return fingerprint_of(log, *settings, self.earlier)

    @functools.cached_property
    def entry(self) -> CacheEntry | None:
        """The prepared log in the cache; it need not exist. Null if there is no cache."""
        return CacheEntry.of(self.cache, self.log_.name, self._fingerprint_at_start, self.split)

    @property
    def reward_settings(self) -> dict[str, Any]:
        """The settings that say what rewards are."""
        relative = asdict(self.relative_to) if self.relative_to else None
        return {"reward": self.reward, "relative_to": relative}

    def rewarded(self, reward: str | None, relative_to: RelativeTo | None) -> Self:
        """The same data, whose histories have rewards by other settings.

        Raises:
            InputError: by these the log keeps other events (``data.log.collapse``).
        """
        other = copy.copy(self)
        for name in [*vars(other)]:
            if isinstance(getattr(type(self), name, None), functools.cached_property):
                del vars(other)[name]
        other.reward, other.relative_to = reward, relative_to
        if self.earlier is not None:
            vars(other)["earlier"] = self.earlier.compared_if(other.reward_settings)
        if other.sequences.catalogue != self.sequences.catalogue:
            what = f"by {reward!r} the log has other events than by {self.reward!r}"
            raise InputError(what, where="data.log.collapse", remedy="give the judges the chain's reward")
        made = copy.copy(self)
        vars(made)["sequences"] = dataclasses.replace(self.sequences, reward=other.sequences.reward)
        return made

    @functools.cached_property
    def earlier(self) -> EarlierLog | None:
        """The log that this one continues.

        Raises:
            InputError: there is none where `grows_from` says, or this one is read otherwise.
        """
        if self.grows_from is None:
            return None
        judges = self.users in ("B1", "B2")  # who may have a reward of their own
        settings = {"share_a": self.groups.share} | ({} if judges else self.reward_settings)
        self.grows_from.require_same(self.log_, settings)
        return self.grows_from.compared_if(self.reward_settings)

    def known_items(self, items: pl.Series) -> KnownItems | None:
        """The items that have features (``data.log.items.features``); None: the log has no features."""
        if self.log_.items is None or not self.log_.items.features:
            return None
        kind: Any = locate("recalign.data.sequences.features.KnownItems")  # an option, of which others know nothing
        return kind.read(self.log_, data_root(self.root), items)

    @property
    def titles(self) -> pl.Series:
        """The title of each item, aligned with ``sequences.items``; the id as text where there is none."""
        return self.titles_and_counts[0]

    @functools.cached_property
    def titles_and_counts(self) -> tuple[pl.Series, Section]:
        """`titles`, and how many items have one."""
        return read_titles(self.log_, data_root(self.root), self.sequences.items)

    @functools.cached_property
    def titles_digest(self) -> str | None:
        """Digest of the titles, which no figure depends on; None where the log has none."""
        return titles_digest(self.log_, data_root(self.root))

    @property
    def device(self) -> torch.device:
        """The device of its own trainer; the CPU if it has none."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @functools.cached_property
    def cohort(self) -> UserCohort:
        """The users to train and validate on."""
        return UserCohort.of(self.sequences, self.users, self.groups.share)

    def training(self) -> Windows:
        """The windows to train on; subclasses narrow or extend what ``in_memory`` makes of them."""
        users = self.sequences.users_in(self.users)
        windows = training_windows(self.sequences, users, self.max_length, self.stride)
        if self.earlier is None or self.untouched == 1:
            return windows
        chosen_U = self.earlier.chosen(self.sequences.trained, self.untouched, self.seed)
        return windows.take(np.flatnonzero(chosen_U[windows.user]))

    def windows(self, part: Part, users: Group | None = None) -> Windows:
        """The windows of a part for evaluation, of this module's users or of the named group."""
        chosen = self.sequences.users_in(users or self.users)
        if self.sample is not None:
            chosen = sample_users(self.sequences, chosen, self.sample)
        return evaluation_windows(self.sequences, chosen, part, self.max_length, apart=self.know_request)

    def users_tested(self, users: Group) -> int:
        """How many users of a group have test events, whatever the sample."""
        return int((self.sequences.users_in(users) & with_events(self.sequences)).sum())

    def loader(
        self,
        windows: Windows,
        *,
        shuffle: bool = False,
        seen: bool = True,
        shared: bool = False,
        sequences: Sequences | None = None,
    ) -> Loader:
        """Batches of windows, shuffled or in order, with or without the items that users had seen.

        Where several processes work, each gets all of every batch, or, if ``shared``, its share. ``sequences``: that
        the windows are of, if they are not the log's.
        """
        log = sequences or self.sequences
        make = functools.partial(collate, log, windows, know_request=self.know_request, seen=seen)
        trainer = self.trainer if shared else None
        sampler = LengthBatches(
            windows.length,
            self.max_length,
            self.batch_tokens,
            shuffle=shuffle,
            seed=self.seed,
            processes=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
        )
        data = WindowDataset(make, windows.length)
        return Loader(data, sampler=sampler, batch_size=None, pin_memory=self.device.type == "cuda")

    def facts(self) -> dict[str, Any]:
        """Plain values about what is trained on, stored beside the weights; subclasses may have some."""
        return {}

    def first_batch(self) -> Batch:
        """The first batch of training, whole."""
        return next(iter(self.loader(self.training(), shuffle=True, seen=False)))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy without waiting: the device works on the previous batch meanwhile."""
        return batch.to(device, non_blocking=True)

    def setup(self, stage: str) -> None:
        """Tell the module of the log. Fail before training if titles cannot be read or nothing can be validated on."""
        if bind := getattr(self.trainer and self.trainer.lightning_module, "bind", None):
            bind(self)
        if self.log_.items:
            self.titles  # noqa: B018
        processes, least = self.trainer.world_size if self.trainer else 1, self.batch_tokens // self.max_length
        if least < processes > 1:
            text = f"a batch of {least} histories of {self.max_length} events is too small for {processes} processes"
            remedy = f"give {processes * self.max_length} or more: it is the batch of all processes together"
            raise InputError(text, where="data.batch_tokens", remedy=remedy)
        if stage == "fit" and self.trainer and self.trainer.limit_val_batches:
            self._checked("validation")

    def _checked(self, part: Part) -> Windows:
        return checked(self.windows(part), self.sequences, part, self.users)

    def train_dataloader(self) -> Loader:
        windows = checked(self.training(), self.sequences, "train", self.users)
        report_truncation(windows, self.sequences, self.max_length)
        return self.loader(windows, shuffle=True, seen=False, shared=True)

    def val_dataloader(self) -> Loader:
        return self.loader(self._checked("validation"), shared=True)

    def test_dataloader(self) -> Loader:
        return self.loader(self._checked("test"), shared=True)

    def predict_dataloader(self) -> Loader:
        """Every user's newest events, for recommendations after the end of the log."""
        return self.serving_loader(self.sequences.users_in("all"), shared=True)

    def serving_loader(self, users: np.ndarray, *, shared: bool = False) -> Loader:
        """Batches of the newest events of some users, bool (U,), in the order of time, with a target yet to come."""
        log = self.sequences.by_time
        return self.loader(serving_windows(log, users, self.max_length), shared=shared, sequences=log)
