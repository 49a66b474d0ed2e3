"""What is asked: the same from Python, from the command and over HTTP. `recalign.serve.server.answer` has the answer.

All that can be said of a request without a bundle is checked here; `recalign.serve.server.catalogue` checks the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, Self

from recalign.errors import InputError
from recalign.serve.server.require import at, is_number, plain, require, require_list, text_id

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
    """Draw the list by chance, so that what it proves is known later (`recalign.serve.server.explore`).

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
            found["explore"] = at("explore", lambda: Explore(**plain(Explore, explore, "an exploration")))
        return cls(**found)


def _boost(given: Any) -> Boost:
    if isinstance(given, Boost):
        return given
    found = plain(Boost, given, "a boost")
    if lacking := [one.name for one in fields(Boost) if one.name not in found]:
        raise InputError(f"it has no {lacking[0]}", where=lacking[0], remedy="give column, value and weight")
    return Boost(**found)


def require_ids(name: str, ids: Any) -> None:
    """Refuse what is no list of raw ids, or one that is too long."""
    require_list(name, ids, LONGEST)
    for place, one in enumerate(ids):
        require(type(one) is int or isinstance(one, str), f"{name}[{place}]", one, "a raw id: an integer or a text")
