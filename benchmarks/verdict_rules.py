"""What another rule would decide in worlds that have run (verdict_records.py); nothing is trained.

    python benchmarks/verdict_rules.py [--label "default keep"]

``test``: the rule as it is. ``validation and test``: NDCG retained is read off both parts together, weighted by their
precision. ``unless they differ``: the test alone where the two differ by more than chance, as when taste drifts.
A rule that is chosen here has to be confirmed in worlds that nobody has opened. Beside them: by how much test and
validation overrate what is retained by the candidates that truly retain less than `FLOOR`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from statistics import fmean, stdev
from typing import Any

import polars as pl
from tables import commit, frame, markdown, save
from verdict_records import load
from verdict_worlds import CANDIDATES, ROLES
from verdicts import counted, judged

from recalign.evaluation.comparison import ALL
from recalign.evaluation.comparison import SCHEMA as ROW
from recalign.evaluation.comparison_table import ComparisonTable, Interval
from recalign.evaluation.roles import BEST
from recalign.evaluation.selection import FLOOR

ROW_BELOW = f"candidates that retain less than {FLOOR:.0%}"
SHOWN = ("ship", "harmful", "harm shipped", "clear gains", "clear gains shipped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="default keep", help="whose worlds")
    given = parser.parse_args()
    records, rows = load(given.label), []
    rules: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
        "test": dict,
        "validation and test": together,
        "validation and test, unless they differ": partial(together, unless_they_differ=True),
    }
    for rule, changed in rules.items():
        found = pl.DataFrame([judged(seed, changed(record)) for seed, record in sorted(records.items())])
        of_all = counted(found, given.label, f"{min(records)}-{max(records)}").filter(row="all")
        rows.append(of_all.with_columns(row=pl.lit(rule)).filter(pl.col("metric").is_in(SHOWN)))
    table, span = pl.concat(rows), f"{min(records)}-{max(records)}"
    print(markdown(table, {name: name for name in SHOWN}, digits=0))
    overrated = frame([(given.label, ROW_BELOW, *one, span, commit()) for one in errors(records.values())])
    print(markdown(overrated, {name: name for name in overrated["metric"]}, digits=3))
    print(save(pl.concat([table, overrated], how="vertical_relaxed"), "verdict_rules", "log", "row"))


def errors(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, float, float, None, None]]:
    """What each part says is retained less what truly is, in candidates that retain less than `FLOOR`: mean and sd."""
    found: dict[str, list[float]] = {"test": [], "validation": []}
    for record in records:
        rows, truth = pl.DataFrame(record["rows"], schema=ROW, orient="row"), record["truth"]
        best = max(truth[name]["ndcg"] for name in ROLES.baselines)
        for name in CANDIDATES:
            if (kept := truth[name]["ndcg"] / best) < FLOOR:
                for part, less in found.items():
                    if (said := ComparisonTable(rows, ROLES, part).retained_interval(name)) is not None:
                        less.append(said.value - kept)
    return [(f"{part} less truth", fmean(less), stdev(less), None, None) for part, less in found.items()]


def together(record: Mapping[str, Any], unless_they_differ: bool = False) -> dict[str, Any]:
    """A record whose test says of the NDCG that candidates retain what validation and test say together.

    Args:
        record: what the rule reads of a world.
        unless_they_differ: whether the test says it alone where the 95 % interval of the difference holds no 0.
    """
    frame = pl.DataFrame(record["rows"], schema=ROW, orient="row")
    test, validation = (ComparisonTable(frame, ROLES, split) for split in ("test", "validation"))
    base, metric = test.column(ALL)[str(test.better_baseline(ALL))].value, f"diff_{BEST}/{ALL}"
    new = {}
    for name in CANDIDATES:
        parts = [table.retained_interval(name) for table in (test, validation)]
        known = [part for part in parts if part is not None and part.high > part.low]
        if known and not (unless_they_differ and differ(known)):
            new[name] = [base * (end - 1) for end in precision_weighted(known)]
    rows = [
        row | dict(zip(("value", "ci_low", "ci_high"), new[row["method"]], strict=True))
        if row["split"] == "test" and row["metric"] == metric and row["method"] in new
        else row
        for row in frame.iter_rows(named=True)
    ]
    return {**record, "rows": rows}


def differ(parts: list[Interval]) -> bool:
    """Whether two independent estimates differ by more than chance (95 %)."""
    half = math.hypot(*((part.high - part.low) / 2 for part in parts))
    return len(parts) == 2 and abs(parts[0].value - parts[1].value) > half


def precision_weighted(parts: list[Interval]) -> Interval:
    """Independent estimates of one figure, each weighted by 1 / its squared half-width."""
    weights = [4 / (part.high - part.low) ** 2 for part in parts]
    value = sum(w * part.value for w, part in zip(weights, parts, strict=True)) / sum(weights)
    half = sum(weights) ** -0.5
    return Interval(value, value - half, value + half)


if __name__ == "__main__":
    main()
