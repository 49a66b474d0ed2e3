"""The models of requests and events, for Python, the command line and HTTP. `answer.py` has the answers.

The checks that need no bundle are here; `recalign.serve.server.catalogue` has the others.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from recalign.errors import InputError, nearest

MAX_HISTORY = 10_000
"""Maximum events of a request's history, and items of its ``allow`` and ``block``."""
MAX_BOOSTS = 100
MAX_ITEMS = 1_000
"""Maximum items of an answer."""
MAX_EVENTS = 1_000
"""Maximum events of one ``POST /events``."""
MAX_ID = 200
"""Maximum characters of the id of a user or of an event."""
MAX_WEIGHT = 1e6
"""Largest weight of a boost and strength of reranking: beyond, rounding would falsify the logged probabilities."""
SEEDS = 2**53
"""Seeds are below this: JavaScript's integers are exact up to it."""

Text = Annotated[str, Field(strict=True, max_length=10_000)]
Number = Annotated[float, Field(strict=True)]
Id = Annotated[int, Field(strict=True)] | Text
"""A raw id, as the log has it."""
Time = Annotated[int, Field(strict=True)] | Number | Text
Ids = Annotated[list[Id], Field(max_length=MAX_HISTORY)]
T = TypeVar("T")


def text_id(given: int | str) -> str:
    """The id of a user or of an event as text; a ValueError if it is too long, or not printable."""
    text = str(given)
    if not 0 < len(text) <= MAX_ID or not text.isprintable():
        raise ValueError(f"Input should be an integer, or a text of 1 to {MAX_ID} printable characters")
    return text


TextId = Annotated[Id, AfterValidator(text_id)]
"""The id of a user or of an event, converted to text: 22 and "22" are the same id."""


@dataclass_transform(frozen_default=True)
def model(cls: type[T]) -> type[T]:
    """A frozen dataclass that pydantic validates strictly; its constructor raises `InputError`."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = dataclass(frozen=True, config=config)(cls)
    own = made.__init__
    FIELDS.update(made.__dataclass_fields__)

    @functools.wraps(own)
    def init(self: Any, *args: Any, **given: Any) -> None:
        try:
            own(self, *args, **given)
        except ValidationError as error:
            raise input_error(error.errors(include_url=False)) from None

    made.__init__ = init
    return cast(type[T], made)


FIELDS: dict[str, Any] = {}
"""The names of all fields of all models."""
UNKNOWN = "unexpected_keyword_argument"
"""Pydantic's error type for an unknown name."""


def input_error(errors: Sequence[Any]) -> InputError:
    """The first of pydantic's errors, an unknown name before others, with its place: ``boost[0].weight``."""
    found: dict[str, list[Any]] = {}
    for error in sorted(errors, key=lambda one: one["type"] != UNKNOWN):
        unknown = error["type"] == UNKNOWN
        # A union has an error per member, with the member's type in the place.
        parts = [part for part in error["loc"] if isinstance(part, int) or part in FIELDS]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
        found.setdefault(f"{where}.{error['loc'][-1]!r}".removeprefix(".") if unknown else where, []).append(error)
    where, own = next(iter(found.items()))
    kind, name = own[0]["type"], str(own[0]["loc"][-1]) if own[0]["loc"] else ""
    if kind == UNKNOWN:
        near = nearest(name, FIELDS)
        return InputError("unknown field", where=where, remedy=f"did you mean {near!r}?" if near else "leave it out")
    what = "it is missing" if kind.startswith("missing") else f"{reprlib.repr(own[0]['input'])} cannot be used here"
    remedy = ", or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in own))
    return InputError(what, where=where or "the request", remedy=remedy)


@model
class Boost:
    """Raise or lower the scores of items with a given value in a column of the bundle's item table.

    Attributes:
        column: name of the column.
        value: the exact value of the items to boost; never an expression.
        weight: added to the items' log-probabilities, in nats, which are then renormalised.
    """

    column: Text
    value: Annotated[int, Field(strict=True)] | Number | Text | Annotated[bool, Field(strict=True)]
    weight: Annotated[float, Field(strict=True, ge=-MAX_WEIGHT, le=MAX_WEIGHT)]


@model
class Explore:
    """Draw the list at random with known probabilities, for off-policy estimates (`recalign.serve.server.explore`).

    Attributes:
        temperature: of the draw. 1: the policy's probabilities; towards 0: the ranked list; higher: more uniform.
        share: probability that the list is drawn; else it is ranked. The answer says which, with its probability.
        fixed: number of first positions that stay as ranked; if ``k`` or more, nothing is drawn.
        seed: of this request's draw; null: a random one. The same seed gives the same list. Never give it to many
            requests: their draws would not be independent.
    """

    temperature: Annotated[float, Field(strict=True, ge=1e-3, le=1e3)] = 1.0
    share: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0
    fixed: Annotated[int, Field(strict=True, ge=0, le=MAX_ITEMS)] = 0
    seed: Annotated[int, Field(strict=True, ge=0, lt=SEEDS)] | None = None


@model
class Request:
    """A user's history, and what to recommend next.

    Attributes:
        items: raw ids, as in the log, oldest first. If empty, the item prior answers: the most popular items.
        times: the time of each item, in the log's unit; they must not decrease.
        rewards: the reward of each item, in the unit of ``data.reward``; null if unknown. Policies that read rewards,
            and reranked ones, need them.
        time: of the request. A policy made with ``request_time: known`` needs it; others refuse it. A stored history
            ends at this time.
        k: items to return.
        allow: recommend these items only; null: all.
        block: never recommend these items.
        boost: raise or lower some items.
        seen: whether items of the history may be recommended again.
        strength: how strongly a reranked policy follows rewards, in 1 / standard deviation of the reward; null: the
            bundle's own.
        log_probs: also return log-probabilities, among all items that pass the filters.
        user: whose stored history to use, in place of items, times and rewards, on a server with a store; empty for an
            unknown user. With a log of decisions and no store: who asks, in addition to the history.
        explore: draw the list at random; null: the best items, ranked.
    """

    items: Ids = Field(default_factory=list)
    times: Annotated[list[Time], Field(max_length=MAX_HISTORY)] = Field(default_factory=list)
    rewards: Annotated[list[Number | None], Field(max_length=MAX_HISTORY)] | None = None
    time: Time | None = None
    k: Annotated[int, Field(strict=True, ge=1, le=MAX_ITEMS)] = 10
    allow: Ids | None = None
    block: Ids = Field(default_factory=list)
    boost: Annotated[list[Boost], Field(max_length=MAX_BOOSTS)] = Field(default_factory=list)
    seen: Literal["exclude", "include"] = "exclude"
    strength: Annotated[float, Field(strict=True, ge=0, le=MAX_WEIGHT)] | None = None
    log_probs: Annotated[bool, Field(strict=True)] = False
    user: TextId | None = None
    explore: Explore | None = None

    def __post_init__(self) -> None:
        for name, values in {"times": self.times, "rewards": self.rewards}.items():
            if values is not None and len(values) != len(self.items):
                what = f"{len(values)} values for {len(self.items)} items"
                raise InputError(what, where=name, remedy="give one per item")

    @classmethod
    def from_any(cls, given: Any, **settings: Any) -> Request:
        """A request from a request or a mapping of its fields; ``settings`` override fields.

        Raises:
            InputError: an unknown field or an invalid value; says where, and a remedy.
        """
        if isinstance(given, Request):
            return replace(given, **settings) if settings else given
        if not isinstance(given, Mapping):
            raise InputError(f"{reprlib.repr(given)} cannot be used here", where="the request", remedy="give an object")
        return cls(**{**given, **settings})


@model
class Score:
    """The body of a ``/score`` request.

    Attributes:
        request: as in ``/recommend``; its ``k`` is ignored.
        items: raw ids to score.
    """

    request: Request
    items: Ids


@model
class Event:
    """An item that a user chose.

    Attributes:
        id: unique among the user's events. Sending an id again changes nothing, so a sender may retry.
        user: who. 22 and "22" are the same user.
        item: a raw id, as in the log. Ids that are not in the catalogue are stored: a later version may have them.
        time: in the log's unit.
        reward: in the unit of ``data.reward``; null if unknown.
    """

    id: TextId
    user: TextId
    item: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Text  # SQLite has 64 bits
    time: Time
    reward: Number | None = None


@model
class Events:
    """The body of ``POST /events``.

    Attributes:
        events: in any order; all of them are stored, or none.
    """

    events: Annotated[list[Event], Field(max_length=MAX_EVENTS)]
