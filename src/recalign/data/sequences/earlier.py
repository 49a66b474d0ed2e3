"""What is remembered of a log, so that a log that has grown since continues its ids.

Users and items keep their numbers, new ones follow. Old events stay what they were: each user's first ones, with the
same rewards, and those that were trained on stay in training. Otherwise an updated policy would be measured on events
that it was trained on: `LeaveLast` alone takes them back from a user who had too few to be tested on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign import artifacts
from recalign.data.events import EventTable, LogMapping
from recalign.data.sequences.splits import TRAIN
from recalign.errors import InputError
from recalign.files import digest, read_json

USERS, ITEMS, FACTS = "users.arrow", "items.arrow", "log.json"
FREE = ("name", "files", "header", "separator", "items", "truth", "fetch")
"""What a mapping may change: where the rows are, not what they mean."""
WHERE = "data.grows_from"
ANEW = "give a log that holds all earlier events, each user's new ones after them; or train a chain on it anew"


@dataclass(frozen=True)
class EarlierLog:
    """A log as it was when a run was trained on it.

    Attributes:
        where: the folder that `remember` wrote.
        users: ``user`` (raw ids in order), how many ``known`` events each had and how many of these were ``trained``
            on, the digests of the known ``events`` and of their ``rewards``.
        items: raw ids of the catalogue, in order.
        facts: ``read_by``, digests of its mapping and settings by key, whose values may be secrets; ``ranked``, whether
            rewards are ranks; ``catalogue`` and ``rewards`` as in `Sequences`.
        digest: of all of this.
        compared: whether rewards are compared with the earlier ones; false where they are others by intent.
    """

    where: Path
    users: pl.DataFrame
    items: pl.Series
    facts: dict[str, Any]
    digest: str
    compared: bool = True

    @classmethod
    def read(cls, folder: str | Path) -> EarlierLog:
        """Read what `remember` wrote.

        Raises:
            InputError: there is nothing, it was altered, or no log can continue it.
        """
        path = Path(folder)
        seal = artifacts.require(path, "run the chain again that wrote it: it trains nothing that is up to date")
        users, items = (pl.scan_ipc(path / name, glob=False).collect() for name in (USERS, ITEMS))
        found = cls(path, users, items["item"], read_json(path / FACTS), digest(seal.digests)[:16])
        if found.facts["updatable"]:
            what = f"{found.facts['updatable']}, so no log can continue this one"
            raise InputError(what, where=str(path), remedy="train a chain on the new log anew")
        return found

    def require_same(self, log: LogMapping, settings: Mapping[str, Any]) -> None:
        """Refuse a log that is read otherwise, with an InputError: its ids and rewards would mean something else."""
        now, before = mapping(log) | dict(settings), self.facts["read_by"]
        for key, value in now.items():
            if key in before and digest(value) != before[key]:
                place = f"data.{key}" if key in settings else f"data.log.{key}"
                what = f"{value!r}, and the earlier log was read by another"
                raise InputError(what, where=place, remedy=f"keep it, or train a chain anew ({WHERE} null)")
        if log.items and log.items.features:
            what, remedy = "an update knows items by their ids alone", "leave the features out, or train a chain anew"
            raise InputError(what, where="data.log.items.features", remedy=remedy)

    def read_with(self, rewards: Mapping[str, Any]) -> EarlierLog:
        """The same; its rewards are compared only if these are the log's settings of rewards."""
        same = all(digest(value) == self.facts["read_by"][key] for key, value in rewards.items())
        return dataclasses.replace(self, compared=same)

    def continued(self, table: EventTable) -> EventTable:
        """A log that has grown, its users in the earlier order, new ones after them.

        Raises:
            InputError: it lacks users, items or events, or they have other rewards.
        """
        self._require_ids("users", self.users["user"], table.users)
        self._require_ids("items", self.items, table.items)
        old = self.users["user"]
        users = pl.concat([old, table.users.filter(~table.users.is_in(old.implode()))])
        place_U = places(table.users, users)
        frame = table.frame.with_columns(user=pl.Series(place_U[table.frame["user"].to_numpy()], dtype=pl.UInt32))
        grown = dataclasses.replace(table, frame=frame.sort("user", maintain_order=True), users=users)
        self._require_events(grown)
        return grown

    def keep_trained(self, table: EventTable, part: pl.Series) -> pl.Series:
        """The part of each event, but that those that were trained on stay in training. Shape: u8 (N,)."""
        user_N = table.frame["user"].to_numpy()
        known_N = places(table.items, self.items, 1)[table.frame["item"].to_numpy()] > 0
        before_N = known_N.cumsum() - known_N
        first = np.searchsorted(user_N, np.arange(len(table.users)))
        before_N -= before_N[np.minimum(first, len(user_N) - 1)][user_N]
        return part.set(pl.Series(before_N < self.trained(len(table.users))[user_N]), TRAIN)

    def trained(self, users: int) -> np.ndarray:
        """Training events of each user of a log that has grown, as they were; 0 of new ones. Shape: int64 (users,)."""
        return np.pad(self.users["trained"].to_numpy(), (0, users - len(self.users)))

    def chosen(self, trained_U: np.ndarray, untouched: float, seed: int) -> np.ndarray:
        """The users to train on: all with new training events, and a share of the others, other ones after each update.

        Args:
            trained_U: how many training events each user has now.
            untouched: the share.
            seed: of the draw.

        Shape: bool (U,).
        """
        drawn_U = np.random.default_rng([seed, int(self.digest, 16)]).random(len(trained_U)) < untouched
        return (trained_U > self.trained(len(trained_U))) | drawn_U

    def _require_ids(self, which: str, old: pl.Series, new: pl.Series) -> None:
        if old.dtype != new.dtype:
            what = f"its {which} are {new.dtype}, and those of the earlier log {old.dtype}"
            raise InputError(what, where=WHERE, remedy="map the column that holds the same ids, in the same type")
        lost = old.filter(~old.is_in(new.implode()))
        if len(lost):
            what = f"this log lacks {len(lost):,} of the earlier log's {len(old):,} {which}, such as {lost[0]}"
            raise InputError(what, where=WHERE, remedy=ANEW)

    def _require_events(self, grown: EventTable) -> None:
        """Refuse other events, or other rewards, among as many of each user's first ones as were known."""
        number_N = places(grown.items, self.items, 1)[grown.frame["item"].to_numpy()]
        chosen = (number_N > 0) & (grown.frame["user"].to_numpy() < len(self.users))
        frame = grown.frame.filter(pl.Series(chosen))
        offset = np.searchsorted(frame["user"].to_numpy(), np.arange(len(self.users) + 1))
        known = self.users["known"].to_numpy()
        reward = frame["reward"].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        few = np.diff(offset) < known
        counts = np.where(few, 0, known)
        sums_U2 = sums(number_N[chosen], frame["timestamp"].to_numpy(), reward, offset[:-1], counts)
        other = few | (sums_U2[:, 0] != self.users["events"].to_numpy())
        if other.any():
            what = f"{int(other.sum()):,} users no longer begin with the events that they had, such as user "
            what += f"{self.users['user'][int(other.argmax())]} with {known[other.argmax()]:,}"
            raise InputError(what, where=WHERE, remedy=ANEW)
        changed = sums_U2[:, 1] != self.users["rewards"].to_numpy()
        if self.compared and not self.facts["ranked"] and changed.any():  # ranks move with every event
            what = f"events of {int(changed.sum()):,} users have other rewards than they had, such as those of user "
            what += str(self.users["user"][int(changed.argmax())])
            raise InputError(what, where=WHERE, remedy="give the rewards that were learned, or train a chain anew")


def mapping(log: LogMapping) -> dict[str, Any]:
    """What a mapping says of its rows: all but `FREE`."""
    return {key: value for key, value in asdict(log).items() if key not in FREE}


def places(ids: pl.Series, order: pl.Series, first: int = 0) -> np.ndarray:
    """The place of each id in an order, counted from ``first``; 0 where it has none. Shape: int64 (ids,)."""
    counted = np.arange(first, first + len(order))
    return ids.replace_strict(order, counted, default=0, return_dtype=pl.Int64).to_numpy()


def sums(item: np.ndarray, time: np.ndarray, reward: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Digests of each user's events and of their rewards, whatever the order of events of the same time.

    Args:
        item, time, reward: of all events.
        start, count: the stretch of each user.

    Shape: -> uint64 (U, 2).
    """
    events_N = _mixed(_mixed(item.astype(np.uint64)) ^ time.astype(np.int64).view(np.uint64))
    bits_N = np.where(np.isnan(reward), np.float32(np.nan), reward + np.float32(0)).view(np.uint32)  # -0 is 0
    rewards_N = _mixed(events_N ^ _mixed(bits_N.astype(np.uint64)))
    zero = np.zeros(1, np.uint64)
    totals = [np.concatenate([zero, one.cumsum(dtype=np.uint64)]) for one in (events_N, rewards_N)]  # modulo 2^64
    return np.stack([one[start + count] - one[start] for one in totals], axis=1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Spread the bits of integers (splitmix64, Steele et al. 2014). Shape: uint64 (N,) -> (N,)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
