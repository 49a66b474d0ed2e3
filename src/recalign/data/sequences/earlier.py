"""A log that has grown since a chain was trained on it: users and items keep their numbers, new ones follow.

Old events must still be each user's first ones, with the same rewards. Those that were trained on stay in training.
Otherwise an updated policy would be measured on events it was trained on: `LeaveLast` alone would move training events
of a user with too few events for a test into the test, once the user has more.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign import seals
from recalign.data.events import EventTable, LogMapping
from recalign.data.events.log import HOW_READ
from recalign.data.sequences.serving import by_time
from recalign.data.sequences.splits import TRAIN, Split
from recalign.errors import InputError
from recalign.files import digest, read_json, write_json

USERS, ITEMS, FACTS = "users.arrow", "items.arrow", "log.json"
WHERE_ROWS_ARE = ("name", "files", "header", "separator", "items", "truth", "query", *HOW_READ)
"""Settings of a mapping that may change: they say where the rows are, not what they mean."""
KEY = "data.grows_from"
TRAIN_ANEW = "give a log that holds all earlier events, each user's new ones after them; or train a chain on it anew"


@dataclass(frozen=True)
class EarlierLog:
    """A log as it was when a chain was trained on it (``data.grows_from``).

    Attributes:
        folder: the folder ``ids`` of the chain, which `remember` wrote.
    """

    folder: str

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What `remember` wrote about the log; also ``digest``, of all files.

        ``read_by`` has digests of its mapping's and other settings, by key, as values may be secrets; ``events`` and
        ``event_rewards`` are digests; ``catalogue`` is `Sequences.catalogue`.

        Raises:
            InputError: the folder is missing or altered, or no log can continue this one.
        """
        path = Path(self.folder)
        seal = seals.require(path, "run the chain again that wrote it: it trains nothing that is up to date")
        facts = dict(read_json(path / FACTS))
        if facts["refusal"]:
            what = f"{facts['refusal']}, so no log can continue this one"
            raise InputError(what, where=self.folder, remedy="train a chain on the new log anew")
        return facts | {"digest": digest(seal.digests)[:16]}

    @functools.cached_property
    def users(self) -> pl.DataFrame:
        """``user`` (raw ids in order), and each user's number of ``known`` and of training events (``trained``)."""
        return pl.scan_ipc(Path(self.folder) / USERS, glob=False).collect()

    @functools.cached_property
    def items(self) -> pl.Series:
        """Raw ids of the catalogue, in order."""
        return pl.scan_ipc(Path(self.folder) / ITEMS, glob=False).collect()["item"]

    def require_same(self, log: LogMapping, settings: Mapping[str, Any]) -> None:
        """Raise an InputError if a log is read with other settings: its ids and rewards would mean something else."""
        before = {"ties": digest("order")} | self.facts["read_by"]
        for key, value in (meaning(log) | dict(settings)).items():
            if key in before and digest(value) != before[key]:
                place = f"data.{key}" if key in settings else f"data.log.{key}"
                what = f"is {value!r}, but the earlier log was read with another value"
                raise InputError(what, where=place, remedy=f"give that value, or train a chain anew ({KEY} null)")
        if log.items and log.items.features:
            what, remedy = "is not supported for a log that continues another", "leave it out, or train a chain anew"
            raise InputError(what, where="data.log.items.features", remedy=remedy)

    def continued(self, table: EventTable, reward_settings: Mapping[str, Any], min_events: int) -> EventTable:
        """The table of a log that has grown, with its users in the earlier order and new users after them.

        Args:
            table: the grown log.
            reward_settings: the settings that define its rewards. If they are unchanged, the rewards of old events are
                compared, unless they are ranks, which change with every event.
            min_events: training events that an item needs to be in the catalogue, in both logs.

        Raises:
            InputError: the log lacks earlier users, items or events, or has more before them, or their rewards differ.
        """
        old = self.users["user"]
        for which, earlier, now in (("users", old, table.users), ("items", self.items, table.items)):
            if earlier.dtype != now.dtype:
                what = f"ids of {which} are {now.dtype} in this log, but {earlier.dtype} in the earlier log"
                raise InputError(what, where=KEY, remedy="map the column that holds the same ids, in the same type")
            if len(lost := earlier.filter(~earlier.is_in(now.implode()))):
                what = f"this log lacks {len(lost):,} of the earlier log's {len(earlier):,} {which}, such as {lost[0]}"
                raise InputError(what, where=KEY, remedy=TRAIN_ANEW)
        users = pl.concat([old, table.users.filter(~table.users.is_in(old.implode()))])
        number_U = places(table.users, users)
        skipped = None if table.skipped is None else _renumbered(table.skipped, number_U)
        frame = _renumbered(table.frame, number_U)
        grown = dataclasses.replace(table, frame=frame, users=users, skipped=skipped)
        item_N = self._numbers(grown)
        old_events = frame.with_columns(item=item_N).filter(self.in_first_known(grown, "known") & (item_N > 0))
        events, rewards = event_digests(old_events["user", "item", "timestamp", "reward"])
        if events != self.facts["events"]:
            what = "the first events of some users differ from their events in the earlier log"
            raise InputError(what, where=KEY, remedy=TRAIN_ANEW)
        rows = frame.with_columns(known=item_N > 0, trained=self.in_first_known(grown, "trained"))
        trained_until = pl.col("timestamp").filter(pl.col("known") & pl.col("trained")).max().over("user")
        late = rows.filter(~pl.col("known") & (pl.col("timestamp") < trained_until))
        # In the earlier log an item with so many training events would have been in the catalogue.
        if len(late := late.filter(pl.len().over("item") >= min_events)):
            what = f"{len(late):,} events are late: of new items, such as {table.items[late['item'][0]]}, but before "
            raise InputError(f"{what}events that were trained on", where=KEY, remedy=f"leave them out; or {TRAIN_ANEW}")
        same = all(digest(value) == self.facts["read_by"][key] for key, value in reward_settings.items())
        if same and not reward_settings["relative_to"] and rewards != self.facts["event_rewards"]:
            what, remedy = "earlier events have other rewards here", "give the earlier rewards, or train a chain anew"
            raise InputError(what, where=KEY, remedy=remedy)
        return grown

    def numbering(self, items: pl.Series, warm_I: np.ndarray) -> tuple[pl.Series, np.ndarray, int]:
        """The `Numbering` in which earlier items keep their numbers, even if they now have too few training events."""
        warm = items.filter(pl.Series(warm_I))
        catalogue = pl.concat([self.items, warm.filter(~warm.is_in(self.items.implode()))])
        return catalogue, places(items, catalogue, 1).astype(np.int32), len(catalogue)

    def counts(self, column: str, users: int) -> np.ndarray:
        """A column of `users` for the users of a grown log; 0 for new users. Shape: int64 (users,)."""
        return np.pad(self.users[column].to_numpy(), (0, users - len(self.users)))

    def _numbers(self, table: EventTable) -> pl.Series:
        """The number of each event's item in the earlier catalogue, from 1; 0 if it was not in it."""
        return pl.Series(places(table.items, self.items, 1)[table.frame["item"].to_numpy()])

    def in_first_known(self, table: EventTable, count: str) -> pl.Series:
        """Whether each event is among its user's first n known events, n from the column ``count``."""
        known = table.frame.select("user", known=self._numbers(table) > 0)
        before = known.select((pl.col("known").cum_sum() - pl.col("known")).over("user")).to_series()
        return pl.Series(before.to_numpy() < self.counts(count, len(table.users))[known["user"].to_numpy()])


@dataclass(frozen=True)
class KeepTrained(Split):
    """A split of a log that continues an earlier one: events that were trained on stay in training.

    So do their ties, as the files may now have those in another order.
    """

    split: Split
    earlier: EarlierLog

    def __repr__(self) -> str:
        return repr(self.split)

    def assign(self, table: EventTable) -> pl.Series:
        kept = table.max_of_ties(self.earlier.in_first_known(table, "trained"))
        return self.split.assign(table).set(kept, TRAIN)

    def of_rows(self, table: EventTable) -> Split | None:
        return self.split.of_rows(table)


def remember(data: Any, folder: Path) -> None:
    """Store what a later log needs to continue this one (`EarlierLog`), unless an up-to-date copy is there.

    Args:
        data: the log's `EventDataModule`.
        folder: is written atomically (`recalign.artifacts`). It holds raw ids and counts, but no events.
    """
    sequences, settings = data.sequences, data.reward_settings | data.reading
    if settings["ties"] == "order":  # the default is not stored
        del settings["ties"]
    refusal = "its items have features (data.log.items.features)" if sequences.features is not None else ""
    if by_time(sequences) is not sequences:
        refusal = "its split does not follow time"
    known = np.diff(sequences.offset)
    columns = {"item": sequences.item, "timestamp": sequences.time, "reward": sequences.reward}
    events, rewards = event_digests(pl.DataFrame({"user": np.repeat(np.arange(len(known)), known)} | columns))
    facts = {
        "read_by": {key: digest(value) for key, value in (meaning(data.log_) | settings).items()},
        "events": events,
        "event_rewards": rewards,
        "refusal": refusal,
        "catalogue": sequences.catalogue,
    }
    if seals.check(folder, key := {"log": sequences.fingerprint, "facts": digest(facts)}).fresh:
        return
    with seals.publish(folder, key) as part:
        users = pl.DataFrame({"user": sequences.users, "known": known, "trained": sequences.train_count})
        users.write_ipc(part / USERS)
        sequences.items.alias("item").to_frame().write_ipc(part / ITEMS)
        write_json(part / FACTS, facts)


def _renumbered(rows: pl.DataFrame, number_U: np.ndarray) -> pl.DataFrame:
    user = pl.Series(number_U[rows["user"].to_numpy()], dtype=pl.UInt32)
    return rows.with_columns(user=user).sort("user", maintain_order=True)


def places(ids: pl.Series, order: pl.Series, first: int = 0) -> np.ndarray:
    """The position of each id in ``order``, counted from ``first``; 0 if absent. Shape: int64 (ids,)."""
    return ids.replace_strict(order, np.arange(first, first + len(order)), default=0, return_dtype=pl.Int64).to_numpy()


def meaning(log: LogMapping) -> dict[str, Any]:
    """The settings of a mapping that say what its rows mean, without `WHERE_ROWS_ARE`."""
    return {key: value for key, value in asdict(log).items() if key not in WHERE_ROWS_ARE}


def event_digests(events: pl.DataFrame) -> tuple[str, str]:
    """SHA-256 of events and of their rewards; the order of tied events of a user does not matter."""
    exact = events.with_columns(pl.col("reward").cast(pl.Float32).fill_nan(None) + 0.0)  # -0 is 0
    ordered = exact.sort("user", "timestamp", "item", "reward").cast({"item": pl.Int64, "user": pl.Int64})
    reward = ordered["reward"].fill_null(float("nan"))
    found = hashlib.sha256()
    for column in ordered["user", "timestamp", "item"]:
        found.update(np.ascontiguousarray(column.to_numpy()).data)
    return found.hexdigest(), hashlib.sha256(np.ascontiguousarray(reward.to_numpy()).data).hexdigest()
