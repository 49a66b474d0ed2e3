"""Windows of a served log, each compared with the first days of its version: what has changed, by a stated rule.

In each window every figure's difference from the reference is tested, two-sided (but `RISES`), by the bootstrap over
users: a user counts equally often in both, for the same people come back. Holm's procedure (1979) keeps the probability
of any alarm in a window without change at `LEVEL`, whatever the dependence between figures. A figure that rests on
fewer than `LEAST_USERS` users in the window or in the reference is not tested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from recalign.bootstrap import CrossedBootstrap, Estimate, holm
from recalign.errors import InputError
from recalign.serve.loop.figures import figures

LEVEL = 0.05
"""Probability of any alarm in a window without change."""
LEAST_USERS = 100
"""Users that a figure has to rest on."""
RISES = ("unknown",)
"""Figures whose fall is no alarm. Nothing would be to do; and where few outcomes are unknown, a window without any has
draws without any, and seems more sure than it is."""
SLACK = 0.1
"""Share of a window that its log may lack: the days of a week differ, so that less than a window is not compared."""
DAY = 86_400_000_000
COLUMNS = (
    *("user", "item", "timestamp", "shown", "chosen", "reward", "position", "log_prob", "fixed", "decision", "version"),
    *("meets", "predicted"),
)
"""Of a served log, all that is looked at: a user may have put columns of any name beside them."""


@dataclass(frozen=True)
class Rule:
    """What is compared with what.

    Attributes:
        days: of a window.
        reference: first days of a version, with which its windows are compared.
    """

    days: float = 7.0
    reference: float = 14.0


@dataclass(frozen=True)
class Change:
    """A figure of a window beside that of the reference.

    Attributes:
        now, before: in the window and in the reference.
        p: that nothing has changed, by Holm's procedure over the window's figures; None: not tested.
    """

    now: Estimate
    before: Estimate
    p: float | None

    @property
    def alarm(self) -> bool:
        """Whether it has changed."""
        return self.p is not None and self.p <= LEVEL

    @property
    def difference(self) -> Estimate:
        """Now less before."""
        return Estimate(self.now.value - self.before.value, self.now.draws_D - self.before.draws_D)

    def p_value(self, rises: bool) -> float:
        """That nothing has changed, by this figure alone; or, if only rises count, that it has not risen."""
        difference = self.difference
        return 1.0 if rises and difference.value <= 0 else difference.p_value()


@dataclass(frozen=True)
class Window:
    """A window, or the reference, of which nothing is tested.

    Attributes:
        begins, ends: microseconds since 1970.
        items: different ones that were shown.
        changes: by figure.
    """

    begins: int
    ends: int
    lists: int
    users: int
    items: int
    changes: dict[str, Change]

    @property
    def alarms(self) -> dict[str, Change]:
        """Figures that have changed."""
        return {name: one for name, one in self.changes.items() if one.alarm}

    @property
    def said(self) -> str:
        """In two words at most."""
        tested = any(one.p is not None for one in self.changes.values())
        return "alarm" if self.alarms else "no alarm" if tested else "too few"

    @property
    def dates(self) -> str:
        """First and last day, UTC."""
        days = (datetime.fromtimestamp(one / 1e6, UTC) for one in (self.begins, self.ends - 1))
        return " .. ".join(f"{day:%Y-%m-%d}" for day in days)


@dataclass(frozen=True)
class Watched:
    """A version, its reference and its windows.

    Attributes:
        catalogue: how many items it knows; None: nobody knows.
        left_out: figures that are not computed, and why.
        rest: lists after the last whole window.
    """

    version: str
    catalogue: int | None
    reference: Window
    windows: list[Window]
    left_out: dict[str, str]
    rest: int


def watch(
    rows: pl.DataFrame,
    known: Mapping[str, Collection[Any]],
    rule: Rule | None = None,
    drift: pl.DataFrame | None = None,
    draws: int = 2000,
) -> tuple[list[Watched], dict[str, str]]:
    """Compare the windows of each version with its own reference.

    Args:
        rows: of `recalign.serve.loop.served.read_rows`; ``predicted`` beside, where there are predictions. Of the
            others only `COLUMNS` count.
        known: ids of the items of the versions that are there.
        rule: of windows.
        drift: ``decision``, and ``value`` = log p - log p_start of its first item.
        draws: of the bootstrap.

    Returns:
        Versions in the order of time, and those whose log is too short, with why.

    Raises:
        InputError: it is too short of all.
    """
    rule = rule or Rule()
    rows = rows.select(name for name in COLUMNS if name in rows.columns)
    all_shown = rows.filter(pl.col("shown"))
    shown = all_shown.filter(pl.col("meets").all().over("decision")).sort("timestamp")
    # Where a condition leaves lists out, outcomes without a list cannot be told to be of those or of the others.
    unexplained = rows.filter(~pl.col("shown"), pl.lit(shown.height == all_shown.height))
    alone = _versions_of(unexplained, shown)
    found, short = list[Watched](), dict[str, str]()
    for (version,), own in shown.partition_by("version", as_dict=True, maintain_order=True).items():
        lasts = _days(own)
        count = int((lasts - rule.reference) / rule.days + SLACK)
        if count < 1:
            short[str(version)] = (
                f"its lists span {lasts:.1f} days; reference and window take {rule.reference + rule.days:g}"
            )
            continue
        whole = pl.concat([own, alone.filter(version=version)], how="diagonal_relaxed")
        found.append(_watched(str(version), whole, count, known.get(str(version)), rule, drift, draws))
    if not found:
        said = "; ".join(f"{version}: {why}" for version, why in short.items()) or "it shows no list"
        remedy = "wait, or give a shorter --reference, in whole weeks if the days of a week differ, or shorter --days"
        raise InputError(f"the log is too short: {said}", where="log", remedy=remedy)
    return found, short


def _days(rows: pl.DataFrame) -> float:
    """From the first to the last of rows in the order of time."""
    when_N = rows["timestamp"].to_numpy()
    return float(when_N[-1] - when_N[0]) / DAY


def _versions_of(alone: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Outcomes in no row of a list, of the version that showed their user the last list before, or the first after.

    Were those before a user's first list left out, the reference, in which everybody's first list is, would have fewer.
    """
    lists = shown.select("user", "timestamp", "version").unique(maintain_order=True)
    on = {"on": "timestamp", "by": "user", "check_sortedness": False}
    found = alone.drop("version").sort("timestamp").join_asof(lists, **on)  # type: ignore[arg-type]
    found = found.join_asof(lists, strategy="forward", suffix="_after", **on)  # type: ignore[arg-type]
    return found.with_columns(pl.coalesce("version", "version_after")).drop("version_after")


def _watched(
    version: str,
    rows: pl.DataFrame,
    count: int,
    known: Collection[Any] | None,
    rule: Rule,
    drift: pl.DataFrame | None,
    draws: int,
) -> Watched:
    when = rows.filter("shown")["timestamp"]
    begins, last = int(when[0]), int(when[-1])  # outcomes of the last day have no lists yet: `feedback` waits for those
    since = (pl.col("timestamp") - begins) / DAY - rule.reference
    at = pl.when(since < 0).then(0).otherwise(1 + (since / rule.days).floor()).cast(pl.Int64)
    rows = rows.filter(pl.col("timestamp").is_between(begins, last)).with_columns(
        at=at, early=since < -rule.reference / 2
    )
    rest = rows.filter("shown", pl.col("at") > count)["decision"].n_unique()
    rows = rows.filter(pl.col("at") <= count).with_columns(user=pl.col("user").rank("dense").cast(pl.Int64) - 1)
    of_all, left_out = figures(rows, known, drift)
    bootstrap = CrossedBootstrap(int(rows["user"].max()) + 1, draws)  # type: ignore[arg-type]
    each = {name: one.estimates(bootstrap, count + 1) for name, one in of_all.items()}
    ends = [rule.reference + n * rule.days for n in range(count + 1)]
    spans = [(begins + round(a * DAY), begins + round(b * DAY)) for a, b in zip([0.0, *ends], ends, strict=False)]
    windows = [_window(n, span, rows, each) for n, span in enumerate(spans)]
    return Watched(version, None if known is None else len(known), windows[0], windows[1:], left_out, rest)


def _window(
    n: int, span: tuple[int, int], rows: pl.DataFrame, each: Mapping[str, tuple[list[Estimate], np.ndarray]]
) -> Window:
    shown = rows.filter("shown", at=n)
    tested = [
        name
        for name, (found, users_W) in each.items()
        if n and min(users_W[0], users_W[n]) >= LEAST_USERS and np.isfinite(found[n].value - found[0].value)
    ]
    bare = {name: Change(found[n], found[0], None) for name, (found, _) in each.items()}
    p_values = holm([bare[name].p_value(name in RISES) for name in tested])
    changes = bare | {
        name: Change(bare[name].now, bare[name].before, float(p)) for name, p in zip(tested, p_values, strict=True)
    }
    lists, users, items = (shown[name].n_unique() for name in ("decision", "user", "item"))
    return Window(*span, lists, users, items, changes)
