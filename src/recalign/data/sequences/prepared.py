"""A log as it is prepared: read, split, numbered, and kept in the cache. What stages make batches of."""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import polars as pl
from lightning import LightningDataModule

from recalign.data.events import (
    EventTable,
    ItemValues,
    LogMapping,
    Report,
    audit,
    data_root,
    fingerprint,
    load_events,
    read_features,
    read_titles,
)
from recalign.data.events.audit import Section
from recalign.data.events.items import feature_figures, titles_digest
from recalign.data.sequences.cache import CacheEntry, cache_folder
from recalign.data.sequences.earlier import EarlierLog
from recalign.data.sequences.prepare import prepare
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.remember import remember
from recalign.data.sequences.splits import High, Split, UserGroups
from recalign.data.sequences.store import Sequences, build, fingerprint_of
from recalign.errors import InputError, require_positive


class PreparedLog(LightningDataModule):
    """A log, split and numbered; `EventDataModule` says what its settings are."""

    log_: LogMapping
    reward: str | None
    high: High | None
    split: Split
    root: str | None
    groups: UserGroups
    min_events: int
    cache: bool | str
    relative_to: RelativeTo | None
    grows_from: str | None

    @functools.cached_property
    def table(self) -> EventTable:
        """The checked log, read when first asked for."""
        return load_events(self.log_, data_root(self.root), self.reward)

    @functools.cached_property
    def sequences(self) -> Sequences:
        """The split log and its catalogue, from the cache or made when first asked for."""
        if self._entry and (cached := self._entry.load()):
            return cached
        settings = self.split, self.high, self.groups, self.min_events
        made = build(self.table, *settings, self._known_items(self.table.items), self.relative_to, self.earlier)
        # Unless the files changed while they were read.
        if self._entry and made.fingerprint == self._expected_fingerprint == self._fingerprint():
            self._entry.save(made)
            if cached := self._entry.load():  # mapped from now on, which frees memory for training
                del self.table
                return cached
        return made

    @property
    def report(self) -> Report:
        """What was read of the log."""
        return self.sequences.report

    @property
    def entry(self) -> Path | None:
        """The folder of the prepared log in the cache; it need not exist. Null if there is no cache."""
        return self._entry.path if self._entry else None

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
            vars(other)["earlier"] = self.earlier.read_with(other.reads_rewards)
        if other.sequences.catalogue != self.sequences.catalogue:
            what = f"by {reward!r} the log has other events than by {self.reward!r}"
            raise InputError(what, where="data.log.collapse", remedy="give the judges the chain's reward")
        made = copy.copy(self)
        vars(made)["sequences"] = dataclasses.replace(self.sequences, reward=other.sequences.reward)
        return made

    @functools.cached_property
    def _entry(self) -> CacheEntry | None:
        folder = cache_folder(self.cache)
        return CacheEntry.of(folder, self.log_.name, self._expected_fingerprint, self.split) if folder else None

    @functools.cached_property
    def _expected_fingerprint(self) -> str:
        return self._fingerprint()

    def _fingerprint(self) -> str:
        """Of what lies there now."""
        log = fingerprint(self.log_, data_root(self.root), self.reward)
        settings = self.split, self.high, self.groups, self.min_events, self.relative_to
        return fingerprint_of(log, *settings, self.earlier)

    @functools.cached_property
    def earlier(self) -> EarlierLog | None:
        """The log that this one continues.

        Raises:
            InputError: there is none where `grows_from` says, or this one is read otherwise.
        """
        if self.grows_from is None:
            return None
        found = EarlierLog.read(self.grows_from)
        judges = str(getattr(self, "users", "A")).startswith("B")  # who may have a reward of their own
        found.require_same(self.log_, {"share_a": self.groups.share} | ({} if judges else self.reads_rewards))
        return found.read_with(self.reads_rewards)

    @property
    def reads_rewards(self) -> dict[str, Any]:
        """The settings that say what rewards are."""
        relative = asdict(self.relative_to) if self.relative_to else None
        return {"reward": self.reward, "relative_to": relative}

    def remember(self, folder: Path) -> None:
        """Write into a folder what a log needs that continues this one (``grows_from``)."""
        remember(self.sequences, folder, self.log_, self.reads_rewards | {"share_a": self.groups.share})

    def prepare(self, partitions: int | None = None, workers: int = 1) -> Report:
        """Prepare a log that need not fit in memory, in partitions of users; afterwards it is read from the cache.

        Args:
            partitions: how many, about; each has to fit in memory, once a worker. Null: one for each 4 million rows.
            workers: processes that work on partitions side by side.

        Raises:
            InputError: something in the log cannot be used, nothing can be cached, or the disk is full.
        """
        require_positive("", {"partitions": partitions, "workers": workers}, "partitions", "workers")
        if self._entry is None:
            if cache_folder(self.cache):
                what = "a split that was typed in cannot be told from a later version of it, so nothing is cached"
                raise InputError(what, where="data.split", remedy="put its class into a file, and import it")
            what, remedy = "a log is prepared into the cache, which is off", "name a folder, or leave it on"
            raise InputError(what, where="data.cache", remedy=remedy)
        if self.relative_to is not None:
            text = "rewards are ranked among those of all users, which partitions of users do not hold at once"
            remedy = "train without `recalign prepare`, in memory, or write the ranks into a column of the log"
            raise InputError(text, where="data.relative_to", remedy=remedy)
        if self.grows_from is not None:
            what = "a log that continues another is put into its order in memory"
            raise InputError(what, where="data.grows_from", remedy="train without `recalign prepare`")
        if not self._entry.load():
            of_log, own = self._expected_fingerprint, (self.split, self.high, self.groups, self.min_events)
            how = self._known_items, partitions, workers
            prepare(self._entry, self.log_, data_root(self.root), self.reward, *own, of_log, *how)
        return self.report

    def figures(self) -> dict[str, Section]:
        """The figures of the log that need no split (`recalign.data.events.audit`)."""
        sections = self._entry and self._entry.figures()
        if not sections:
            table, made, ranked = self.table, self.sequences, None  # the second writes the entry, and drops the first
            if self.relative_to:
                ranks = made.frame.select("row", "reward")
                ranked = table.frame.drop("reward").join(ranks, on="row", how="left", maintain_order="left")
            sections = audit(table, ranked)
            sections["item features"] = feature_figures(self._known_items(table.items), table.items)
            if self._entry:
                self._entry.save_figures(sections)
        return {**sections, "titles": self._titles[1]}

    def _known_items(self, items: pl.Series) -> ItemValues | None:
        """What is known of items beforehand; None: nothing."""
        return read_features(self.log_, data_root(self.root), items)

    @property
    def num_items(self) -> int:
        """V, which the command links to the model's ``num_items``."""
        return self.sequences.num_items

    @property
    def titles(self) -> pl.Series:
        """The title of each item, aligned with ``sequences.items``; the id as text where there is none."""
        return self._titles[0]

    @functools.cached_property
    def titles_digest(self) -> str | None:
        """Digest of the titles, which no figure depends on; None where the log has none."""
        return titles_digest(self.log_, data_root(self.root))

    @functools.cached_property
    def _titles(self) -> tuple[pl.Series, Section]:
        return read_titles(self.log_, data_root(self.root), self.sequences.items)

    @property
    def fingerprint(self) -> str:
        """Digest of the log and of the settings that split it; needs no events."""
        return self.sequences.fingerprint if "sequences" in vars(self) else self._expected_fingerprint
