"""The value of each candidate reward at each event."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import polars as pl

from recalign.data.events.expression import refuse_names
from recalign.data.events.log import PREPARED
from recalign.data.events.messages import SourceRows
from recalign.data.events.table import read_rewards
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.splits import TRAIN, VALIDATION
from recalign.data.sequences.store import ADDED
from recalign.errors import InputError

OWN_REWARD = "reward"
"""The candidate that the log's YAML has now."""


@dataclass(frozen=True)
class Candidate:
    """A candidate reward. Its settings are those of ``data``, to which the chosen ones are copied.

    Attributes:
        reward: Polars SQL over the log's columns; ``reward`` is the log's own.
        relative_to: the column within whose bins it is ranked; null: it stays as it is.
    """

    reward: str
    relative_to: RelativeTo | None = None


def with_own(given: Mapping[str, Any], own: Candidate | None) -> dict[str, Candidate]:
    """The candidates, the log's own reward first unless one of them is the same or has its name.

    Args:
        given: candidates by name, each an expression, a `Candidate`, or the latter's settings.
        own: ``reward`` and ``relative_to`` of ``data``; None: the log has no reward.

    Raises:
        InputError: there is none, or a candidate's settings cannot be used.
    """
    if not isinstance(given, Mapping):
        remedy = "give each a name: {'long': 'seconds > 30'}"
        raise InputError(f"{given!r} has no names", where="rewards", remedy=remedy)
    found = {name: _read(one, f"rewards.{name}") for name, one in given.items()}
    if own is not None and own not in found.values() and OWN_REWARD not in found:
        found = {OWN_REWARD: Candidate(OWN_REWARD), **found}
    if not found:
        remedy = "name some, each with its expression: --rewards '{long: seconds > 30, share: seconds / length}'"
        raise InputError("no reward is named, and the log has none of its own", where="rewards", remedy=remedy)
    return found


def _read(given: Any, where: str) -> Candidate:
    if isinstance(given, Candidate):
        return given
    if isinstance(given, Mapping):
        with suppress(TypeError, KeyError):  # a setting is missing, or unknown
            relative, reward = given.get("relative_to"), given["reward"]
            if isinstance(reward, str | int | float):
                return Candidate(**{**given, "reward": str(reward), "relative_to": relative and RelativeTo(**relative)})
    elif given is not None:
        return Candidate(str(given))
    remedy = "write an expression, or {reward: EXPRESSION, relative_to: {column: COLUMN, bins: 10}}"
    raise InputError(f"{given} does not describe a reward", where=where, remedy=remedy)


def candidate_values(frame: pl.DataFrame, candidates: Mapping[str, Candidate]) -> pl.DataFrame:
    """Compute every candidate.

    Args:
        frame: training and validation events as in `recalign.data.sequences.Sequences`; none of the test.
        candidates: by name.

    Returns:
        A f64 column each, null where an event has no such reward.

    Raises:
        InputError: a candidate cannot be computed, is no number, has the same value for all training events, or none
            on training or on validation events with a known item.
    """
    log, rows = frame.drop(ADDED, strict=False), SourceRows(frame["row"])
    columns = []
    for name, one in candidates.items():
        where = f"rewards.{name}"
        _require_own_columns(one, where)
        values = read_rewards(log, rows, one.reward, where).alias("reward")
        if one.relative_to is not None and values.count():
            values = one.relative_to.ranks(frame.with_columns(values), f"{where}.relative_to.column")
        _require_variety(values, frame, one, where)
        columns.append(values.alias(name))
    return pl.DataFrame(columns)


def _require_own_columns(candidate: Candidate, where: str) -> None:
    """Refuse what is not the log's column here: events have numbers of their own for users and items, and seconds."""
    taken = (*PREPARED, *ADDED)
    refuse_names(candidate.reward, taken, where)
    if candidate.relative_to:
        refuse_names(candidate.relative_to.column, taken, where, [candidate.relative_to.column])


def _require_variety(values: pl.Series, frame: pl.DataFrame, candidate: Candidate, where: str) -> None:
    trained = values.filter(frame["split"] == TRAIN).drop_nulls()
    measured = values.filter((frame["split"] == VALIDATION) & (frame["item_id"] > 0)).drop_nulls()
    for name, present in (("training event", trained), ("validation event with an item known from training", measured)):
        if not len(present):
            remedy = "name columns that are filled in, give missing ones a value (coalesce(x, 0)), or leave it out"
            raise InputError(f"{candidate.reward!r} is null for every {name}", where=where, remedy=remedy)
    if trained.n_unique() < 2:
        text = f"{candidate.reward!r} is {trained[0]:g} for every training event that has a value"
        remedy = "compare it with something that differs between events (x >= 4), or leave it out"
        raise InputError(text, where=where, remedy=remedy)
