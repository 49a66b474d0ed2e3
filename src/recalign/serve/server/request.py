"""What is asked and told: the same models for Python, for the command and over HTTP. `answer.py` has the answers.

All that can be said of a request without a bundle is checked here; `recalign.serve.server.catalogue` checks the rest.
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
"""Events of a history, and items of ``allow`` and ``block``, that a request may have."""
MAX_BOOSTS = 100
MAX_ITEMS = 1_000
"""Items that an answer may have."""
MAX_EVENTS = 1_000
"""Events that may be told at once."""
MAX_ID = 200
"""Characters of the id of a user or of an event."""
MAX_WEIGHT = 1e6
"""Weight of a boost, and strength of reranking: beyond, rounding would leave draws other chances than they say."""
SEEDS = 2**53
"""Seeds there are: JavaScript has no larger whole numbers."""

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
"""The id of a user or of an event, which becomes a text: a number and its text are the same one."""


@dataclass_transform(frozen_default=True)
def model(cls: type[T]) -> type[T]:
    """A frozen dataclass that pydantic checks, strictly; made from Python, it raises `InputError`."""
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
"""What pydantic calls a name that there is not."""


def input_error(errors: Sequence[Any]) -> InputError:
    """The first thing that pydantic found, with its place: ``boost[0].weight``."""
    found: dict[str, list[Any]] = {}
    for error in sorted(errors, key=lambda one: one["type"] != UNKNOWN):
        unknown = error["type"] == UNKNOWN
        # Of a union there is an error a member, which has the member's type in its place.
        parts = [part for part in error["loc"] if isinstance(part, int) or part in FIELDS]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
        found.setdefault(f"{where}.{error['loc'][-1]!r}".removeprefix(".") if unknown else where, []).append(error)
    where, own = next(iter(found.items()))
    kind, name = own[0]["type"], str(own[0]["loc"][-1]) if own[0]["loc"] else ""
    if kind == UNKNOWN:
        near = nearest(name, FIELDS)
        return InputError("there is no such name", where=where, remedy=f"did you mean {near!r}?" if near else "drop it")
    what = "it is missing" if kind.startswith("missing") else f"{reprlib.repr(own[0]['input'])} cannot be used here"
    remedy = ", or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in own))
    return InputError(what, where=where or "the request", remedy=remedy)


@model
class Boost:
    """Raise, or lower, the items that have a value in a column of the bundle's item table.

    Attributes:
        column: its name.
        value: compared with what the column holds; it is never an expression.
        weight: added to the items' log-probabilities, in nats, before these are normalised again.
    """

    column: Text
    value: Annotated[int, Field(strict=True)] | Number | Text | Annotated[bool, Field(strict=True)]
    weight: Annotated[float, Field(strict=True, ge=-MAX_WEIGHT, le=MAX_WEIGHT)]


@model
class Explore:
    """Draw the list at random with known probabilities, for off-policy estimates (`recalign.serve.server.explore`).

    Attributes:
        temperature: of the draw. 1: as probable as the policy says; towards 0: the ranked list; higher: more even.
        share: of the requests whose list is drawn; the others are ranked. Both are logged with their chances.
        fixed: first positions that stay as they are ranked; from ``k`` on nothing is drawn.
        seed: of this request's draws; null: a new one. The same seed gives the same list. Never give many requests the
            same one: their lists would be one draw.
    """

    temperature: Annotated[float, Field(strict=True, ge=1e-3, le=1e3)] = 1.0
    share: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0
    fixed: Annotated[int, Field(strict=True, ge=0, le=MAX_ITEMS)] = 0
    seed: Annotated[int, Field(strict=True, ge=0, lt=SEEDS)] | None = None


@model
class Request:
    """What somebody has chosen so far, and what to recommend next.

    Attributes:
        items: raw ids, as in the log, oldest first. May be empty: the answer is then that of the item prior,
            what most people choose.
        times: when, in the log's own unit, as many as items; they must not go back.
        rewards: how good each event was, in the unit of ``data.reward``, null where nothing is known. Policies that
            read rewards, and reranked ones, need them.
        time: when the answer is asked for; only, and always, of a policy made with ``request_time: known``. Of a user's
            kept events, those until then are the history.
        k: items to return.
        allow: recommend these items only; null: all.
        block: never recommend these items.
        boost: raise or lower some items.
        seen: whether items of the history may be recommended again.
        strength: how strongly a reranked policy follows rewards, in 1 / standard deviation of the reward; null: as the
            bundle's card says.
        log_probs: also return log-probabilities over all items that the filters leave.
        user: whose history a server with a store has kept, in place of items, times and rewards. One that it does not
            know has no history. To a server with a log of decisions and no store: who asks, beside the history.
        explore: draw the list by chance; null: the best items, ranked.
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
                what = f"{len(values)} of them, and {len(self.items)} items"
                raise InputError(what, where=name, remedy="give one an item")

    @classmethod
    def from_any(cls, given: Any, **settings: Any) -> Request:
        """A request from one, or from a mapping with its fields; settings replace its own.

        Raises:
            InputError: a name that a request does not have, or a value that it cannot have; says where, and a remedy.
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
        request: as of ``/recommend``; its ``k`` is not read.
        items: raw ids to score.
    """

    request: Request
    items: Ids


@model
class Event:
    """Something that somebody chose.

    Attributes:
        id: names the event among its user's. Told again, it changes nothing, so a sender may try again.
        user: who. A number and its text are the same user.
        item: a raw id, as in the log. One that the catalogue does not have is kept: a later version may.
        time: when, in the log's own unit.
        reward: how good it was, in the unit of ``data.reward``; null where nothing is known.
    """

    id: TextId
    user: TextId
    item: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Text  # SQLite has 64 bits
    time: Time
    reward: Number | None = None


@model
class Events:
    """What ``POST /events`` is told.

    Attributes:
        events: in any order; all of them are kept, or none.
    """

    events: Annotated[list[Event], Field(max_length=MAX_EVENTS)]
