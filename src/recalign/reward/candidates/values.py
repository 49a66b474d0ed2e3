"""The value of each candidate reward at each event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from recalign.data.events.expression import refuse_names
from recalign.data.events.log import PREPARED
from recalign.data.events.messages import SourceRows
from recalign.data.events.rows import read_numbers
from recalign.data.sequences.relative import RelativeTo
from recalign.data.sequences.splits import TRAIN
from recalign.data.sequences.store import ADDED
from recalign.errors import InputError

OWN_REWARD = "reward"
"""Name of the candidate that is the log's present reward."""


@dataclass(frozen=True)
class Candidate:
    """A candidate reward. Its settings are those of ``data``: copy the chosen ones there.

    Attributes:
        reward: Polars SQL over the log's columns; ``reward`` is the log's own.
        relative_to: rank the reward within bins of this column; null: no ranking.
    """

    reward: str
    relative_to: RelativeTo | None = None


def with_own_reward(given: Mapping[str, Any], own: Candidate | None) -> dict[str, Candidate]:
    """Put the log's own reward before the candidates, unless one of them is equal or has the name `OWN_REWARD`.

    Args:
        given: candidates by name, each an expression or the settings of a `Candidate`.
        own: ``reward`` and ``relative_to`` of ``data``; None: the log has no reward.

    Raises:
        InputError: there is no candidate, or a candidate's settings are wrong.
    """
    found = {name: _read(settings, f"rewards.{name}") for name, settings in given.items()}
    if own is not None and own not in found.values() and OWN_REWARD not in found:
        found = {OWN_REWARD: Candidate(OWN_REWARD), **found}
    if not found:
        remedy = "name some, each with its expression: --rewards '{long: seconds > 30, share: seconds / length}'"
        raise InputError("no reward is named, and the log has none of its own", where="rewards", remedy=remedy)
    return found


def _read(given: Any, where: str) -> Candidate:
    settings = dict(given) if isinstance(given, Mapping) else {"reward": given}
    try:
        if relative := settings.pop("relative_to", None):
            relative = RelativeTo(**relative)
        return Candidate(str(settings.pop("reward")), relative, **settings)
    except (TypeError, KeyError) as error:  # a setting is missing, unknown or of another type
        remedy = "write an expression, or {reward: EXPRESSION, relative_to: {column: COLUMN, bins: 10}}"
        raise InputError(f"{given} does not describe a reward", where=where, remedy=remedy) from error


def candidate_values(frame: pl.DataFrame, candidates: Mapping[str, Candidate]) -> pl.DataFrame:
    """Compute every candidate.

    Args:
        frame: training and validation events as in `recalign.data.sequences.Sequences`; none of the test.
        candidates: by name.

    Returns:
        A f64 column per candidate, null if an event lacks the reward.

    Raises:
        InputError: a candidate cannot be computed, is not numeric, is constant on training events, or is null for all
            training events or all validation events with a known item.
    """
    log, rows, own = frame.drop(ADDED, strict=False), SourceRows(frame["row"]), (*PREPARED, *ADDED)
    train, columns = frame["split"] == TRAIN, []
    known = ~train & (frame["item_id"] > 0)
    parts = {"training event": train, "validation event with an item known from training": known}
    for name, candidate in candidates.items():
        where, relative = f"rewards.{name}", candidate.relative_to
        refuse_names(candidate.reward, own, where)
        values = read_numbers(log, rows, candidate.reward, where).alias("reward")
        if relative is not None:
            refuse_names(relative.column, own, where)
            values = relative.ranks(frame.with_columns(values), f"{where}.relative_to.column")
        for part, chosen in parts.items():
            if not values.filter(chosen).count():
                remedy = "name columns that are filled in, give missing ones a value (coalesce(x, 0)), or leave it out"
                raise InputError(f"{candidate.reward!r} is null for every {part}", where=where, remedy=remedy)
        trained = values.filter(train).drop_nulls()
        if trained.n_unique() < 2:
            text = f"{candidate.reward!r} is {trained[0]:g} for every training event that has a value"
            remedy = "compare it with something that differs between events (x >= 4), or leave it out"
            raise InputError(text, where=where, remedy=remedy)
        columns.append(values.alias(name))
    return pl.DataFrame(columns)
