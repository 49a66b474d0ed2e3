"""Read outcomes, such as clicks on shown items, from any table of events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from recalign.data.events import LogMapping
from recalign.data.events.fields import missing_as_null, read_ids, read_timestamps
from recalign.data.events.reading import FileReader
from recalign.data.events.rows import read_numbers
from recalign.errors import InputError

MICRO = 1_000_000


def read(log: LogMapping, who: str, reward: str, pseudonym: Callable[[str], str]) -> tuple[pl.DataFrame, int]:
    """Outcomes of some tables, sorted by time: ``decision`` or ``user`` (a pseudonym), ``item, time, reward``.

    Args:
        log: the tables and their columns; its ``user`` is the column of user ids or of decision ids, see ``who``.
        who: user: outcomes are attributed by user, item and time; decision: by the decision ids in answers.
        reward: expression over the columns: how good an outcome was.
        pseudonym: maps a raw user id to the id in the decision log.

    Returns:
        The outcomes, times in microseconds since 1970, and how many rows were left out because their user or decision
        is missing.

    Raises:
        InputError: a table or a column is missing, or has invalid values.
    """
    try:
        raw, rows = FileReader(log, Path()).rows()
        raw = raw.with_columns(missing_as_null(raw[name]) for name in (log.user, log.item, str(log.timestamp)))
        named = raw[log.user].is_not_null()
        nameless, raw, rows = raw.height - int(named.sum()), raw.filter(named), rows.filter(named)
        ids = read_ids(raw[log.user], "data.log.user", rows).cast(pl.String)
        if who == "user":
            known = ids.unique()
            ids = ids.replace_strict(known, [pseudonym(one) for one in known], return_dtype=pl.String)
        time, per_second = read_timestamps(raw[str(log.timestamp)], log.time_unit, rows, log.time_format)
        columns = {
            who: ids,
            "item": read_ids(raw[log.item], "data.log.item", rows),
            "time": time * (MICRO // per_second),
            "reward": read_numbers(raw, rows, reward, "data.log.reward"),
        }
    except InputError as error:
        options = {"data.log.files": "--outcomes", "data.log.timestamp": "--time", "data.log.user": f"--{who}"}
        where = options.get(error.where or "", (error.where or "").replace("data.log.", "--"))
        remedy = str(error.remedy).partition(": data.log.where")[0]  # there is no YAML, so no condition
        remedy = remedy.replace("data.log.files", "--outcomes").replace("data.log.time_", "--time_")
        raise InputError(error.what, where=where, remedy=remedy) from error
    return pl.DataFrame(columns).sort("time", maintain_order=True), nameless
