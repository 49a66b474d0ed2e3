"""How often the report's sentence is right.

    python -m benchmarks.decision.run tables [--tables 5000]
    python -m benchmarks.decision.run worlds --first 6000 --worlds 150 [--keep 0.97] [--label L]

``tables``: figures made up event by event, without training; is the rule what it says (made_up.py)? ``worlds``:
the default chain in worlds whose truth is known (worlds.py).

A row does *harm* if its true value lies below the better baseline's by more than `MIN_GAIN_SD` standard deviations of
the reward, or if it is expected to keep less than `MIN_NDCG_RETAINED` of the ranking; in worlds both are measured on up
to ten times as many fresh events, each user counting alike. Errors are counted apart: harm that was shipped, of the
cases where some candidate does harm; and gains left unshipped, of the cases where a candidate that does no harm has a
true gain of twice the half-width of its interval, and of `MIN_GAIN_SD` at least. *Nothing* is shipped where a row's
true gain is below `MIN_GAIN_SD`, as confounded rewards make happen: no control sees them, random exposure does. Worlds
that have run under a label are kept (records.py) and not run again: the command then says what today's rule decides in
them.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
from scipy.stats import binomtest

from benchmarks.decision.made_up import made_up
from benchmarks.decision.records import cut, load
from benchmarks.decision.records import save as save_records
from benchmarks.decision.worlds import CANDIDATES, ROLES, kind_of, plan_of, truth_of
from benchmarks.lib import FOLDER, SCHEMA, beside_other_logs, commit, markdown, save
from recalign.data.sequences.audit import MIN_GAIN_SD
from recalign.evaluation.comparison import SCHEMA as ROW
from recalign.evaluation.comparison_table import ComparisonTable
from recalign.evaluation.decision import Decision, decide
from recalign.evaluation.findings import Outcome
from recalign.evaluation.sources import Sources
from recalign.files import read_json, write_json, write_text
from recalign.posttrain.base import KEEP
from recalign.recommender.interpolation import MIN_NDCG_RETAINED
from recalign.run.chain.command import run_chain

OUTCOMES = ("ship", "not decided", "do not ship")
CASES = FOLDER / "decision/worlds.csv"
COUNTS: tuple[str, ...] = (
    *OUTCOMES,
    "harmful",
    "harm shipped",
    "clear gains",
    "clear gains shipped",
    "nothing shipped",
)
COUNTS += ("no word rests on NaN",)
CASE: dict[str, Any] = {"label": pl.String, "kind": pl.String, "seed": pl.Int64, "keep": pl.Float64}
CASE |= dict.fromkeys(COUNTS, pl.Boolean) | dict.fromkeys(("policy", "because", "commit"), pl.String)
CASE |= dict.fromkeys(("gain", "kept"), pl.Float64)
"""Columns of `CASES`: a world, what is true of the row that the answer is about, and what was decided."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tables", "worlds"))
    parser.add_argument("--tables", type=int, default=5000)
    parser.add_argument("--worlds", type=int, default=60)
    parser.add_argument("--first", type=int, default=3000, help="seed of the first world")
    parser.add_argument("--keep", type=float, default=KEEP, help="the chain's keep; too low a one does harm")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--label", default="worlds", help="names the rows that are saved")
    given = parser.parse_args()
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        rows = of_tables(given, pool) if given.what == "tables" else of_worlds(given, pool)
    print(save(beside_other_logs(rows, "decision/tables"), "decision/tables"))


def of_tables(given: argparse.Namespace, pool: ProcessPoolExecutor) -> pl.DataFrame:
    """What is decided on made-up tables."""
    found = pl.DataFrame(list(pool.map(judged_table, range(given.tables), chunksize=50)))
    label, span = "made-up tables", f"0-{given.tables - 1}"
    by_reason = broken(found, label, span)
    print(markdown(by_reason, {"tables": "tables with such a row", "share shipped": "shipped it"}, digits=4))
    return pl.concat([shown(found, label, span), by_reason], how="vertical_relaxed")


def of_worlds(given: argparse.Namespace, pool: ProcessPoolExecutor) -> pl.DataFrame:
    """What is decided in worlds; those that the label does not know yet are run first."""
    records, seeds = load(given.label), range(given.first, given.first + given.worlds)
    missing = [seed for seed in seeds if seed not in records]
    if other := [seed for seed in seeds if seed in records and records[seed]["keep"] != given.keep]:
        raise SystemExit(f"{given.label}: world {other[0]} has run with keep {records[other[0]]['keep']}")
    run = partial(recorded, runs=given.runs / "verdicts" / given.label, keep=given.keep)
    records |= dict(zip(missing, pool.map(run, missing), strict=True))
    save_records(records, given.label)
    found = pl.DataFrame([judged(seed, record) for seed, record in sorted(load(given.label).items())])
    save_cases(found, given.label)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=60):
        print(found.filter(pl.col("harm shipped") | (pl.col("clear gains") > pl.col("clear gains shipped"))))
    return shown(found, given.label, f"{min(records)}-{max(records)}")


def shown(found: pl.DataFrame, label: str, seeds: str) -> pl.DataFrame:
    """`counted`, and printed."""
    rows = counted(found, label, seeds)
    print(markdown(rows, {name: name for name in COUNTS}, digits=0))
    return rows


def save_cases(found: pl.DataFrame, label: str) -> None:
    """Keep what was decided under a label, beside what was decided under others."""
    others = pl.read_csv(CASES, schema_overrides=CASE) if CASES.is_file() else pl.DataFrame(schema=CASE)
    own = found.with_columns(label=pl.lit(label)).select(*CASE)
    write_text(CASES, pl.concat([others.filter(pl.col("label") != label), own]).write_csv(float_precision=6))


def recorded(seed: int, runs: Path, keep: float) -> dict[str, Any]:
    """One world: its kind, what is true of its rows, and what the report knows; run where it is not kept."""
    file = runs / f"{seed}.json"
    if not file.is_file():
        plan = plan_of(seed, runs, keep)
        sources = Sources.of(run_chain(plan))
        record = {
            "kind": kind_of(seed),
            "keep": keep,
            "commit": commit(),
            "truth": {row.pop("method"): row for row in truth_of(plan, seed).to_dicts()},
            **cut(sources.comparison, sources.trust, sources.check),
        }
        write_json(file, record)
        for folder in (plan.folder, runs / f"world-{seed}"):
            shutil.rmtree(folder)
    return read_json(file)


def judged_table(seed: int) -> dict[str, Any]:
    """What was decided on a made-up table."""
    return judged(seed, made_up(seed))


def judged(seed: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """What was decided in one case, beside the truth."""
    frame = pl.DataFrame(record["rows"], schema=ROW, orient="row")
    test, validation = (ComparisonTable(frame, ROLES, split) for split in ("test", "validation"))
    decision = decide(test, validation, record["trust"], record["check"])
    assert decision is not None  # candidates were measured
    truth = record["truth"]
    value, ndcg = (max(truth[name][what] for name in ROLES.baselines) for what in ("value", "ndcg"))
    gains = {name: truth[name]["value"] - value for name in CANDIDATES}
    kept = {name: truth[name]["ndcg"] / ndcg for name in CANDIDATES}
    harmful = [name for name in CANDIDATES if gains[name] < -MIN_GAIN_SD or kept[name] < MIN_NDCG_RETAINED]
    clear = [
        name
        for name in CANDIDATES
        if name not in harmful and gains[name] >= max(MIN_GAIN_SD, 2 * half_width(test, name))
    ]
    shipped = decision.policy if decision.outcome is Outcome.SHIP else None
    return {
        "kind": record["kind"],
        "seed": seed,
        **{outcome: decision.outcome.text == outcome for outcome in OUTCOMES},
        "policy": decision.policy or "",
        "gain": gains.get(decision.policy or "", float("nan")),
        "kept": kept.get(decision.policy or "", float("nan")),
        "harmful": bool(harmful),
        "harm shipped": shipped in harmful,
        "nothing shipped": shipped is not None and gains[shipped] < MIN_GAIN_SD,
        "clear gains": bool(clear),
        "clear gains shipped": bool(clear) and shipped is not None and shipped not in harmful,
        "wrong": [reason for reasons in record.get("wrong", {}).values() for reason in reasons],
        "shipped although": record.get("wrong", {}).get(shipped, []),
        "no word rests on NaN": not rests_on_nan(decision),
        "because": next(finding.text for finding in decision.findings if finding.outcome is decision.outcome),
        "keep": record.get("keep"),
        "commit": record.get("commit", commit()),
    }


def half_width(test: ComparisonTable, name: str) -> float:
    """Of the interval of a row's gain; infinite where it is unknown."""
    gain = test.gain(name)
    return (gain.high - gain.low) / 2 if gain else float("inf")


def rests_on_nan(decision: Decision) -> bool:
    """Whether a reason holds a figure that is no number."""
    return any(re.search(r"\b(nan|None)\b", reason) for reason in decision.reasons)


def broken(found: pl.DataFrame, label: str, seeds: str) -> pl.DataFrame:
    """For each reason not to ship a row: in how many tables some candidate had it, and in how many that was shipped."""
    rows: list[tuple[object, ...]] = []
    for reason in sorted(found["wrong"].explode().drop_nulls().unique()):
        count, total = (int(found[name].list.contains(reason).sum()) for name in ("shipped although", "wrong"))
        low, high = binomtest(count, total).proportion_ci(method="exact")
        rows.append((label, f"shipped although: {reason}", "tables", float(total), None, None, None, seeds, commit()))
        ends = (count / total, None, low, high)
        rows.append((label, f"shipped although: {reason}", "share shipped", *ends, seeds, commit()))
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row", infer_schema_length=None)


def counted(found: pl.DataFrame, label: str, seeds: str) -> pl.DataFrame:
    """How many cases of each kind, and of all, have each of `COUNTS`; error rates have their 95 % interval.

    The interval is Clopper and Pearson's, of the share of harm shipped (of the harmful) and of clear gains shipped.
    """
    of = {"harm shipped": "harmful", "clear gains shipped": "clear gains"}
    rows: list[tuple[object, ...]] = []
    for kind, own in [*found.group_by("kind", maintain_order=True), (("all",), found)]:
        for metric in COUNTS:
            count, total = int(own[metric].sum()), int(own[of[metric]].sum()) if metric in of else len(own)
            ends: Sequence[float | None] = (None, None)
            if metric in of and total:
                ends = [total * end for end in binomtest(count, total).proportion_ci(method="exact")]
            made = " ".join(sorted({*own["commit"], commit()}))  # of the worlds, and of the rule
            rows.append((label, kind[0], metric, float(count), None, *ends, seeds, made))
    return pl.DataFrame(rows, schema=list(SCHEMA), orient="row", infer_schema_length=None)


if __name__ == "__main__":
    main()
