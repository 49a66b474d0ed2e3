"""`recalign monitor`: what has changed since a version was first served, and what to do about it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recalign.data.events import render
from recalign.data.events.audit import Section
from recalign.data.events.messages import did_you_mean
from recalign.data.events.reading import locate
from recalign.errors import InputError, require_positive
from recalign.evaluation.offpolicy import plain as plain_estimates
from recalign.files import read_json, write_json
from recalign.serve.feedback.feedback_command import COUNTS
from recalign.serve.feedback.joining import MISFITS, OVERDUE
from recalign.serve.loop.chances import ask, require_known
from recalign.serve.loop.monitoring import Rule, VersionReport, Window, compare_windows
from recalign.serve.loop.served import Served, UserHistories, open_bundle, read_rows, read_served, settings
from recalign.serve.server.bundle import Bundle, load_bundle
from recalign.serve.server.request import Explore

REMEDIES = {
    "unknown": "people choose what this version does not have: recalign items add, or recalign update",
    "list": "do outcomes still arrive, and are they joined (feedback.json)? If so and lists earn less: recalign update",
    "chosen": "look at how rewards are logged, their scale first; train nothing on them until that is known",
    "promised": "if rewards are logged as before, train the reward model anew before it is trusted: recalign update",
    "drift": "see which version, temperature and filters answer: what is served is not what it was",
}
"""What to do about an alarm."""


def monitor(words: list[str]) -> None:
    """Compare what a version shows, week by week, with what it showed first.

    Args:
        words: the command line after ``recalign monitor``.

    Raises:
        InputError: the run, the log or the settings cannot be used.
    """
    given = _options().parse_args(words)
    require_positive("", vars(given), "days", "reference")
    bundle, rows = open_bundle(given.run), read_rows(given.log)
    whole = rows.filter(pl.col("shown")).filter(pl.col("meets").all().over("decision"))
    versions = whole["version"].unique().sort().to_list()
    if bundle.version not in versions:
        what = f"{bundle.version} showed none of the lists; those are of {', '.join(versions) or 'nobody'}"
        raise InputError(what, where=str(given.log), remedy="name the run, or the bundle, that was served")
    predicted = None if given.predicted is None else _numbers(rows, given.predicted)
    rows = rows.drop("predicted", strict=False)
    if predicted is not None:
        rows = rows.with_columns(predicted=predicted)
    counts = _counts(rows)
    drift = None
    if given.start is not None:
        drift, counts["drift"] = drifts(open_bundle(given.start), read_served(given.log))
    known = {one.version: one.catalogue.ids for one in (bundle, *map(load_bundle, given.bundles))}
    found, short = compare_windows(rows, known, Rule(given.days, given.reference), drift)
    print(render(counts))
    for one in found:
        print(f"\n{report(one)}")
    for version, why in short.items():
        print(f"\nversion {version}: {why}")
    _, log, root = settings(given.log)
    beside = Path(locate(log, root)[0][0]).with_name(COUNTS)
    overdue = read_json(beside).get(MISFITS, {}).get(OVERDUE, 0)
    if not beside.is_file():
        print(f"\n{beside} is not there: nothing tells whether outcomes still arrive")
    elif overdue:
        print(
            f"\n{overdue:,} lists are in no window: their time has passed, but not at the newest outcome of the table."
        )
        print("See whether outcomes still arrive")
    if given.out is not None:
        write_json(given.out, {"log": counts, "too short": short, **{one.version: as_json(one) for one in found}})
    if given.strict and bundle.version in short:
        remedy = "wait, or give a shorter --reference or --days"
        raise InputError(f"{bundle.version}: {short[bundle.version]}", where=str(given.log), remedy=remedy)
    newest = {one.version: one.windows[-1] for one in found}
    waiting = overdue > sum(window.lists for window in newest.values())
    if given.strict and (waiting or (bundle.version in newest and newest[bundle.version].alarms)):
        sys.exit(1)


def _options() -> argparse.ArgumentParser:
    rule = Rule()
    parser = argparse.ArgumentParser(
        prog="recalign monitor", description="See what has changed since a version was first served, and what to do."
    )
    option = parser.add_argument
    option("run", type=Path, help="run folder of the served policy, whose bundle recalign export made, or the bundle")
    option("--log", type=Path, required=True, help="the feedback.yaml that recalign feedback --unshown wrote")
    option("--days", type=float, default=rule.days, help="of a window; default %(default)g")
    option("--reference", type=float, default=rule.reference, help="first days of a version; default %(default)g")
    option("--bundles", type=Path, nargs="+", default=[], help="other versions in the log: which items they know")
    option("--start", type=Path, help="bundle of the start: how far what is served is from it")
    option("--predicted", metavar="COLUMN", help="column of predicted rewards, in the table or of data.log.columns")
    option("--out", type=Path, help="JSON file for all figures")
    alarm = "exit with 1 if the newest window of the run's version has an alarm, or more lists wait for outcomes than "
    alarm += "the newest windows have"
    option("--strict", action="store_true", help=alarm)
    return parser


def _numbers(rows: pl.DataFrame, column: str) -> pl.Series:
    if column not in rows.columns:
        raise InputError(
            f"the table has no column {column!r}", where="--predicted", remedy=did_you_mean(column, rows.columns)
        )
    found = rows[column]
    if not found.dtype.is_numeric():
        remedy = "name a column of numbers, null where there is no prediction"
        raise InputError(f"the column {column!r} holds {found.dtype}", where="--predicted", remedy=remedy)
    return found.cast(pl.Float64).fill_nan(None)


def _counts(rows: pl.DataFrame) -> dict[str, Section]:
    shown = rows.filter("shown")
    whole = pl.col("meets").all().over("decision")
    versions = dict(shown.group_by("version").agg(pl.col("decision").n_unique()).sort("version").iter_rows())
    return {
        "log": {
            "lists": shown["decision"].n_unique(),
            "of these left out by `where`": shown.filter(~whole)["decision"].n_unique(),
            "outcomes of lists": shown.filter("chosen").height,
            "outcomes in no row of a list": rows.height - shown.height,
            "outcomes with a reward that nobody knows": rows.filter("chosen", pl.col("reward").is_null()).height,
        },
        "versions" + (" (mixed: each is compared with its own reference)" if len(versions) > 1 else ""): versions,
    }


def drifts(start: Bundle, served: Served) -> tuple[pl.DataFrame, Section]:
    """Of each list whose first item was drawn, log p - log p_start of that item, at the temperature of the draw.

    Returns:
        Columns ``decision`` and ``value``, and what was left out.

    Raises:
        InputError: the start has none of the items.
    """
    lists = served.lists.filter(arm="explored", fixed=0)
    if lists.height:
        require_known(start, lists)
    asked = ask(start, lists, UserHistories(served.events), [Explore(one) for one in lists["temperature"]])
    first = pl.Series([one[0] for one in asked.logp], dtype=pl.Float64)
    same = pl.Series(asked.hidden == lists["hidden"].to_numpy()) | (lists["seen"] != "exclude")
    value = lists["log_probs"].list.first() - first
    found = lists.select("decision", value=value).filter(same & first.is_finite())
    return found, {
        "lists whose first item was drawn": lists.height,
        "of these left out: another history than the server had": int((~same).sum()),
        "or of an item that the start does not have": int((same & ~first.is_finite()).sum()),
    }


def report(version: VersionReport) -> str:
    """A version's table, its alarms and what to do."""
    names = list(version.reference.changes)
    heads = ["window", "lists", "users", "items", *names, ""]
    table = [heads, [*_cells(version.reference, names), "reference"]]
    table += [[*_cells(window, names), window.status] for window in version.windows]
    widths = [max(len(row[n]) for row in table) for n in range(len(heads))]
    of = "" if version.catalogue is None else f", which knows {version.catalogue:,} items"
    lines = [f"{version.version}{of}; ± half a 95 % interval, * an alarm", ""]
    lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += ["", *(f"not computed: {name}: {why}" for name, why in version.left_out.items())]
    if version.rest:
        lines.append(f"left out: {version.rest:,} lists after the last whole window")
    alarms = [
        f"{window.dates}: {name} {change.before.value:.4g} -> {change.now.value:.4g} "
        f"(difference {change.difference.value:.4g}, {{:.4g}} .. {{:.4g}})\n  -> ".format(*change.difference.interval())
        + REMEDIES[name]
        for window in version.windows
        for name, change in window.alarms.items()
    ]
    tested = sum(window.status != "too few" for window in version.windows)
    return "\n".join([*lines, *(["", *alarms] if alarms else [f"no alarm in {tested} windows"])])


def _cells(window: Window, names: list[str]) -> list[str]:
    cells = [window.dates, f"{window.lists:,}", f"{window.users:,}", f"{window.items:,}"]
    for change in (window.changes[name] for name in names):
        low, high = change.now.interval()
        known = np.isfinite(change.now.value)
        cells.append(f"{change.now.value:.4g} ±{(high - low) / 2:.2g}{'*' * change.alarm}" if known else "-")
    return cells


def as_json(version: VersionReport) -> dict[str, Any]:
    """All figures of a version, for ``--out``."""
    windows = [_window_json(window, version.catalogue) for window in (version.reference, *version.windows)]
    return {"left_out": version.left_out, "rest": version.rest, "reference": windows[0], "windows": windows[1:]}


def _window_json(window: Window, catalogue: int | None) -> dict[str, Any]:
    names = ("dates", "begins", "ends", "lists", "users", "items", "status")
    found: dict[str, Any] = {name: getattr(window, name) for name in names}
    found["coverage"] = window.items / catalogue if catalogue else None
    for name, change in window.changes.items():
        if np.isfinite(change.now.value):
            tested = change.p is not None
            found |= plain_estimates(
                {name: change.now, **({f"{name}_difference": change.difference} if tested else {})}
            )
            found |= {f"{name}_p": change.p} if tested else {}
    return found
