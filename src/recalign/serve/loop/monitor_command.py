"""`recalign monitor`: report changes since a version was first served, and what to do about them."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import polars as pl

from recalign.data.events import render
from recalign.data.events.audit import Section
from recalign.data.events.reading import locate
from recalign.errors import InputError, require_positive
from recalign.files import atomic_write, read_json
from recalign.serve.feedback.feedback_command import COUNTS
from recalign.serve.feedback.joining import MISFITS, OVERDUE
from recalign.serve.loop.chances import ask, require_known
from recalign.serve.loop.monitoring import compare_windows
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
"""What to do about an alarm, by figure."""


def monitor(
    run: Path,
    log: Path,
    days: float = 7.0,
    reference: float = 14.0,
    bundles: list[Path] | None = None,
    start: Path | None = None,
    predicted: str | None = None,
    out: Path | None = None,
    strict: bool = False,
) -> None:
    """Report what has changed since a version was first served, and what to do.

    Args:
        run: the served policy: a run folder in which recalign export made a bundle, or the bundle.
        log: the feedback.yaml that recalign feedback --unshown wrote.
        days: length of a window, in days.
        reference: length of the reference, in days: the start of each version, with which its windows are compared.
        bundles: bundles of other versions in the log, such as [DIR], for the items that they know.
        start: bundle of the starting policy, to measure the drift of the served policy from it.
        predicted: column of predicted rewards, in the table or in data.log.columns.
        out: CSV file for all figures.
        strict: exit with 4 if the newest window of the run's version has an alarm, or if more lists are overdue for
            outcomes than the newest windows have.

    Raises:
        InputError: the run, the log or the settings cannot be used.
    """
    require_positive("", locals(), "days", "reference")
    bundle, rows = open_bundle(run), read_rows(log)
    versions = rows.filter("shown").filter(pl.col("meets").all().over("decision"))["version"].unique().sort().to_list()
    if bundle.version not in versions:
        what = f"no list in this log was shown by {bundle.version}; its versions: {', '.join(versions) or 'none'}"
        raise InputError(what, where=str(log), remedy="name the run, or the bundle, that was served")
    rows = _with_predictions(rows, predicted)
    counts, drift = _counts(rows), None
    if start is not None:
        drift, counts["drift"] = policy_drift(open_bundle(start), read_served(log))
    known = {one.version: one.catalogue.ids for one in (bundle, *map(load_bundle, bundles or []))}
    found, short = compare_windows(rows, known, days, reference, drift)
    print(render(counts))
    for version, one in found.items():
        print(f"\nversion {version}; ± half a 95 % interval, * an alarm\n\n{report(one.table)}\n")
        for figure, why in one.left_out.items():
            print(f"not computed: {figure}: {why}")
        if one.rest:
            print(f"left out: {one.rest:,} lists after the last whole window")
    for version, why in short.items():
        print(f"\nversion {version}: {why}")
    _, mapping, root = settings(log)
    beside = Path(locate(mapping, root)[0][0].place).with_name(COUNTS)
    overdue = read_json(beside).get(MISFITS, {}).get(OVERDUE, 0)
    if not beside.is_file():
        print(f"\n{beside} is missing: it is unknown whether outcomes still arrive")
    elif overdue:
        late = "their outcome window is over by now, but was not at the table's newest outcome"
        print(f"\n{overdue:,} lists are in no window: {late}.\nCheck whether outcomes still arrive")
    if out is not None:
        tables = [one.table.insert_column(0, pl.lit(version).alias("version")) for version, one in found.items()]
        with atomic_write(out) as path:
            pl.concat(tables).write_csv(path)
    if strict and bundle.version in short:
        remedy = "wait, or give a shorter --reference or --days"
        raise InputError(f"{bundle.version}: {short[bundle.version]}", where=str(log), remedy=remedy)
    newest = {version: one.table.filter(pl.col("window") == pl.col("window").max()) for version, one in found.items()}
    waiting = overdue > sum(window["lists"][0] for window in newest.values())
    if strict and (waiting or (bundle.version in newest and newest[bundle.version]["alarm"].any())):
        sys.exit(4)


def _with_predictions(rows: pl.DataFrame, column: str | None) -> pl.DataFrame:
    if column is None:
        return rows.drop("predicted", strict=False)
    kind = rows.schema.get(column)
    if kind is None or not kind.is_numeric():
        what = f"the table has no column {column!r}" if kind is None else f"the column {column!r} holds {kind}"
        raise InputError(what, where="--predicted", remedy="name a column of numbers; its cells may be empty")
    return rows.with_columns(predicted=pl.col(column).cast(pl.Float64).fill_nan(None))


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
            "outcomes with an unknown reward": rows.filter("chosen", pl.col("reward").is_null()).height,
        },
        "versions" + (" (mixed: each is compared with its own reference)" if len(versions) > 1 else ""): versions,
    }


def policy_drift(start: Bundle, served: Served) -> tuple[pl.DataFrame, Section]:
    """For each list whose first item was drawn, log p - log p_start of that item, at the draw's temperature.

    Returns:
        Columns ``decision`` and ``value``, and counts of the lists that were left out.

    Raises:
        InputError: the start knows none of the items.
    """
    lists = served.lists.filter(arm="explored", fixed=0)
    if lists.height:
        require_known(start, lists)
    logp, hidden = ask(start, lists, UserHistories(served.events), [Explore(one) for one in lists["temperature"]])
    first = pl.Series([one[0] for one in logp], dtype=pl.Float64)
    same = pl.Series(hidden == lists["hidden"].to_numpy()) | (lists["seen"] != "exclude")
    value = lists["log_probs"].list.first() - first
    return lists.select("decision", value=value).filter(same & first.is_finite()), {
        "lists whose first item was drawn": lists.height,
        "of these left out: another history than the server had": int((~same).sum()),
        "or of an item that the start does not have": int((same & ~first.is_finite()).sum()),
    }


def report(table: pl.DataFrame) -> str:
    """A version's windows as a text table, then its alarms with what to do."""
    lines = [["window", "lists", "users", "items", *table["figure"].unique(maintain_order=True), ""]]
    for (number,), rows in table.partition_by("window", as_dict=True, maintain_order=True).items():
        tested, alarm = rows["p"].count(), rows["alarm"].any()
        status = "alarm" if alarm else "no alarm" if tested else "too few" if number else "reference"
        cells = (
            f"{value:.4g} ±{(high - low) / 2:.2g}{'*' * alarm}" if math.isfinite(value) else "-"
            for value, low, high, alarm in rows.select("value", "low", "high", "alarm").iter_rows()
        )
        counts = (f"{rows[name][0]:,}" for name in ("lists", "users", "items"))
        lines.append([rows["dates"][0], *counts, *cells, status])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    found = ["  ".join(f"{x:>{width}}" for x, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for row in table.filter("alarm").iter_rows(named=True):
        change = "{dates}: {figure} {before:.4g} -> {value:.4g} (difference {difference:.4g}, {difference_low:.4g} .. "
        found += ["", (change + "{difference_high:.4g})").format(**row, before=row["value"] - row["difference"])]
        found.append(f"  -> {REMEDIES[row['figure']]}")
    return "\n".join(found)
