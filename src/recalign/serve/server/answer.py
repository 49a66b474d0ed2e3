"""The models of answers, for Python, the command line and HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from recalign.serve.server.request import Id

MAX_NAMED = 10
"""Unknown ids that an answer lists; further ones are only counted."""


@dataclass(frozen=True)
class Shown:
    """A recommended item.

    Attributes:
        item: its raw id.
        title: as in the log's item table; else the id as text.
        score: log-probability up to a constant that all items of an answer share.
        log_prob: log-probability among the items that pass the filters; null unless requested.
    """

    item: Id
    title: str
    score: float
    log_prob: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """The parts of a request that were not used.

    Attributes:
        unknown: number of ids of ``items``, ``allow`` and ``block`` that are not in the catalogue. They are dropped.
        unknown_ids: the first `MAX_NAMED` of them, each once.
        older: known events of the history that are not read, because only the newest are. Their items still count as
            seen.
        repeated: events dropped because the log keeps one event per item.
        boosts: number of boosts of a value that no item has.
        unknown_user: whether the request names a user whose history, stored or given, is empty at the request's time.
    """

    unknown: int = 0
    unknown_ids: list[Id] = field(default_factory=list)
    older: int = 0
    repeated: int = 0
    boosts: int = 0
    unknown_user: bool = False

    def with_unknown(self, ids: Sequence[Id]) -> LeftOut:
        """A copy with further unknown ids."""
        if not ids:
            return self
        named = list(dict.fromkeys([*self.unknown_ids, *ids]))[:MAX_NAMED]
        return replace(self, unknown=self.unknown + len(ids), unknown_ids=named)


@dataclass(frozen=True)
class Explored:
    """How a list was made: all that an off-policy estimate needs.

    Attributes:
        arm: explored: the list was drawn; ranked: chance left this request its ranked list.
        chance: probability of this arm.
        temperature, fixed, seed: of the draw.
        ranked: how many first positions equal the ranked list's. The probability of the first n items, in either
            arm, is share * exp(sum of the first n log_probs) + (1 - share) * (n <= ranked).
        log_probs: of each item given those before it, *as if the list were drawn*, in both arms; 0 if fixed.
    """

    arm: Literal["explored", "ranked"]
    chance: float
    temperature: float
    fixed: int
    seed: int
    ranked: int
    log_probs: list[float]


@dataclass(frozen=True)
class Answer:
    """What is recommended.

    Attributes:
        items: best first, or as they were drawn; fewer than requested if the filters leave fewer.
        left_out: the parts of the request that were not used.
        version: of the bundle.
        explored: how the list was made; null unless the request asked to explore.
        decision: id in the server's log of decisions, for feedback to refer to; null: not logged.
    """

    items: list[Shown]
    left_out: LeftOut
    version: str
    explored: Explored | None = None
    decision: str | None = None


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of given items.

    Attributes:
        log_probs: one per item, among all items that pass the request's filters; null for an item that does not, and
            for an unknown one.
        left_out, version: as in `Answer`.
    """

    log_probs: list[float | None]
    left_out: LeftOut = field(default_factory=LeftOut)
    version: str = ""


@dataclass(frozen=True)
class Taken:
    """How many events were stored, and how many were skipped because their user already has an event of that id."""

    added: int
    repeated: int


@dataclass(frozen=True)
class Deleted:
    """How many events ``DELETE /users/{user}`` has deleted."""

    deleted: int


@dataclass(frozen=True)
class Alive:
    """The version that the running server serves."""

    version: str


@dataclass(frozen=True)
class Problem:
    """What is wrong, where in the request, and what to do."""

    error: str
    where: str | None = None
    remedy: str | None = None
