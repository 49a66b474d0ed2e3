"""Options of preparing a log: the cache, item features, a sample of users, and a log that continues another."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np

from recalign.data.events import data_root, read_features, read_titles
from recalign.data.sequences.cache import CacheEntry
from recalign.data.sequences.data import EventDataModule, Preparation
from recalign.data.sequences.earlier import EarlierLog, KeepTrained
from recalign.data.sequences.features import ItemFeatures, number_with_features
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.sampler import Loader
from recalign.data.sequences.serving import by_time, serving_windows
from recalign.data.sequences.shown import with_skipped
from recalign.data.sequences.store import Group, Sequences, SplitName, build_sequences
from recalign.data.sequences.user_sample import sample_users
from recalign.errors import InputError
from recalign.files import digest


class LogPreparation(Preparation):
    """Prepares a log through the cache, with item features or with the ids of the earlier log that it continues."""

    def fingerprint(self) -> str:
        return self._with_earlier(super().fingerprint())

    def _with_earlier(self, fingerprint: str) -> str:
        return fingerprint if self.earlier is None else digest(fingerprint, self.earlier.facts["digest"])[:16]

    @functools.cached_property
    def entry(self) -> CacheEntry | None:
        """The prepared log in the cache, which may not exist yet. None without a cache."""
        data = self.data
        return CacheEntry.of(data.cache, data.log_.name, data.fingerprint, data.split)

    @functools.cached_property
    def earlier(self) -> EarlierLog | None:
        """The earlier log that this one continues; None without ``data.grows_from``.

        Raises:
            InputError: the folder ``data.grows_from`` has no usable log, or that log was read with other settings.
        """
        data = self.data
        if data.grows_from is None:
            return None
        earlier, judges = EarlierLog(data.grows_from), data.users in ("B1", "B2")  # their reward may differ
        earlier.require_same(data.log_, data.reading | ({} if judges else data.reward_settings))
        return earlier

    def sequences(self) -> Sequences:
        """The prepared log. Also reads its titles, so that an unreadable file stops a run before training."""
        made = self._cached_or_made()
        read_titles(self.data.log_, data_root(self.data.root), made.items)
        return made

    def _cached_or_made(self) -> Sequences:
        data = self.data
        if self.entry and (cached := self.entry.load()):
            return cached
        made = self._made()
        if made.fingerprint != self.fingerprint():
            raise InputError("the files changed while they were read", where=data.log_.name, remedy="run it again")
        if self.entry and made.fingerprint == data.fingerprint:
            self.entry.save(made)
            if cached := self.entry.load():  # memory-mapped, to free memory for training
                vars(data).pop("table", None)
                return cached
        return made

    def _made(self) -> Sequences:
        data, table = self.data, self.data.table
        settings = data.high, data.groups, data.min_events, data.relative_to
        if self.earlier is not None:
            table = self.earlier.continued(table, data.reward_settings, data.min_events)
            made = build_sequences(table, KeepTrained(data.split, self.earlier), *settings, self.earlier.numbering)
        elif (values := read_features(data.log_, data_root(data.root), table.items)) is not None:
            made = build_sequences(table, data.split, *settings, functools.partial(number_with_features, values))
            made = replace(made, features=ItemFeatures.encode(values, made.items, made.num_warm))
        else:
            made = super().sequences()
        if table.skipped is not None:
            made = with_skipped(made, table, data.split, data.relative_to)
        return replace(made, fingerprint=self._with_earlier(made.fingerprint))

    def users(self, group: Group, split: SplitName) -> np.ndarray:
        """The users of a group: to evaluate, a sample (``data.sample``); to train, reduced by ``data.untouched``."""
        data, users = self.data, super().users(group, split)
        if split != "train":
            return users if data.sample is None else sample_users(data.sequences, users, data.sample)
        if self.earlier is None or data.untouched == 1:
            return users
        random = np.random.default_rng([data.seed, int(self.earlier.facts["digest"], 16)])  # a new draw per update
        drawn = random.random(len(users)) < data.untouched
        return users & (drawn | (data.sequences.train_count > self.earlier.counts("trained", len(users))))

    def serving_loader(self, users: np.ndarray, *, shared: bool = False) -> Loader:
        """Batches of the newest events, in time order, of some users, bool (U,); the targets are placeholders."""
        ordered = copy.copy(self.data)
        ordered.sequences = by_time(self.data.sequences)
        return ordered.loader(serving_windows(ordered.sequences, users, ordered.max_length), shared=shared)


EventDataModule.preparation_class = LogPreparation


def with_reward_settings(data: EventDataModule, reward: str | None, relative_to: RelativeTo | None) -> EventDataModule:
    """A copy of the data in which histories have rewards computed by other settings.

    Raises:
        InputError: these settings select other events of the log (``data.log.collapse``).
    """
    other, made = copy.copy(data), copy.copy(data)
    for name in ("sequences", "table", "fingerprint"):
        vars(other).pop(name, None)
    other.reward, other.relative_to = reward, relative_to
    other.preparation.earlier = data.preparation.earlier  # unchecked: judges may have their own reward
    if other.sequences.catalogue != data.sequences.catalogue:
        what = f"the reward {reward!r} selects other events than {data.reward!r}"
        raise InputError(what, where="data.log.collapse", remedy="give the judges the chain's reward")
    made.sequences = replace(data.sequences, reward=other.sequences.reward)
    return made
