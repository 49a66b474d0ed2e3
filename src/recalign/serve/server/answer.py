"""What is answered to a request: from Python, from the command and over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from recalign.serve.server.request import Id

MAX_NAMED = 10
"""Unknown ids that an answer names; the others are counted."""


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
    """The parts of a request that were not used.

    Attributes:
        unknown: how many ids of ``items``, ``allow`` and ``block`` the catalogue does not have. They are dropped.
        unknown_ids: the first of them.
        older: known events of the history that are older than the newest ones, which alone are read. Their items still
            count as seen.
        repeated: events of an item that another event stands for, where the log keeps one event an item.
        unknown_user: whether a user is named of whom the store has no event, so that the history was empty.
    """

    unknown: int = 0
    unknown_ids: list[Id] = field(default_factory=list)
    older: int = 0
    repeated: int = 0
    unknown_user: bool = False

    def with_unknown(self, ids: Sequence[Id]) -> LeftOut:
        """The same with further unknown ids."""
        if not ids:
            return self
        named = list(dict.fromkeys([*self.unknown_ids, *ids]))[:MAX_NAMED]
        return replace(self, unknown=self.unknown + len(ids), unknown_ids=named)


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
    log_probs: list[float]


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

    items: list[Shown]
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
    """That the server runs, and the version that it serves."""

    version: str


@dataclass(frozen=True)
class Problem:
    """What is wrong, where in the request, and what to do."""

    error: str
    where: str | None = None
    remedy: str | None = None
