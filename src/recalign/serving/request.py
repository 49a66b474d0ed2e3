"""What is asked, and what is answered: the same from Python, from the command and over HTTP.

All that can be said of a request without a bundle is checked here; `recalign.serving.catalogue` checks the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, Self

from recalign.errors import InputError, nearest

Id = int | str
Time = int | float | str
LONGEST = 10_000
"""Events of a history, and items of ``allow`` and ``block``, that a request may have."""
MOST_BOOSTS = 100
MOST = 1_000
"""Items that an answer may have."""
COLDEST, HOTTEST = 1e-3, 1e3
"""Temperatures of an exploration."""
STRONGEST = 1e6
"""Weight of a boost, and strength of reranking: beyond, rounding would leave draws other chances than they say."""
SEEDS = 2**53
"""Seeds there are: JavaScript has no larger whole numbers."""
LARGEST = 2.0**63
LONGEST_ID = 200
"""Characters of the id of a user or of an event."""
SHOWN = 10
"""Ids that an answer names; the others are counted."""


@dataclass(frozen=True)
class Boost:
    """Raise, or lower, the items that have a value in a column of the bundle's item table.

    Attributes:
        column: its name.
        value: compared with what the column holds; it is never an expression.
        weight: added to the items' log-probabilities, in nats, before these are normalised again.
    """

    column: str
    value: int | float | str | bool
    weight: float

    def __post_init__(self) -> None:
        require(isinstance(self.column, str), "column", self.column, "the name of a column")
        require(isinstance(self.value, int | float | str), "value", self.value, "a number, a text or a truth value")
        weighs = is_number(self.weight) and abs(self.weight) <= STRONGEST
        require(weighs, "weight", self.weight, f"a number from {-STRONGEST:,.0f} to {STRONGEST:,.0f}")


@dataclass(frozen=True)
class Explore:
    """Draw the list by chance, so that what it proves is known later (`recalign.serving.explore`).

    Attributes:
        temperature: of the draw. 1: as probable as the policy says; towards 0: the ranked list; higher: more even.
        share: of the requests whose list is drawn; the others are ranked. Both are logged with their chances.
        fixed: first positions that stay as they are ranked; from ``k`` on nothing is drawn.
        seed: of this request's draws; null: a new one. The same seed gives the same list. Never give many requests the
            same one: their lists would be one draw.
    """

    temperature: float = 1.0
    share: float = 1.0
    fixed: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        warm = is_number(self.temperature) and COLDEST <= self.temperature <= HOTTEST
        require(warm, "temperature", self.temperature, f"a number from {COLDEST:g} to {HOTTEST:g}")
        require(is_number(self.share) and 0 <= self.share <= 1, "share", self.share, "a number from 0 to 1")
        require(type(self.fixed) is int and 0 <= self.fixed <= MOST, "fixed", self.fixed, f"0 to {MOST:,} positions")
        seeded = self.seed is None or (type(self.seed) is int and 0 <= self.seed < SEEDS)
        require(seeded, "seed", self.seed, f"a whole number from 0 to {SEEDS - 1}, or null")


@dataclass(frozen=True)
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

    items: Sequence[Id] = ()
    times: Sequence[Time] = ()
    rewards: Sequence[float | None] | None = None
    time: Time | None = None
    k: int = 10
    allow: Sequence[Id] | None = None
    block: Sequence[Id] = ()
    boost: Sequence[Boost] = ()
    seen: Literal["exclude", "include"] = "exclude"
    strength: float | None = None
    log_probs: bool = False
    user: Id | None = None
    explore: Explore | None = None

    def __post_init__(self) -> None:
        require_ids("items", self.items)
        self._require_one_an_item("times", self.times)
        if self.rewards is not None:
            self._require_one_an_item("rewards", self.rewards)
        if self.allow is not None:
            require_ids("allow", self.allow)
        require_ids("block", self.block)
        for place, reward in enumerate(self.rewards or ()):
            require(reward is None or is_number(reward), f"rewards[{place}]", reward, "a finite number, or null")
        require_list("boost", self.boost, MOST_BOOSTS)
        for place, boost in enumerate(self.boost):
            require(isinstance(boost, Boost), f"boost[{place}]", boost, "a column, a value and a weight")
        require(type(self.k) is int and 0 < self.k <= MOST, "k", self.k, f"a whole number from 1 to {MOST:,}")
        require(self.seen in ("exclude", "include"), "seen", self.seen, "exclude or include")
        strong = self.strength is None or (is_number(self.strength) and 0 <= self.strength <= STRONGEST)
        require(strong, "strength", self.strength, f"a number from 0 to {STRONGEST:,.0f}, or null")
        require(isinstance(self.log_probs, bool), "log_probs", self.log_probs, "true or false")
        if self.user is not None:
            text_id("user", self.user)
        good = self.explore is None or isinstance(self.explore, Explore)
        require(good, "explore", self.explore, "temperature, share, fixed and seed, or null")

    def _require_one_an_item(self, name: str, values: Sequence[Any]) -> None:
        require_list(name, values, LONGEST)
        if len(values) != len(self.items):
            what = f"{len(values)} of them, and {len(self.items)} items"
            raise InputError(what, where=name, remedy="give one an item")

    @classmethod
    def of(cls, given: Any) -> Self:
        """A request from plain values, such as JSON has.

        Raises:
            InputError: a name that a request does not have, or a value that it cannot have; says where, and a remedy.
        """
        found = plain(cls, given, "the request")
        if isinstance(boosts := found.get("boost"), list | tuple):
            found["boost"] = [at(f"boost[{n}]", partial(_boost, one)) for n, one in enumerate(boosts)]
        if isinstance(explore := found.get("explore"), Mapping):
            found["explore"] = at("explore", partial(_explore, explore))
        return cls(**found)


@dataclass(frozen=True)
class Shown:
    """A recommended item.

    Attributes:
        item: its raw id.
        title: as in the log's item table; else the id as text.
        score: log-probability up to a constant that all items of an answer share.
        log_prob: log-probability among the items that the filters leave, where it was asked for.
    """

    item: Id
    title: str
    score: float
    log_prob: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """What of a request was not used.

    Attributes:
        unknown: how many ids of ``items``, ``allow`` and ``block`` the catalogue does not have. They are dropped.
        unknown_ids: the first of them.
        older: known events of the history that are older than the newest ones, which alone are read. Their items still
            count as seen.
        repeated: events of an item that another event stands for, where the log keeps one event an item.
        unknown_user: whether a user is named of whom the store has no event, so that the history was empty.
    """

    unknown: int = 0
    unknown_ids: Sequence[Id] = ()
    older: int = 0
    repeated: int = 0
    unknown_user: bool = False


@dataclass(frozen=True)
class Explored:
    """How a list came about: all that an estimate needs to know.

    Attributes:
        arm: explored: the list was drawn; ranked: it was this request's turn to be ranked.
        chance: probability of this arm.
        temperature, fixed, seed: of the draw.
        ranked: first positions that are those of the ranked list. The probability of the first n items, whatever the
            arm, is share * exp(sum of the first n log_probs) + (1 - share) * (n <= ranked).
        log_probs: of each item given those before it, *in a list that is drawn*, whichever the arm; 0 where fixed.
    """

    arm: Literal["explored", "ranked"]
    chance: float
    temperature: float
    fixed: int
    seed: int
    ranked: int
    log_probs: Sequence[float]


@dataclass(frozen=True)
class Answer:
    """What is recommended.

    Attributes:
        items: best first, or as they were drawn; fewer than asked for where the filters leave fewer.
        left_out: what of the request was not used.
        version: of the bundle.
        explored: how the list came about, where the request asked to explore.
        decision: names it in the log of decisions, where a server keeps one; outcomes may refer to it.
    """

    items: Sequence[Shown]
    left_out: LeftOut
    version: str
    explored: Explored | None = None
    decision: str | None = None


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of given items.

    Attributes:
        log_probs: one an item, among all items that the request's filters leave; null for an item that they leave out
            and for an unknown one.
        left_out, version: as in `Answer`.
    """

    log_probs: Sequence[float | None]
    left_out: LeftOut = field(default_factory=LeftOut)
    version: str = ""


def plain(kind: type, given: Any, what: str) -> dict[str, Any]:
    """The values that a dataclass is made of, from JSON.

    Raises:
        InputError: it is no object, or has names that the dataclass does not.
    """
    require(isinstance(given, Mapping), what, given, "an object")
    names = [one.name for one in fields(kind)]
    for name in given:
        if name not in names:
            near = nearest(str(name), names)
            remedy = f"did you mean {near!r}?" if near else f"there are: {', '.join(names)}"
            raise InputError(f"there is no {shown(name)} in {what}", where=shown(name), remedy=remedy)
    return dict(given)


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:  # lists within lists
        return f"a {type(value).__name__}, nested too deeply,"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _boost(given: Any) -> Boost:
    if isinstance(given, Boost):
        return given
    found = plain(Boost, given, "a boost")
    if lacking := [one.name for one in fields(Boost) if one.name not in found]:
        raise InputError(f"it has no {lacking[0]}", where=lacking[0], remedy="give column, value and weight")
    return Boost(**found)


def _explore(given: Any) -> Explore:
    return Explore(**plain(Explore, given, "an exploration"))


def at(place: str, make: Callable[[], Any]) -> Any:
    """Say in an error where in the request it is."""
    try:
        return make()
    except InputError as error:
        raise InputError(error.what, where=f"{place}.{error.where}", remedy=error.remedy) from None


def require(good: bool, where: str, value: Any, wanted: str) -> None:
    """Refuse a value that is not as wanted."""
    if not good:
        raise InputError(f"{shown(value)} cannot be used here", where=where, remedy=f"give {wanted}")


def require_list(name: str, values: Any, most: int) -> None:
    """Refuse what is no list, or one that is too long."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    require(is_list, name, values, "a list")
    if len(values) > most:
        remedy = "give the newest" if name in ("items", "times", "rewards") else "give fewer"
        raise InputError(f"{len(values):,} of them, and a request may have {most:,}", where=name, remedy=remedy)


def require_ids(name: str, ids: Any) -> None:
    """Refuse what is no list of raw ids, or one that is too long."""
    require_list(name, ids, LONGEST)
    for place, one in enumerate(ids):
        require(type(one) is int or isinstance(one, str), f"{name}[{place}]", one, "a raw id: an integer or a text")


def text_id(name: str, one: Any) -> str:
    """The id of a user or of an event as text.

    Raises:
        InputError: it is no integer, and no printable text of a sensible length.
    """
    text = str(one) if type(one) is int and abs(one) < LARGEST else one
    good = isinstance(text, str) and 0 < len(text) <= LONGEST_ID and text.isprintable()
    require(good, name, one, f"an integer, or a text of 1 to {LONGEST_ID} printable characters")
    return text


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no truth value."""
    return type(value) in (int, float) and abs(value) < LARGEST  # not NaN either
