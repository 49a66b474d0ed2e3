"""Read the table of `recalign feedback` as the lists that were shown, and the users' histories before them.

A list that cannot be used is left out and counted by the first reason that applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from recalign.data.events import LogMapping, data_root
from recalign.data.events.audit import Section
from recalign.data.events.expression import condition, evaluate
from recalign.data.events.reading import FileReader
from recalign.data.events.rows import read_numbers
from recalign.errors import InputError
from recalign.serve.server.bundle import Bundle, load_bundle

OF_LIST = (
    "user", "timestamp", "version", "seen", "hidden", "blocked", "allowed", "boosts", "arm", "chance", "temperature",
    "fixed",
)  # fmt: skip
NEEDED = ("decision", "item", "position", "log_prob", "shown", "chosen", "outcome_at", "reward", *OF_LIST)
REMEDY = "name the feedback.yaml that recalign feedback --unshown wrote"


@dataclass(frozen=True)
class Served:
    """Usable lists of a served log, and the users' events.

    Attributes:
        lists: one row per list of a request that explored (drawn or ranked), by time: columns `OF_LIST`, ``decision``
            and, with a value per position, ``items``, ``rewards`` and ``log_probs``.
        events: chosen items by time: ``user, item, time, reward, shown_at`` (null: not from a list); times in
            microseconds since 1970. Rewards are the table's own column, as in the server's histories.
        counts: numbers of lists and outcomes, by section and name.
        rewardless: of otherwise usable lists with an outcome, the number with an unknown reward, and the total.
    """

    lists: pl.DataFrame
    events: pl.DataFrame
    counts: dict[str, Section]
    rewardless: tuple[int, int] = (0, 0)


def read_served(path: Path) -> Served:
    """Read a log.

    Args:
        path: a YAML as `recalign feedback` writes it; ``root``, ``files``, ``where``, ``columns`` and ``reward`` count.

    Raises:
        InputError: it is not such a YAML, or the table was not written by `recalign feedback`.
    """
    rows = read_rows(path)
    shown = rows.filter("shown").filter(pl.col("meets").any().over("decision"))
    shown = shown.sort("timestamp", "decision", "position").with_columns(pl.col("position").cast(pl.Int64))
    places = {"items": "item", "rewards": "reward", "log_probs": "log_prob", "positions": "position"}
    lists = shown.group_by("decision", maintain_order=True).agg(
        pl.col(OF_LIST).first(),
        any_chosen=pl.col("chosen").any(),
        whole=pl.col("meets").all(),
        **{name: pl.col(column) for name, column in places.items()},
    )
    used, why = split(lists, UNUSABLE)
    chosen = rows.filter(pl.col("chosen") & pl.col("outcome_at").is_not_null()).sort("outcome_at", maintain_order=True)
    shown_at = pl.when("shown").then("timestamp")
    events = chosen.select("user", "item", reward="own_reward", time="outcome_at", shown_at=shown_at)
    versions = dict(lists.group_by("version").len().sort("version").iter_rows())
    counts: dict[str, Section] = {
        "log": {
            "lists": lists.height,
            "lists without an outcome": int((~lists["any_chosen"]).sum()),
            "outcomes in no row of a list": rows.filter(~pl.col("shown")).height,
            "lists with chances": used.height,
            "of these drawn": used.filter(arm="explored").height,
        },
        "versions" + (" (mixed: each is estimated alone)" if len(versions) > 1 else ""): versions,
        "lists that cannot be used": why,
    }
    unknown = int(why[UNKNOWN])
    rewardless = unknown, unknown + used.filter("any_chosen").height
    return Served(used.drop("positions", "any_chosen", "whole"), events, counts, rewardless)


def split(lists: pl.DataFrame, reasons: dict[str, pl.Expr]) -> tuple[pl.DataFrame, Section]:
    """The lists to which no reason for exclusion applies, and counts of the others by the first reason that does."""
    lists = lists.with_columns(why=pl.coalesce(pl.when(holds).then(pl.lit(name)) for name, holds in reasons.items()))
    counts = dict(lists["why"].value_counts().iter_rows())
    return lists.filter(pl.col("why").is_null()).drop("why"), {name: counts.get(name, 0) for name in reasons}


UNKNOWN = "with an unknown reward"
UNUSABLE = {
    "of which `where` leaves only some places": ~pl.col("whole"),
    "that did not explore: their chances are not known": pl.col("arm").is_null(),
    "with places that are missing from the table": (
        pl.col("positions") != pl.int_ranges(1, pl.col("positions").list.len() + 1, dtype=pl.Int64)
    ),
    "with a chance of 0, above 1 or none": ~(
        pl.col("log_probs").list.eval(((pl.element() <= 0) & (pl.element().exp() > 0)).fill_null(False)).list.all()
        & ((pl.col("chance") > 0) & (pl.col("chance") <= 1)).fill_null(False)
    ),
    "with filters that the log does not record (blocked, allowed, boosted)": (
        (pl.col("blocked") > 0) | pl.col("allowed").is_not_null() | (pl.col("boosts") > 0)
    ),
    UNKNOWN: pl.col("rewards").list.eval(pl.element().is_null()).list.any(),
}
"""Reasons why a list cannot be used; the first that holds counts."""


class UserHistories:
    """Each user's history before a list was shown.

    Args:
        events: as `Served.events`.
    """

    def __init__(self, events: pl.DataFrame) -> None:
        known = events.with_columns(pl.col("shown_at").fill_null(-1))
        self._of = {str(user): frame for (user,), frame in known.partition_by("user", as_dict=True).items()}
        self._when = {user: frame.select("time", "shown_at").to_numpy() for user, frame in self._of.items()}

    def before(self, user: str, time: int, most: int) -> tuple[list[Any], list[int], list[float | None]]:
        """Items, times and rewards of a user's newest events until a time, ``most`` at most, oldest first.

        Outcomes of lists shown then or later are left out: if outcome times are in whole seconds, an outcome can seem
        earlier than its list.
        """
        if user not in self._of:
            return [], [], []
        when_N2 = self._when[user]
        until = int(np.searchsorted(when_N2[:, 0], time, side="right"))
        places = np.flatnonzero(when_N2[:until, 1] < time)[-most:]
        frame = self._of[user][places]
        return frame["item"].to_list(), frame["time"].to_list(), frame["reward"].to_list()


def settings(path: Path) -> tuple[dict[str, Any], LogMapping, Path]:
    """A log's ``data`` settings, its `LogMapping`, and the folder of its table.

    Raises:
        InputError: it is not such a YAML.
    """
    try:
        data = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("data")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"it cannot be read as YAML with keys: {error}", where=str(path), remedy=REMEDY) from None
    if not isinstance(data, dict) or not isinstance(data.get("log"), dict):
        raise InputError("it has no key data.log", where=str(path), remedy=REMEDY)
    try:
        log = LogMapping(**{**data["log"], "items": None})  # titles come from the bundle
    except TypeError as error:
        raise InputError(f"data.log: {error}", where=str(path), remedy=REMEDY) from error
    root = data_root(data.get("root") and str(path.parent / Path(data["root"]).expanduser()))
    return data, log, root


def read_rows(path: Path) -> pl.DataFrame:
    """The table with ``reward``, and ``meets``: whether a row fulfils ``where``. Histories need all rows.

    Raises:
        InputError: as in `read_served`.
    """
    data, log, root = settings(path)
    raw, rows = FileReader(log, root).rows()
    if lacking := [name for name in NEEDED if name not in raw.columns]:
        raise InputError(f"the table has no column {lacking[0]!r}", where=str(path), remedy=REMEDY)
    named = {name: evaluate(raw, one, f"data.log.columns.{name}", rows) for name, one in log.columns.items()}
    raw = raw.with_columns(**named)
    meets = condition(raw, log.where, "data.log.where", rows) if log.where else pl.lit(True)
    reward = read_numbers(raw, rows, data.get("reward") or "reward", "data.reward")
    return raw.with_columns(own_reward=pl.col("reward"), reward=reward, meets=meets)


def open_bundle(run: Path) -> Bundle:
    """Load the bundle of a run folder, or a bundle's own folder.

    Raises:
        InputError: it has no bundle.
    """
    return load_bundle(inside if (inside := run / "bundles").is_dir() else run)
