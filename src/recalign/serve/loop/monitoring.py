"""Compare time windows of a served log with the first days of the same version (the reference), to detect changes.

A figure of a window is a ratio of sums over users:

- ``unknown``: share of the outcomes whose item the version does not know.
- ``list``: mean over lists of the summed rewards of chosen items; a choice without a known reward adds nothing.
- ``chosen``: mean reward of a chosen item.
- ``promised``: mean over chosen items of the reward minus its prediction; 0 if predictions are right on average.
- ``drift``: mean of log p - log p_start of the first items of drawn lists, p the served policy: an unbiased estimate
  of the Kullback-Leibler divergence of the served policy from the starting policy.

In each window every figure's difference from the reference is tested, two-sided (except `ONE_SIDED`), by a bootstrap
over users: a draw gives a user the same weight in both, as users return. Holm's procedure (1979) keeps the probability
of any alarm in a window without change at `LEVEL`, whatever the dependence between figures. A figure with fewer than
`MIN_USERS` users in the window or in the reference is not tested.

Suffixes: M rows, W windows with the reference at 0, U users, D draws.
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

LEVEL = 0.05
"""Probability of any alarm in a window without change."""
MIN_USERS = 100
"""Fewest users, in a window and in the reference, for a test."""
ONE_SIDED = ("unknown",)
"""Figures for which only a rise is an alarm. A fall needs no action; and if few outcomes are unknown, a window without
any has none in any bootstrap draw, so its fall would seem certain."""
MISSING_SHARE = 0.1
"""Share of the last window that may be missing. Shorter windows are not compared, as the days of a week differ."""
DAY = 86_400_000_000
COUNTED = {"list": "decision", "user": "user", "item": "item"}
COLUMNS = "user", "item", "timestamp", "shown", "chosen", "reward", "decision", "version", "meets", "predicted"
"""The columns that are read; others are dropped, as users may add columns of any name."""


@dataclass(frozen=True)
class VersionReport:
    """A version's windows, each compared with the reference.

    Attributes:
        table: one row per window and figure: ``window`` (0 is the reference), its ``dates`` and numbers of ``lists``,
            ``users`` and different ``items``; ``figure``, its ``value`` with a 95 % interval ``low`` to ``high``; the
            ``difference`` from the reference with its interval; ``p``, the p-value of no change, adjusted by Holm's
            procedure over the window's figures (null: not tested); and whether it is an ``alarm``.
        left_out: figures that are not computed, and why.
        rest: number of lists after the last whole window.
    """

    table: pl.DataFrame
    left_out: dict[str, str]
    rest: int


def compare_windows(
    rows: pl.DataFrame,
    known: Mapping[str, Collection[Any]],
    days: float = 7.0,
    reference: float = 14.0,
    drift: pl.DataFrame | None = None,
    draws: int = 2000,
) -> tuple[dict[str, VersionReport], dict[str, str]]:
    """Compare the windows of each version with its own reference.

    Args:
        rows: from `recalign.serve.loop.served.read_rows`, with ``predicted`` if predictions exist. Columns not in
            `COLUMNS` are ignored.
        known: item ids by version, of the versions whose bundle is given.
        days: length of a window, in days.
        reference: length of the reference, the start of each version, in days.
        drift: columns ``decision``, and ``value`` = log p - log p_start of its first item.
        draws: number of bootstrap draws.

    Returns:
        Reports by version, in time order, and the reasons for the versions whose log is too short.

    Raises:
        InputError: the log is too short for every version.
    """
    rows = rows.select(name for name in COLUMNS if name in rows.columns)
    all_shown = rows.filter("shown")
    shown = all_shown.filter(pl.col("meets").all().over("decision")).sort("timestamp")
    # If ``where`` leaves lists out, outcomes without a list cannot be attributed to the lists that remain.
    alone = _with_version(rows.filter(~pl.col("shown"), pl.lit(shown.height == all_shown.height)), shown)
    found, short = dict[str, VersionReport](), dict[str, str]()
    for (version,), own in shown.partition_by("version", as_dict=True, maintain_order=True).items():
        span = float(own["timestamp"][-1] - own["timestamp"][0]) / DAY
        count = int((span - reference) / days + MISSING_SHARE)
        if count < 1:
            short[str(version)] = f"its lists span {span:.1f} days; reference and window take {reference + days:g}"
            continue
        whole = pl.concat([own, alone.filter(version=version)], how="diagonal_relaxed")
        ends = [reference + n * days for n in range(count + 1)]
        found[str(version)] = _report(whole, ends, known.get(str(version)), drift, draws)
    if not found:
        why = "; ".join(f"{version}: {why}" for version, why in short.items()) or "it has no lists"
        remedy = "wait, or give a shorter --reference, in whole weeks if the days of a week differ, or shorter --days"
        raise InputError(f"the log is too short: {why}", where="log", remedy=remedy)
    return found, short


def _with_version(alone: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Give outcomes without a list the version of their user's last list before them, else of the first list after.

    If those before a user's first list were left out, the reference would have fewer: most first lists are in it.
    """
    lists = shown.select("user", "timestamp", "version").unique(maintain_order=True)
    on = {"on": "timestamp", "by": "user", "check_sortedness": False}
    found = alone.drop("version").sort("timestamp").join_asof(lists, **on)  # type: ignore[arg-type]
    found = found.join_asof(lists, strategy="forward", suffix="_after", **on)  # type: ignore[arg-type]
    return found.with_columns(pl.coalesce("version", "version_after")).drop("version_after")


def _report(
    rows: pl.DataFrame, ends: list[float], known: Collection[Any] | None, drift: pl.DataFrame | None, draws: int
) -> VersionReport:
    """Compare the windows of one version. ``ends``: where the reference and each window end, in days."""
    when = rows.filter("shown")["timestamp"]
    begins, last = int(when[0]), int(when[-1])  # the newest outcomes have no lists yet
    rows = rows.filter(pl.col("timestamp").is_between(begins, last))
    day_M = ((rows["timestamp"] - begins) / DAY).to_numpy()
    rows = rows.with_columns(at=pl.Series(np.searchsorted(ends, day_M, side="right"), dtype=pl.Int64))
    rest = rows.filter("shown", pl.col("at") == len(ends))["decision"].n_unique()
    rows = rows.filter(pl.col("at") < len(ends)).with_columns(user=pl.col("user").rank("dense").cast(pl.Int64) - 1)
    of_all, left_out = figures(rows, known, drift)
    bootstrap = CrossedBootstrap(int(rows["user"].max()) + 1, draws)  # type: ignore[arg-type]
    each = {name: estimates(one, bootstrap, len(ends)) for name, one in of_all.items()}
    table = list[dict[str, Any]]()
    for n, (start, end) in enumerate(zip([0.0, *ends], ends, strict=False)):
        shown = rows.filter("shown", at=n)
        counts = {f"{name}s": shown[column].n_unique() for name, column in COUNTED.items()}
        table += _compared({"window": n, "dates": _dates(begins, start, end), **counts}, each)
    types = {"p": pl.Float64}  # even if nothing is tested
    return VersionReport(pl.DataFrame(table, schema_overrides=types, infer_schema_length=None), left_out, rest)


def _compared(window: dict[str, Any], each: Mapping[str, tuple[list[Estimate], np.ndarray]]) -> list[dict[str, Any]]:
    n, tested, rows = window["window"], dict[str, float](), list[dict[str, Any]]()
    for name, (found, users_W) in each.items():
        difference = found[n] - found[0]
        if n and min(users_W[0], users_W[n]) >= MIN_USERS and np.isfinite(difference.value):
            tested[name] = 1.0 if name in ONE_SIDED and difference.value <= 0 else difference.p_value()
        values = {"figure": name, "value": found[n].value, "difference": difference.value}
        for column, one in (("", found[n]), ("difference_", difference)):
            values[f"{column}low"], values[f"{column}high"] = one.interval()
        rows.append({**window, **values})
    adjusted = dict(zip(tested, holm([*tested.values()]).tolist(), strict=True))
    return [{**row, "p": (p := adjusted.get(row["figure"])), "alarm": p is not None and p <= LEVEL} for row in rows]


def _dates(begins: int, start: float, end: float) -> str:
    """First and last date, UTC, of a window; ``begins`` in microseconds since 1970, its ends in days after that."""
    ends = begins + round(start * DAY), begins + round(end * DAY) - 1
    return " .. ".join(f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d}" for time in ends)


def figures(
    rows: pl.DataFrame, known: Collection[Any] | None, drift: pl.DataFrame | None = None
) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    """Rows ``user, at, value, count`` of each figure that can be computed, and why others are left out.

    Args:
        rows: one version's rows, with the window's number ``at`` (0 .. W - 1) and users as integers from 0;
            ``predicted`` if predictions exist.
        known: ids of the version's items; None: unknown, as no bundle is given.
        drift: as in `compare_windows`; None: no start is given.
    """
    shown = rows.filter("shown")
    chosen = shown.filter("chosen", pl.col("reward").is_not_null())
    earned = pl.when("chosen").then("reward").fill_null(0.0).sum()
    value, why = {"list": shown.group_by("user", "at", "decision").agg(value=earned)}, dict[str, str]()
    if known is None:
        why["unknown"] = "no bundle of this version is named: --bundles"
    elif shown.height == rows.height:
        why["unknown"] = "every outcome of its users has a list, or --unshown was not given, or `where` left out lists"
    else:
        unknown = (~pl.col("item").cast(pl.String).is_in([str(item) for item in known])).cast(pl.Float64)
        value = {"unknown": rows.filter("chosen").with_columns(value=unknown)} | value
    value["chosen"] = chosen.with_columns(value="reward")
    if "predicted" in rows.columns:
        both = chosen.filter(pl.col("predicted").is_not_null())
        value["promised"] = both.with_columns(value=pl.col("reward") - pl.col("predicted"))
    else:
        why["promised"] = "no predictions are named: --predicted"
    if drift is None:
        why["drift"] = "the start is not named: --start"
    else:
        of_list = shown.unique("decision", keep="first", maintain_order=True)
        value["drift"] = of_list.join(drift, on="decision")
    return {name: one.select("user", "at", "value", count=1) for name, one in value.items()}, why


def estimates(rows: pl.DataFrame, draws: CrossedBootstrap, windows: int) -> tuple[list[Estimate], np.ndarray]:
    """Estimates of a figure in each window, with users resampled jointly across windows, and numbers of users.

    Shape: W estimates, int64 (W,).
    """
    place_N = rows["at"].to_numpy() * draws.users + rows["user"].to_numpy()

    def sums(name: str) -> np.ndarray:
        sums = np.bincount(place_N, rows[name].to_numpy(), minlength=windows * draws.users)
        return sums.reshape(windows, draws.users)

    count_WU = sums("count")
    value_W, drawn_DW = draws.ratios(sums("value"), count_WU)
    found = [Estimate(float(value), drawn_D) for value, drawn_D in zip(value_W, drawn_DW.T, strict=True)]
    return found, (count_WU > 0).sum(axis=1)
