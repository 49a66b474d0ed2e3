"""Events that are told to a server that keeps histories, and a kept history as a request's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from typing import Any

from recalign.errors import InputError
from recalign.serve.server.catalogue import Catalogue, fine_times, of_micro
from recalign.serve.server.request import Id, Request, Time
from recalign.serve.server.require import LARGEST, at, is_number, plain, require, require_list, text_id

MOST_EVENTS = 1_000
"""Events that may be told at once."""
Row = tuple[str, str, Id, int, float | None]
"""What is kept of an event: user, id, item, microseconds since 1970, reward."""
Kept = tuple[Id, int, float | None]
"""What is read of it: item, microseconds since 1970, reward."""


@dataclass(frozen=True)
class Event:
    """Something that somebody chose.

    Attributes:
        id: names the event among its user's. Told again, it changes nothing, so a sender may try again.
        user: who. A number and its text are the same user.
        item: a raw id, as in the log. One that the catalogue does not have is kept: a later version may.
        time: when, in the log's own unit.
        reward: how good it was, in the unit of ``data.reward``; null where nothing is known.
    """

    id: Id
    user: Id
    item: Id
    time: Time
    reward: float | None = None

    def __post_init__(self) -> None:
        text_id("id", self.id)
        text_id("user", self.user)
        require(_is_kept(self.item), "item", self.item, "a raw id: an integer below 2^63, or a text")
        require(self.reward is None or is_number(self.reward), "reward", self.reward, "a finite number, or null")

    @classmethod
    def of(cls, given: Any) -> Event:
        """An event from JSON."""
        found = plain(cls, given, "an event")
        if lacking := [one.name for one in fields(cls) if one.default is MISSING and one.name not in found]:
            raise InputError(f"it has no {lacking[0]}", where=lacking[0], remedy="give id, user, item and time")
        return cls(**found)


@dataclass(frozen=True)
class Events:
    """What ``POST /events`` is told.

    Attributes:
        events: in any order; all of them are kept, or none.
    """

    events: list[Event]


@dataclass(frozen=True)
class Taken:
    """What became of them. They are on disk once this is said.

    Attributes:
        added: events that are new.
        repeated: events whose user has one of that id already; nothing was changed.
    """

    added: int
    repeated: int


@dataclass(frozen=True)
class Deleted:
    """What ``DELETE /users/{user}`` has deleted.

    Attributes:
        deleted: events.
    """

    deleted: int


def rows_of(body: Any, catalogue: Catalogue) -> list[Row]:
    """Events from JSON, as they are kept.

    Raises:
        InputError: one of them cannot be kept; says which, and a remedy.
    """
    given: Any = plain(Events, body, "the request").get("events")
    require_list("events", given, MOST_EVENTS)
    events = [at(f"events[{place}]", partial(Event.of, one)) for place, one in enumerate(given)]
    catalogue.numbers("events", [one.item for one in events])  # refuses texts where ids are integers
    times = fine_times([one.time for one in events], catalogue.about.time_unit, lambda place: f"events[{place}].time")
    whole = zip(events, times.tolist(), strict=True)
    return [(text_id("user", one.user), text_id("id", one.id), one.item, time, one.reward) for one, time in whole]


def with_history(request: Request, kept: Sequence[Kept], unit: str) -> Request:
    """A request that names a user, with that user's history in its place: until the request's time, if it has one."""
    if request.time is not None:
        [until] = fine_times([request.time], unit, lambda _: "time").tolist()
        kept = [one for one in kept if one[1] <= until]
    items, times, rewards = zip(*kept, strict=True) if kept else ((), (), ())
    return replace(request, user=None, items=items, times=[of_micro(one, unit) for one in times], rewards=rewards)


def _is_kept(item: Any) -> bool:
    """Whether SQLite can hold a raw id: 64 bits, or text without half a character."""
    if isinstance(item, str):
        return not any("\ud800" <= one <= "\udfff" for one in item)
    return type(item) is int and abs(item) < LARGEST
